"""The HTTP API, as OpenAI defines it: one module a family of routes."""
