"""The control plane: turns `OmniPipeline` objects into pods on Kubernetes, or into local processes.

`commands` uses `controller` and `local`; both use `client` and `kube`; `planning` decides and `crd` has the types.
Imports point in that direction only. Nothing here imports torch or the worker.
"""
