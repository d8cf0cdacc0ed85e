"""Models as step pipelines: the protocol, its implementation by interception, batching, loading."""
