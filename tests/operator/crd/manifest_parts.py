"""Stages of manifests, for tables of cases."""

STAGE = {"name": "painter", "engine": "diffusion"}


PAINTER = {**STAGE, "input": "hidden-states"}


THINKER = {"name": "thinker", "engine": "autoregressive"}


ENCODER = {**THINKER, "task": "encode"}


EXTERNAL = {"name": "rewriter", "engine": "openai", "endpoint": {"url": "http://vllm:8000/v1", "model": "qwen"}}
