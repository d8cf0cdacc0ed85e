"""The data connection between a head and a replica: messages, both ends' queues, flow control, shared memory.

It must not know what requests mean or which replica to choose.
"""
