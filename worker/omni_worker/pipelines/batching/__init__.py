"""Runs model calls of many requests in one forward: keys, plans, merging, splitting, and the proof of the result.

`batches` is the entrance. This package knows calls and tensors; it must not know pipelines, prompts or requests.
"""
