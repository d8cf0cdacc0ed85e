"""Requests through the stages: `orchestrator` knows the flow, `stage_pool` the replicas, `balancers` the choice."""
