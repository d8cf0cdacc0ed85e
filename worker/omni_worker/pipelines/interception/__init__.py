"""Runs each request's own pipeline call, suspended at every model call, with its own copy of whatever it changes.

It says which call is pending and takes its result. Which calls run together is for `batching`.
"""
