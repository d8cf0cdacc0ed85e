"""Decisions about one pipeline: its processes and manifests, what to change, how to scale, and what the status says.

Pure: functions take what was observed, and the time if it matters, and return data. `controller` observes and executes.
"""
