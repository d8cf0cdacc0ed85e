"""Brings a replica's LoRA adapters to what the head wants, while its requests run.

Each adapter has a task of its own: one that takes long to download, or that requests still use, delays no other. Files
are downloaded and read in threads. The engine adds and removes layers between two steps.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from omni_worker.config.lora_source import LoraSource
from omni_worker.coordinator.loras import HeldLoras, LoraState, Phase, WantedLora, WantedLoras
from omni_worker.errors import CommandError

log = logging.getLogger(__name__)
POLL_SECONDS = 0.05  # while an adapter is read, or requests use one that is to be removed
RETRY_SECONDS = 15.0
MAX_RETRY_SECONDS = 600.0
CALL_SECONDS = 3600.0  # a call waits for the current step, which in request mode is a whole request
DOWNLOADS = 2
"""Adapters that are downloaded at one time."""
MAX_REASON = 500

Call = Callable[..., Awaitable[Sequence[Any]]]


class _NoRoom(CommandError):
    """The adapters that are held leave no room for another one."""


class LoraKeeper:
    """The adapters of one replica. All methods run in the event loop.

    own: those of the command line, which are loaded
    call: calls a method of the runners between two steps, and returns their results
    is_used: whether an accepted request has selected an adapter
    on_change: called with the new state after each change
    """

    def __init__(
        self,
        own: Sequence[LoraSource],
        call: Call,
        is_used: Callable[[str], bool],
        on_change: Callable[[HeldLoras], None],
    ) -> None:
        self._own = {lora.name: WantedLora(lora, "flag") for lora in own}
        self._call = call
        self._is_used = is_used
        self._on_change = on_change
        self._wanted = WantedLoras("", 0, (), 2**62)
        self._held = {lora.name: LoraState(lora, "flag", "loaded") for lora in own}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._changed = asyncio.Event()
        self._downloads = asyncio.Semaphore(DOWNLOADS)

    @property
    def state(self) -> HeldLoras:
        """What the replica reports."""
        return HeldLoras(self._wanted.head, self._wanted.version, tuple(self._held.values()))

    def want(self, wanted: WantedLoras) -> None:
        """Hold these adapters from now on, in addition to those of the command line. An older list is ignored."""
        if wanted.head == self._wanted.head and wanted.version <= self._wanted.version:
            return
        self._wanted = wanted
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
        for name in {*self._targets, *self._held}:
            following = self._tasks.get(name)
            if following is None or following.done():  # one that has just ended does not see the new list
                task = self._tasks[name] = asyncio.create_task(self._follow(name), name=f"LoRA {name}")
                task.add_done_callback(self._on_end)
        self._on_change(self.state)

    async def close(self) -> None:
        """Stop changing adapters."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    @property
    def _targets(self) -> dict[str, WantedLora]:
        """The adapters that must be held. The head's wish overrides the command line."""
        return self._own | {lora.source.name: lora for lora in self._wanted.loras}

    def _on_end(self, task: asyncio.Task[None]) -> None:
        self._tasks = {name: other for name, other in self._tasks.items() if other is not task}
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("the adapters are no longer followed", exc_info=error)

    async def _follow(self, name: str) -> None:
        """Bring an adapter to what is wanted of it, and return when it is there."""
        pause, attempt = RETRY_SECONDS, -1
        while True:
            target, held = self._targets.get(name), self._held.get(name)
            if held is not None and held.phase in ("loaded", "unloading"):
                if target is not None and target.source == held.source:
                    self._set(name, replace(held, phase="loaded", origin=target.origin, attempt=target.attempt))
                    return
                await self._unload(name, held)
                continue
            if target is None:
                if self._held.pop(name, None) is not None:
                    self._on_change(self.state)
                return
            if attempt != target.attempt:
                pause, attempt = RETRY_SECONDS, target.attempt
            changed = self._changed
            try:
                await self._load(target)
            except Exception as error:  # the engine and the libraries pass on anything
                phase, reason = _phase_of(error), _one_line(str(error)) or type(error).__name__
                log.warning("%s; it is tried again in %.0f s", reason, pause)
                self._set(name, replace(self._held[name], phase=phase, reason=reason[:MAX_REASON]))
                try:
                    await asyncio.wait_for(changed.wait(), pause)
                except TimeoutError:
                    pause = min(2 * pause, MAX_RETRY_SECONDS)

    async def _load(self, target: WantedLora) -> None:
        """Load an adapter. Raises LoadError, or _NoRoom."""
        source = target.source
        self._set(source.name, LoraState(source, target.origin, "loading", attempt=target.attempt))
        async with self._downloads:
            file = await asyncio.to_thread(source.find, self._wanted.max_bytes)
            self._make_room(source.name, file)
        try:
            await self._call("read_lora", source.name, str(file))
            while True:
                if all(await self._call("add_lora", source.name, source.scale, source.component)):
                    break
                await asyncio.sleep(POLL_SECONDS)
        except Exception:
            await self._call("remove_lora", source.name)  # some of several processes may have added it
            raise
        self._set(source.name, replace(self._held[source.name], phase="loaded"))

    def _make_room(self, name: str, file: Path) -> None:
        size, most = file.stat().st_size, self._wanted.max_bytes
        self._held[name] = replace(self._held[name], size=size)
        others = sum(lora.size for lora in self._held.values() if lora.phase in ("loading", "loaded", "unloading"))
        if others > most:
            left = max(0, most - others + size)
            raise _NoRoom(f"LoRA {name!r} has {size} bytes, and of the {most} for all adapters {left} are left")

    async def _unload(self, name: str, held: LoraState) -> None:
        """Remove an adapter, once no request uses it. Returns early if it is wanted again."""
        self._set(name, replace(held, phase="unloading"))
        while True:
            target = self._targets.get(name)
            if target is not None and target.source == held.source:
                return
            if not self._is_used(name) and all(await self._call("remove_lora", name)):
                break
            await asyncio.sleep(POLL_SECONDS)
        del self._held[name]
        self._on_change(self.state)

    def _set(self, name: str, state: LoraState) -> None:
        if self._held.get(name) != state:
            self._held[name] = state
            self._on_change(self.state)


def _one_line(text: str) -> str:
    """A text as the head accepts it: without line ends and other control characters."""
    return "".join(character if character.isprintable() else "?" for character in " ".join(text.split()))


def _phase_of(error: Exception) -> Phase:
    return "full" if isinstance(error, _NoRoom) else "failed"
