"""The only package that talks to the API server: a client over plain dictionaries, its errors, and its kubeconfig.

It knows kinds and verbs. It must not know what a pipeline means or decide what to write.
"""
