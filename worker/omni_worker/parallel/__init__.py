"""Several processes for one replica: rows of a batch over ranks, and a language model's layers over a chain of ranks.

It only divides work and gathers results. It knows neither requests nor schedulers.
"""
