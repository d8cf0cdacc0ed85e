"""Tests on a real Kubernetes node: pods run, Services route, GPUs are scheduled."""
