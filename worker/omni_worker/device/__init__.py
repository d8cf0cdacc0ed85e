"""Everything that depends on the device: dtypes, copies between GPU and host, and out-of-memory errors.

It must not know models or pipelines.
"""
