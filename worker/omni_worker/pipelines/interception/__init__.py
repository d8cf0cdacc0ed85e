"""Runs each request's own pipeline call and suspends it at every model call.

Contains the copies of the pipeline, its models and its timestep schedulers that each request needs, the step pipeline
that drives them, speculation and previews. It reports which call is pending and takes its result. It must not decide
which calls run together: `batching` does.
"""
