"""The command `omni`, the worker's subcommands, and the two kinds of process that `omni serve` runs: head, headless.

They put the other packages together. Nothing imports this package.
"""
