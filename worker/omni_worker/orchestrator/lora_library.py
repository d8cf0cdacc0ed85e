"""The LoRA adapters of a pipeline at its head: which ones its replicas must hold, and which ones they hold.

An adapter comes from the manifest (`spec.stages[].loras`), or is added by a client at run time. The head sends the
whole list to every replica that goes by another one: when the list changes, and when a replica joins or restarts. A
head that restarts knows only the manifest's, and learns the others from the newest list that a replica still has.
"""

import asyncio
import contextlib
import logging
import secrets
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from omni_worker.config.api import LoraLimits
from omni_worker.config.lora_source import LoraSource
from omni_worker.config.records import Stage
from omni_worker.coordinator.loras import LoraState, Origin, Phase, WantedLora, WantedLoras
from omni_worker.coordinator.messages import Replica
from omni_worker.errors import RequestError
from omni_worker.orchestrator.member import Member
from omni_worker.orchestrator.stage_pool import StagePool

log = logging.getLogger(__name__)
RESEND_SECONDS = 5.0
MAX_NOTES = 1000


@dataclass(frozen=True)
class LoraStatus:
    """An adapter, over all replicas that are up and take adapters.

    phase: `loaded` if all of them have it; otherwise of the one with which most is wrong
    reason: why it could not be loaded there
    size: of its file, in bytes; 0 until known
    replicas: the names of those that have loaded it
    is_settled: whether nothing more will happen by itself soon
    """

    source: LoraSource
    origin: Origin
    phase: Phase
    reason: str | None
    size: int
    replicas: tuple[str, ...]
    is_settled: bool


