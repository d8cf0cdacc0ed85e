"""A replica brings its adapters to the head's list: over failures, while requests use them, and within its bytes."""

import asyncio
from dataclasses import dataclass, field

import pytest

from omni_worker.config.lora_source import LoraSource
from omni_worker.coordinator.loras import WantedLora, WantedLoras
from omni_worker.errors import LoadError
from omni_worker.replica import lora_keeper
from omni_worker.replica.lora_keeper import LoraKeeper

from .data_connection import eventually


@dataclass
class Runner:
    """The calls of the runners. `gate` holds back what is read; `wrong` names adapters that do not fit."""

    loaded: dict[str, str] = field(default_factory=dict)
    read: dict[str, str] = field(default_factory=dict)
    wrong: set[str] = field(default_factory=set)
    gate: bool = True

    async def call(self, method, name, *args):
        if method == "read_lora":
            self.read[name] = args[0]
        elif method == "add_lora":
            if not self.gate:
                return [False]
            if name in self.wrong:
                raise LoadError(f"LoRA {name!r}: it does\nnot fit")
            self.loaded[name] = self.read.pop(name)
        else:
            self.loaded.pop(name, None)
        return [True]


class Replica:
    def __init__(self, folder, own=()):
        self.folder, self.runner, self.used, self.reports = folder, Runner(), set(), []
        self.keeper = LoraKeeper(own, self.runner.call, lambda name: name in self.used, self.reports.append)
        self.version = 0

    def lora(self, name, size=10):
        file = self.folder / f"{name}.safetensors"
        file.write_bytes(b"x" * size)
        return LoraSource(name, str(file))

    def want(self, *loras, max_bytes=1000, head="h"):
        self.version += 1
        self.keeper.want(WantedLoras(head, self.version, tuple(WantedLora(one, "api") for one in loras), max_bytes))

    @property
    def phases(self):
        return {state.source.name: state.phase for state in self.keeper.state.loras}

    async def until(self, **phases):
        await eventually(lambda: self.phases == phases)


@pytest.fixture
def in_replica(tmp_path, monkeypatch):
    def run(test, **options):
        async def main():
            replica = Replica(tmp_path, **options)
            try:
                await test(replica)
            finally:
                await replica.keeper.close()

        monkeypatch.setattr(lora_keeper, "POLL_SECONDS", 0.001)
        asyncio.run(main())

    return run


def test_it_loads_and_unloads_what_the_list_says(in_replica):
    async def test(replica):
        ink, oil = replica.lora("ink"), replica.lora("oil")
        replica.want(ink, oil)
        await replica.until(ink="loaded", oil="loaded")
        assert replica.runner.loaded == {"ink": ink.source, "oil": oil.source}
        assert (replica.reports[-1].head, replica.reports[-1].version) == ("h", 1)
        assert {state.size for state in replica.reports[-1].loras} == {10}
        replica.want(oil)
        await replica.until(oil="loaded")
        assert list(replica.runner.loaded) == ["oil"]
        replica.version = 0
        replica.want()
        await asyncio.sleep(0.02)
        assert replica.phases == {"oil": "loaded"}, "an older list changes nothing"
        replica.want(head="another")
        await replica.until()

    in_replica(test)


def test_a_list_that_comes_as_the_last_one_is_done_is_followed_too(in_replica):
    async def test(replica):
        done = asyncio.Event()
        replica.keeper._on_change = lambda state: done.set() if replica.phases == {"ink": "loaded"} else None
        replica.want(replica.lora("ink"))
        await done.wait()  # runs next after the task has ended, before what is to follow its end
        replica.want()
        await replica.until()

    in_replica(test)


def test_an_adapter_in_use_stays_until_its_requests_have_ended(in_replica):
    async def test(replica):
        ink = replica.lora("ink")
        replica.want(ink)
        await replica.until(ink="loaded")
        replica.used = {"ink"}
        replica.want()
        await replica.until(ink="unloading")
        assert replica.keeper.state.loaded == (), "nobody may select it any more"
        await asyncio.sleep(0.02)
        assert list(replica.runner.loaded) == ["ink"]
        replica.want(ink)
        await replica.until(ink="loaded")
        replica.want()
        await replica.until(ink="unloading")
        replica.used = set()
        await replica.until()
        assert not replica.runner.loaded

    in_replica(test)


def test_one_that_is_slow_or_fails_delays_no_other(in_replica):
    async def test(replica):
        replica.want(LoraSource("gone", str(replica.folder / "gone.safetensors")), replica.lora("ink"))
        await replica.until(gone="failed", ink="loaded")
        (gone,) = (state for state in replica.keeper.state.loras if state.source.name == "gone")
        assert "there is no file" in gone.reason
        replica.runner.wrong = {"oil"}
        replica.want(replica.lora("ink"), replica.lora("oil"))
        await replica.until(ink="loaded", oil="failed")
        (oil,) = (state for state in replica.keeper.state.loras if state.source.name == "oil")
        assert oil.reason == "LoRA 'oil': it does not fit", "in one line"
        replica.runner.wrong = set()
        replica.want(replica.lora("ink"), replica.lora("oil"))
        await replica.until(ink="loaded", oil="loaded")

    in_replica(test)


def test_it_is_tried_again_by_itself(in_replica, monkeypatch):
    monkeypatch.setattr(lora_keeper, "RETRY_SECONDS", 0.01)

    async def test(replica):
        replica.runner.wrong = {"ink"}
        replica.want(replica.lora("ink"))
        await replica.until(ink="failed")
        replica.runner.wrong = set()
        await replica.until(ink="loaded")

    in_replica(test)


def test_the_bytes_are_limited_together_and_one_by_one(in_replica):
    async def test(replica):
        ink, oil = replica.lora("ink", 60), replica.lora("oil", 60)
        replica.want(ink, max_bytes=100)
        await replica.until(ink="loaded")
        replica.want(ink, oil, max_bytes=100)
        await replica.until(ink="loaded", oil="full")
        (state,) = (one for one in replica.keeper.state.loras if one.phase == "full")
        assert state.reason == "LoRA 'oil' has 60 bytes, and of the 100 for all adapters 40 are left"
        replica.want(oil, max_bytes=100)
        await replica.until(oil="loaded")
        replica.want(oil, replica.lora("sand", 101), max_bytes=100)
        await replica.until(oil="loaded", sand="failed")

    in_replica(test)


def test_those_of_the_command_line_stay_and_another_source_replaces(in_replica, tmp_path):
    own = LoraSource("ink", "/first")

    async def test(replica):
        replica.runner.loaded["ink"] = "/first"
        replica.want()
        await replica.until(ink="loaded")
        other = LoraSource("ink", replica.lora("other").source)
        replica.want(other)
        await eventually(lambda: replica.runner.loaded == {"ink": other.source})
        await replica.until(ink="loaded")

    in_replica(test, own=[own])
