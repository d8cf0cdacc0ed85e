"""The operator's subcommands of `omni`, one module each: HELP, configure(parser), run(args) -> exit code.

They parse flags and print. What they do is elsewhere, so nothing imports this package.
"""
