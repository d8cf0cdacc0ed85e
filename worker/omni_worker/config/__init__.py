"""Flags and files, read once into frozen records.

Nothing outside this package reads flags or environment variables.
"""
