"""One replica: its process and server, its supervisor, and the head's client for it.

A replica runs requests on its engine and reports its state. It must not know the pipeline's other stages.
"""
