"""Moves bytes between processes: ZMQ sockets, the key pair of the shared secret, pooled shared memory.

It must not know the messages that it carries.
"""
