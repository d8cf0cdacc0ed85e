"""A one-node Kubernetes for machines without Docker; see __main__.py for its verbs, lifecycle.py for the order."""
