"""Stage pools with fake connections, for the tests of routing."""

import asyncio
import functools

from omni_worker.config.records import Stage
from omni_worker.coordinator.loras import HeldLoras
from omni_worker.coordinator.messages import Replica, ReplicaLoad, ReplicaState
from omni_worker.model_card import ModelCard
from omni_worker.orchestrator.balancers import make_balancer
from omni_worker.orchestrator.stage_pool import StagePool

CARD = ModelCard(pipeline="P", mode="step")
NO_LORAS = HeldLoras()


def replica(number=0, state=ReplicaState.UP, uid=None, stage=0, card=CARD, loras=NO_LORAS, **load):
    return Replica(
        stage_id=stage,
        replica_id=number,
        uid=uid or f"u{number}",
        address=f"tcp://nowhere:{number}",
        state=state,
        card=card,
        load=ReplicaLoad(**load),
        loras=loras,
    )


class Connection:
    """The part of a ReplicaClient that a pool uses. `break_off` and `reopen` are what the network does."""

    def __init__(self, address, on_connection, keys):
        self.address, self._on_connection = address, on_connection
        self.lost, self.handed_back, self.in_flight, self.is_closed = [], 0, 0, False
        self.wanted = None

    def break_off(self):
        self._on_connection(False)

    def reopen(self):
        self._on_connection(True)

    def lose(self, message, reason="left"):
        self.lost.append(reason)

    async def hand_back(self):
        self.handed_back += 1

    async def want_loras(self, wanted):
        self.wanted = wanted

    async def close(self):
        self.is_closed = True


def pool_of(count, policy="least-queue-length", on_lost=lambda key, uid: None):
    pool = StagePool(Stage(0, "painter"), make_balancer(policy), on_lost, connect=Connection)
    for number in range(count):
        pool.update(replica(number))
    return pool


def numbers(members):
    return [member.replica.replica_id for member in members]


def in_loop(test):
    """Run a coroutine function as a test."""

    @functools.wraps(test)
    def run(*args, **kwargs):
        asyncio.run(asyncio.wait_for(test(*args, **kwargs), 20))

    return run
