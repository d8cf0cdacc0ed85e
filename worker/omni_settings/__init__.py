"""Settings that the object and the worker share: one set of types for the CRD, the manifest and `omni serve`.

The operator validates a manifest with them and passes them on, and the worker reads what it is passed with the same
types. Pure records. They know neither the operator nor the worker, and import nothing besides pydantic.
"""
