"""The operator at work: observe a pipeline, plan, apply, report; with its queue, pollers and kopf wiring.

It executes what `planning` decides. It must not decide itself, and it must not read flags.
"""
