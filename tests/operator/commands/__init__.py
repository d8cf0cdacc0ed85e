"""The commands that look at a pipeline, against a small real HTTP server and a real head."""
