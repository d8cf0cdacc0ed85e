"""Registries and numbered messages for the tests of membership."""

from itertools import count

from omni_worker.coordinator.messages import Register, ReplicaLoad, ReplicaState, Report
from omni_worker.coordinator.registry import Registry
from omni_worker.model_card import ModelCard

TIMEOUT = 30.0
CARD = ModelCard(pipeline="P", mode="step")
numbers = count(1)


def make_registry(timeout=TIMEOUT):
    return Registry({0: "digest", 1: "other digest"}, {0: "diffusion", 1: "diffusion"}, timeout)


def registration(uid="u", stage=0, address=None, digest=None, engine="diffusion", number=None):
    return Register(
        stage_id=stage,
        uid=uid,
        address=address or f"tcp://{uid}:1",
        engine=engine,
        digest=digest or {1: "other digest"}.get(stage, "digest"),
        card=CARD,
        count=next(numbers) if number is None else number,
    )


def report_of(replica, state=ReplicaState.UP, uid=None, number=None, answer=False, **load):
    number = next(numbers) if number is None else number
    return Report(
        replica.stage_id, replica.replica_id, uid or replica.uid, number, state, ReplicaLoad(**load), answer
    )  # fmt: skip


def add_replica(registry, uid="u", now=0.0, stage=0, address=None, **load):
    replica, _ = registry.register(registration(uid, stage, address), now)
    registry.report(report_of(replica, **load), now)
    return next(one for one in registry.replicas if one.uid == uid)
