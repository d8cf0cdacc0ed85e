"""The embedded backend behind `omni up`: runs a Topology as processes on this machine.

`backend` starts, watches, restarts and stops the processes; `ports` and `gpus` choose what each one gets. Nothing here
may import the Kubernetes client, parse flags or print.
"""
