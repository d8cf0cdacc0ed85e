"""The custom resource: its types, the rules across its fields, its status, and the schema generated from them.

Pure: no I/O, no clock, no randomness, and no decision about pods.
"""
