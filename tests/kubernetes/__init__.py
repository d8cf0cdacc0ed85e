"""Tests on a real Kubernetes: an API server, or a whole node."""