class LoraLibrary:
    """The adapters of the stages of `pools`. `run` sends them to the replicas."""

    def __init__(self, pools: Sequence[StagePool], limits: LoraLimits | None = None) -> None:
        self._head = secrets.token_hex(8)
        self._pools = pools
        self._limits = limits or LoraLimits()
        self._version = 0
        self._spec: dict[int, dict[str, LoraSource]] = {}
        self._added: dict[str, WantedLora] = {}
        self._learned: dict[str, WantedLora] = {}
        self._learned_from = (0, "")
        self._removed: dict[str, str] = {}  # by name: why
        self._users: Counter[str] = Counter()
        self._used_at: dict[str, float] = {}
        self._sent: WeakKeyDictionary[Member, tuple[int, float]] = WeakKeyDictionary()
        self._changed, self._reported = asyncio.Event(), asyncio.Event()
        self._sending: set[asyncio.Task[None]] = set()

    # ---- what replicas must hold

    def set_spec(self, loras: Mapping[int, Sequence[LoraSource]]) -> None:
        """The adapters of the manifest, by stage id. They replace those that clients added under the same names."""
        spec = {stage: {lora.name: lora for lora in those} for stage, those in loras.items() if those}
        if spec != self._spec:
            self._spec = spec
            self._change()

    def add(self, source: LoraSource) -> None:
        """Have all replicas load an adapter, which replaces one that was added under the same name. One that has failed
        is tried again.

        Raises RequestError if the pipeline takes none, has this name from elsewhere, or has no room.
        """
        self._require_runtime(source.name)
        if not any(member.replica.card.takes_loras for pool in self._pools for member in pool.members):
            raise RequestError("invalid", "no replica of this pipeline takes LoRA adapters now")
        before = self._runtime.get(source.name)
        if before is not None and before.source == source and self.status(source.name).phase in ("loaded", "loading"):
            return
        if before is None:
            while len(self._runtime) >= self._limits.count:
                if not self._evict(f"to make room for {source.name!r}"):
                    message = f"all {self._limits.count} LoRA adapters that can be added are in use (--max-loras)"
                    raise RequestError("busy", message)
        self._removed.pop(source.name, None)
        self._used_at[source.name] = time.monotonic()
        self._added[source.name] = WantedLora(source, "api", 0 if before is None else before.attempt + 1)
        self._change()

    def remove(self, name: str) -> None:
        """Have all replicas unload an adapter, after the requests that use it. Raises RequestError, as `add` does."""
        self._require_runtime(name)
        self._drop(name, "it was removed")

    def wanted(self, stage: Stage) -> WantedLoras:
        """The adapters that the replicas of a stage must hold: one that encodes has those of the stage after it."""
        spec = dict(self._spec.get(stage.id, {}))
        if stage.task == "encode":
            stages = [pool.stage for pool in self._pools]
            following = stages[stages.index(stage) + 1 :][:1]
            spec = {name: lora for one in following for name, lora in self._spec.get(one.id, {}).items()} | spec
        loras = {name: WantedLora(lora, "spec") for name, lora in spec.items()}
        return WantedLoras(
            self._head, self._version, tuple({**self._runtime, **loras}.values()), self._limits.total_bytes
        )

    @property
    def _runtime(self) -> dict[str, WantedLora]:
        """The adapters that clients added."""
        learned = {name: lora for name, lora in self._learned.items() if name not in self._removed}
        from_spec = self._spec_names
        return {name: lora for name, lora in {**learned, **self._added}.items() if name not in from_spec}

    @property
    def _spec_names(self) -> set[str]:
        """The adapters of the manifest, of any stage."""
        return {name for loras in self._spec.values() for name in loras}

    def _require_runtime(self, name: str) -> None:
        """Raises RequestError if an adapter is not one that clients add and remove."""
        if name in self._spec_names:
            message = f"the manifest has the LoRA {name!r}: change spec.stages[].loras"
            raise RequestError("invalid", f"name: {message}", "name")
        if any(state.origin == "flag" for _, _, state in self._states(name)):
            message = f"the LoRA {name!r} is on the command line of a replica (--lora)"
            raise RequestError("invalid", f"name: {message}", "name")

    def _change(self) -> None:
        self._version = max(self._version + 1, time.time_ns() // 1_000_000)
        self._changed.set()
        self._wake_callers()

    def _wake_callers(self) -> None:
        reported, self._reported = self._reported, asyncio.Event()
        reported.set()

    def _drop(self, name: str, why: str) -> None:
        self._added.pop(name, None)
        while len(self._removed) >= MAX_NOTES:
            del self._removed[next(iter(self._removed))]
        self._removed[name] = why
        self._used_at.pop(name, None)
        self._change()

    def _evict(self, why: str, keep: str = "") -> bool:
        """Remove an adapter that no request uses: one that failed, or the one that was used longest ago."""
        unused = [name for name in self._runtime if not self._users[name] and name != keep]
        if not unused:
            return False
        has_failed = {name: self.status(name).phase in ("failed", "full") for name in unused}
        name = min(unused, key=lambda name: (not has_failed[name], self._used_at.get(name, 0.0)))
        log.info("removing LoRA %s, which no request uses, %s", name, why)
        self._drop(name, f"it was removed {why}; add it again")
        return True

    # ---- what replicas hold

    @property
    def names(self) -> list[str]:
        """All adapters, loaded or not, sorted."""
        members = [member for pool in self._pools for member in pool.members]
        held = {state for member in members for state in member.replica.loras.loras if state.phase != "unloading"}
        held_names = {state.source.name for state in held} - self._removed.keys()
        return sorted(held_names | self._runtime.keys() | self._spec_names)

    def status(self, name: str) -> LoraStatus:
        """The state of one of `names`."""
        states = list(self._states(name))
        wanted = {
            pool.stage.id: next((lora for lora in self.wanted(pool.stage).loras if lora.source.name == name), None)
            for pool in self._pools
        }
        own = next((lora for lora in wanted.values() if lora is not None), None)
        phases: list[Phase] = []
        loaded, missing, is_settled = [], 0, True
        for pool in self._pools:
            for member in pool.up:
                if not member.replica.card.takes_loras or (own is not None and wanted[pool.stage.id] is None):
                    continue
                state = next((state for _, one, state in states if one is member), None)
                if state is None or not _answers(state, wanted[pool.stage.id]):
                    missing += own is not None
                    continue
                phases.append(state.phase)
                is_settled &= state.phase == "loaded" or (
                    state.phase in ("failed", "full") and member.replica.loras.version == self._version
                )
                if state.phase == "loaded":
                    loaded.append(f"{pool.stage.name}-{member.name}")
        worst: list[Phase] = [phase for phase in ("failed", "full", "loading", "unloading") if phase in phases]
        phase: Phase = worst[0] if worst else "loading" if missing or not phases else "loaded"
        reasons = (state.reason for _, _, state in states if state.phase == phase and state.reason)
        first = own or WantedLora(states[0][2].source, states[0][2].origin) if own or states else None
        if first is None:
            raise KeyError(name)
        return LoraStatus(
            first.source,
            first.origin,
            phase,
            next(reasons, None),
            max((state.size for _, _, state in states), default=0),
            tuple(loaded),
            is_settled and not missing and bool(phases),
        )

    async def wait(self, name: str, seconds: float) -> LoraStatus:
        """The state of an adapter when all replicas have loaded it or failed to, or after this time.

        Raises RequestError if it is removed meanwhile.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while name in self.names and not self.status(name).is_settled:
                    await self._reported.wait()
        if name not in self.names:
            raise RequestError("invalid", f"name: {self.why_unusable(name)}", "name")
        return self.status(name)

    def why_unusable(self, name: str) -> str | None:
        """Why no request can select an adapter; None if it is loaded somewhere, or is being loaded."""
        if name not in self.names:
            return f"there is no LoRA {name!r}" + (f": {self._removed[name]}" if name in self._removed else "")
        status = self.status(name)
        if status.phase in ("failed", "full") and not status.replicas:
            return f"the LoRA {name!r} could not be loaded: {status.reason}"
        return None

    @contextlib.contextmanager
    def using(self, names: Iterable[str]) -> Iterator[None]:
        """While a request uses these adapters. They are not removed to make room for others."""
        used = list(names)
        self._users.update(used)
        try:
            yield
        finally:
            self._users.subtract(used)
            self._used_at.update(dict.fromkeys(self._runtime.keys() & used, time.monotonic()) if used else {})

    def on_replicas(self, changed: Iterable[Replica]) -> None:
        """Learn what replicas hold, after they have been passed to the pools."""
        for replica in changed:
            held = replica.loras
            if held.head not in ("", self._head) and (held.version, held.head) > self._learned_from:
                self._learn((held.version, held.head), held.loras)
            if any(state.phase == "full" for state in held.loras) and (held.head, held.version) == (
                self._head,
                self._version,
            ):
                full = next(state.source.name for state in held.loras if state.phase == "full")
                self._evict(f"to make room for {full!r}", keep=full)
            if self._is_outdated(replica):
                self._changed.set()
        self._wake_callers()

    async def run(self) -> None:
        """Send the list to every replica that goes by another one, until cancelled."""
        while True:
            self._changed.clear()
            for pool in self._pools:
                outdated = [member for member in pool.members if self._is_outdated(member.replica)]
                for member in outdated:
                    version, sent_at = self._sent.get(member, (-1, 0.0))
                    if version != self._version or time.monotonic() - sent_at > RESEND_SECONDS:
                        self._sent[member] = self._version, time.monotonic()
                        task = asyncio.create_task(member.client.want_loras(self.wanted(pool.stage)))
                        self._sending.add(task)
                        task.add_done_callback(self._sending.discard)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(RESEND_SECONDS):
                    await self._changed.wait()

    def _is_outdated(self, replica: Replica) -> bool:
        is_needed = bool(self._version) or replica.loras.head != ""
        is_current = (replica.loras.head, replica.loras.version) == (self._head, self._version)
        return replica.card.takes_loras and is_needed and not is_current

    def _learn(self, list_: tuple[int, str], states: Sequence[LoraState]) -> None:
        """Take over what clients had added to an earlier head."""
        learned = {
            state.source.name: WantedLora(state.source, "api", state.attempt)
            for state in states
            if state.origin == "api" and state.phase != "unloading"
        }
        self._learned_from = list_
        if learned != self._learned:
            self._learned = learned
            self._change()

    def _states(self, name: str) -> Iterator[tuple[StagePool, Member, LoraState]]:
        for pool in self._pools:
            for member in pool.members:
                for state in member.replica.loras.loras:
                    if state.source.name == name:
                        yield pool, member, state


def _answers(state: LoraState, wanted: WantedLora | None) -> bool:
    """Whether a replica's state is about what is wanted now, and not about what was wanted before."""
    return wanted is None or (state.source == wanted.source and state.attempt == wanted.attempt)
