"""One replica: its process and server, the supervisor that starts it, and the head's client for it.

A replica runs requests on its engine and reports its state. It must not know the pipeline's other stages.
"""
