"""Polls the heads of pipelines over HTTP: the load of stages that the operator scales, and the replicas inside heads.

A head belongs to a tenant, so nothing that it answers may stop the operator or delay other pipelines.
"""
