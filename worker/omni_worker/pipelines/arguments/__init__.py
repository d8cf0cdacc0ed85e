"""Converts requests to the arguments of a pipeline's `__call__`, and its output to results.

Contains the arguments, images and embeddings of a request, and results. It must not run a pipeline.
"""
