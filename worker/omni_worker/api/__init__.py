"""The HTTP API of a head: an app of routes that turn requests into calls of the orchestrator, and results into JSON.

One folder per kind of output: `images`, `chat`, `videos`; `state` shows replicas and requests. It must not choose
replicas or know sockets other than HTTP.
"""
