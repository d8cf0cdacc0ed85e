"""The command `omni`, the worker's subcommands, and the two kinds of process that `omni serve` runs: head, headless.

The commands compose a process from the other packages. No other package imports this one.
"""
