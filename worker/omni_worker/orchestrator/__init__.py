"""Runs a request through the stages: passes results between them, selects a replica of each, and retries on another.

It knows requests and replicas. It must not know HTTP, sockets or models.
"""
