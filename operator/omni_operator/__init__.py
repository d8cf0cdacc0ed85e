"""The control plane: turns an `OmniPipeline` into Kubernetes objects, or into local processes, and keeps it so."""
