"""Membership: who is alive, how loaded, and where.

`registry` is the pure state; `master` and `coordinator` are its two doors in the head; `stage_client` is a replica's
end, `hub` the view of whoever routes.
"""
