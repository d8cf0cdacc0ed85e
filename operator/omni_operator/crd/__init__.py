"""The custom resource: the types of its spec and status, the rules across its fields, and the generated schema.

Pure, except that `manifest_file` reads a file: no clock, no randomness, and no decision about pods. `parsing` turns a
manifest into a valid pipeline: it checks the types in `spec`, and then the `rules`, which the types do not know.
"""
