"""The /v1/audio routes: sound from a prompt."""
