"""Decisions about one pipeline: its processes, its manifests, what to change, how to scale, what the status says.

Pure: every function takes what was observed, and the time where it matters, and returns data. `controller` executes it.
"""
