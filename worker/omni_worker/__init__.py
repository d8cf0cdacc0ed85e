"""The data plane: the serving stack in head and replica pods, from the HTTP API down to batched model calls.

`commands` start processes; below them are `api`, `orchestrator`, `replica`, `coordinator`, `engine`, `pipelines` and
`language`. Imports point downward only. Nothing here imports Kubernetes libraries or the operator.
"""
