"""The operator's commands, with a small real HTTP server, a real head, and real `omni up` processes."""
