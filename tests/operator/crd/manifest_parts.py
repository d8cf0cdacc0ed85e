"""Stages of manifests, for tables of cases."""

STAGE = {"name": "painter", "engine": "diffusion"}


PAINTER = {**STAGE, "input": "hidden-states"}


THINKER = {"name": "thinker", "engine": "autoregressive"}


ENCODER = {**THINKER, "task": "encode"}
