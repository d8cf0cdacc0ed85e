"""The command `omni bench`: sends load to one or two running pipelines through their API, and measures them."""
