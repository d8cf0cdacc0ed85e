"""Several processes for one replica: rows of a batch over ranks, and a language model's layers over a chain of ranks.

It divides and gathers. It knows neither requests nor schedulers, so that the executor can be below or above it.
"""
