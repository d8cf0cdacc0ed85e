"""HTTP itself: the server, its connections, and the bodies of requests, for every app that runs on it.

It must not know the routes of an app or who may use them.
"""
