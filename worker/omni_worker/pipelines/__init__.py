"""Diffusion pipelines: loads them, and runs them step by step or whole.

`interception` suspends a pipeline at its model calls, `batching` merges the calls of many requests, and `arguments`
maps requests to a pipeline's own arguments. Nothing here knows queues, processes or sockets.
"""
