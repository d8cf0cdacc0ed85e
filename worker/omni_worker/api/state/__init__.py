"""A head's state over HTTP: its model, replicas and running requests, and the topology that the operator reads."""
