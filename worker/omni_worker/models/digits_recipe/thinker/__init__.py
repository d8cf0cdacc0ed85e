"""How the thinker of `builtin://digits` is made: a tiny causal language model that works a sum out for the painter.

"two plus five, in blue" becomes "a blue seven on black background", the painter's own caption; and the states from
which those tokens were predicted are, row for row, what the painter accepts as `prompt_embeds`.
`python -m omni_worker.models.digits_recipe.thinker.train` trains it against the painter in the package, whose weights
stay as they are. After the painter is trained again, the thinker must be too: its states speak to one painter only.
"""
