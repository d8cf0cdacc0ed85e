"""Who may send requests: API keys and their clients, and which web pages may reach a head on loopback.

It must not know what a request asks for.
"""
