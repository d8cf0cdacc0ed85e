"""The operator's subcommands of `omni`. Each is a module with HELP, configure(parser) and run(args) -> exit code.

They parse flags, call the packages below, and print. Nothing outside this package may import them.
"""
