"""Autoregressive models: loads them, and decodes many requests in one batch with a cache of its own.

It computes tokens and text. It knows no queues and no processes: those belong to `engine`.
"""
