"""The embedded backend behind `omni up`: runs a Topology as processes on this machine.

It starts, watches, restarts and stops processes, and assigns ports and GPUs. It knows no Kubernetes.
"""
