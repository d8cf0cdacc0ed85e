"""/v1/chat/completions: its schemas, its responses, and its stream of chunks."""
