"""What the operator asks heads over HTTP, and what it keeps from their answers: loads, serving replicas, stage sizes.

A head belongs to a tenant, so nothing it answers may stop the operator or delay other pipelines.
"""
