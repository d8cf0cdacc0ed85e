"""The engine of one replica: add request, schedule, execute, update from output, until nothing is left.

`scheduler` decides (pure), `executor` reaches the processes (pure IPC), `runner` calls the models.
"""
