"""A pipeline's HTTP API as the commands use it: finds the endpoint, sends requests, reads answers and errors.

It must not print or parse flags; that is for `commands`.
"""
