"""How `builtin://digits` is made: a tiny, genuine Qwen-Image pipeline that paints handwritten digits on request.

`python -m omni_worker.models.digits_recipe.train` trains it from nothing and replaces the weights in the package.
The pictures come from scikit-learn's digits (1,797 scans of 8x8 pixels: the test part of UCI's "Optical Recognition of
Handwritten Digits" by E. Alpaydin and C. Kaynak, doi:10.24432/C50P49, licensed CC BY 4.0).
"""
