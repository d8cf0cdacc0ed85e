"""What the API server streams: one watch per kind and namespace, and the cache of objects that the watches fill.

Events only update the cache and put keys on the queue; nothing here decides or writes.
"""
