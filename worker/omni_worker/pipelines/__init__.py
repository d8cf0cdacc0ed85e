"""Loads diffusion pipelines, and runs them step by step (step mode) or request by request (request mode).

`interception` suspends a pipeline at its model calls, `batching` merges the calls of many requests, and `arguments`
maps requests to a pipeline's own arguments. This package must not know queues, processes or sockets.
"""
