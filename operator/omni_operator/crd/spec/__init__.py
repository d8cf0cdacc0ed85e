"""The types of an `OmniPipeline`'s spec: what a user may write, with defaults and bounds.

This is the only description of the object: `crd.schema` generates the schema that the API server enforces from it, and
both backends read it. `crd.parsing` is the way in: it also checks `crd.rules`, which are about several fields at once.
Absent fields that have no default here have the worker's: the operator passes no flag, so its upgrade restarts no pod.
"""
