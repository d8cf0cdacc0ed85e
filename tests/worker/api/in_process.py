"""The head's real app and orchestrator in the process of the test, over replicas that record what they are asked."""

import asyncio
import contextlib
from collections.abc import Sequence

import httpx
import numpy as np
from prometheus_client import CollectorRegistry
from starlette.testclient import TestClient

from omni_worker.api.app import create_app
from omni_worker.config.api import ApiConfig, Limits
from omni_worker.config.lora_source import LoraSource
from omni_worker.config.records import Stage
from omni_worker.coordinator.loras import HeldLoras, LoraState
from omni_worker.coordinator.messages import Replica, ReplicaState
from omni_worker.model_card import ModelCard
from omni_worker.orchestrator.balancers import make_balancer
from omni_worker.orchestrator.orchestrator import Orchestrator
from omni_worker.orchestrator.stage_pool import StagePool
from omni_worker.replica.wire.messages import Add, Partial, pack, unpack_to_replica
from omni_worker.requests import Completion, GeneratedText, GenerationParams, GenerationResult
from omni_worker.telemetry.metrics import HeadMetrics

PAINTER = ModelCard(
    pipeline="Painter", mode="step", negative_prompt=True, guidance=True, sized=True, size_multiple=8, steps=4
)
EDITOR = ModelCard(
    pipeline="Editor", mode="step", negative_prompt=True, guidance=True, sized=True, size_multiple=8, steps=4,
    image="several", needs_image=True, strength=True,
)  # fmt: skip
INPAINTER = ModelCard(pipeline="Inpainter", mode="step", sized=True, size_multiple=8, image="one", mask=True)
FILMER = ModelCard(
    pipeline="Filmer", mode="step", negative_prompt=True, guidance=True, sized=True, size_multiple=8, image="one",
    video=True, frames=5, frame_multiple=4, steps=4,
)  # fmt: skip
WRITER = ModelCard(pipeline="Writer", mode="generate", context_length=512)
WRITTEN = GeneratedText(text="a red three", tokens=[1, 2, 3])
COMPLETION = Completion(written=WRITTEN, finish_reason="stop", prompt_tokens=7)


class RecordingReplica:
    """A connection to a replica that answers every request, with a black image of its size or with `completion`.

    received: the parameters of its requests, as a replica decodes them
    gate: requests wait until it is set
    partials: sent before the result
    """

    def __init__(self, card: ModelCard) -> None:
        self.card = card
        self.received: list[GenerationParams] = []
        self.ids: list[str] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.completion = COMPLETION
        self.partials: list[GeneratedText] = []
        self.in_flight = 0

    def connect(self, address, on_connection, keys):
        """Stands for ReplicaClient's constructor."""
        return self

    async def generate(self, id, params, on_update, is_refusable=True, trace=None):
        message = unpack_to_replica([bytes(frame) for frame in pack(Add(id, params))])
        assert isinstance(message, Add)
        self.ids.append(message.id)
        self.received.append(message.params)
        await self.gate.wait()
        if self.card.mode == "generate":
            for piece in self.partials if params.stream else ():
                on_update(Partial(id, piece))
            return GenerationResult(completion=self.completion, steps=1)
        shape = (params.height or 32, params.width or 32, 3)
        return GenerationResult(images=[np.zeros((params.frames or 5, *shape) if self.card.video else shape, np.uint8)])

    def lose(self, message, reason="left"):
        pass

    async def hand_back(self):
        pass

    async def want_loras(self, wanted):
        self.wanted = wanted

    async def close(self):
        pass


class Head:
    """An app whose stages have one replica each, with these cards."""

    def __init__(self, cards: Sequence[ModelCard], limits: Limits | None = None, key_file: str | None = None) -> None:
        self.replicas = [RecordingReplica(card) for card in cards]
        pools = []
        for id, replica in enumerate(self.replicas):
            engine = "autoregressive" if replica.card.mode == "generate" else "diffusion"
            pool = StagePool(
                Stage(id, f"stage-{id}", engine),
                make_balancer("round-robin"),
                lambda key, uid: None,
                connect=replica.connect,
            )
            loras = [LoraState(LoraSource(name, f"/{name}"), "flag", "loaded") for name in replica.card.loras]
            up = Replica(
                stage_id=id,
                replica_id=0,
                uid="u",
                address="tcp://x:1",
                state=ReplicaState.UP,
                card=replica.card,
                loras=HeldLoras(loras=tuple(loras)),
            )
            pool.update(up)
            pools.append(pool)
        self.metrics = CollectorRegistry()
        self.orchestrator = Orchestrator(pools, HeadMetrics(self.metrics))
        self.app = create_app(
            self.orchestrator, "tiny", [], ApiConfig(limits=limits or Limits(), playground=False, key_file=key_file)
        )

    @property
    def received(self) -> list[GenerationParams]:
        """What the last stage's replica was asked for."""
        return self.replicas[-1].received

    def async_client(self) -> httpx.AsyncClient:
        """A client for several requests at one time."""
        return httpx.AsyncClient(transport=httpx.ASGITransport(self.app, False), base_url="http://head", timeout=30)


@contextlib.contextmanager
def client_of(head: Head):
    """A client of the app; a failure of the server is a 500, as it is for real clients."""
    with TestClient(head.app, raise_server_exceptions=False) as client:
        yield client
