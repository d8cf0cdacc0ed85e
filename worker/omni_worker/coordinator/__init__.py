"""Membership: which replicas are alive, how loaded they are, and where they listen.

`registry` is the pure state. `coordinator` is the service in the head, `stage_client` the replica's client for it, and
`hub` the subscriber that the head routes by. It must not know requests or engines.
"""
