"""The command `omni bench`: loads one or two running pipelines through their API, as any client does, and measures."""
