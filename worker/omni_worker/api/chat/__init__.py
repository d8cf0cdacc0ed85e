"""/v1/chat/completions: its request and response schemas, its responses, and its stream of chunks."""
