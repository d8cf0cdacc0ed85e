"""Bytes between processes: ZMQ sockets, the shared secret and its keys, pooled shared memory.

It moves messages and knows none of them.
"""
