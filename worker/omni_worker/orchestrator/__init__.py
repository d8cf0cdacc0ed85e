"""Runs one request through the stages: hands over between them, chooses a replica of each, and retries elsewhere.

It knows requests and replicas. It must not know HTTP, sockets or models.
"""
