"""Tests of the operator against a real API server; no pod runs."""
