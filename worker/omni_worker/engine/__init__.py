"""The engine of one replica: add request → schedule → execute → update from output, until nothing is left.

`scheduler` decides what runs (pure), `executor` talks to the worker processes (pure IPC), `runner` calls the models.
`engine` is the loop around them, `build` makes an engine from its configuration, `library` runs one without server.
"""
