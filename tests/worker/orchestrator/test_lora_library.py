"""The adapters of a pipeline at its head: who gets which, what a restarted head learns, what makes room, who waits."""

import asyncio

import pytest
from msgspec.structs import replace

from omni_worker.config.api import LoraLimits
from omni_worker.config.lora_source import LoraSource
from omni_worker.config.records import Stage
from omni_worker.coordinator.loras import HeldLoras, LoraState, WantedLora
from omni_worker.coordinator.messages import ReplicaState
from omni_worker.errors import RequestError
from omni_worker.orchestrator.balancers import make_balancer
from omni_worker.orchestrator.lora_library import LoraLibrary
from omni_worker.orchestrator.run_history import RunHistory
from omni_worker.orchestrator.stage_pool import StagePool

from .pools import CARD, Connection, in_loop, replica

INK, OIL, SAND = (LoraSource(name, f"hf://org/{name}") for name in ("ink", "oil", "sand"))
TAKES = replace(CARD, takes_loras=True)


class Fleet:
    """A stage with a library, and replicas that hold what `report` says."""

    def __init__(self, count=1, limits=None):
        self.pool = StagePool(
            Stage(0, "painter"), make_balancer("round-robin"), lambda key, uid: None, connect=Connection
        )
        self.library = LoraLibrary([self.pool], limits)
        for number in range(count):
            self.put(replica(number, card=TAKES))

    def put(self, one):
        self.pool.update(one)
        self.library.on_replicas([one])

    def report(self, number=0, failed=(), full=(), loading=(), size=1, wanted=None, origin=None):
        """Replica `number` has got the list, and holds all of it that is not named here."""
        wanted = wanted or self.library.wanted(self.pool.stage)
        phases = dict.fromkeys(failed, "failed") | dict.fromkeys(full, "full") | dict.fromkeys(loading, "loading")
        states = [self.state(lora, phases.get(lora.source.name, "loaded"), size) for lora in wanted.loras]
        held = HeldLoras(wanted.head, wanted.version, tuple(states))
        self.put(replica(number, card=replace(TAKES, loras=held.loaded), loras=held))

    @staticmethod
    def state(lora: WantedLora, phase, size):
        reason = "no such repository" if phase in ("failed", "full") else None
        return LoraState(lora.source, lora.origin, phase, size, reason, lora.attempt)

    def wanted_at(self, number):
        wanted = self.pool.members[number].client.wanted
        return None if wanted is None else [(lora.source.name, lora.origin) for lora in wanted.loras]

    async def sent(self, check):
        """Let the library send until `check` is true."""
        task = asyncio.create_task(self.library.run())
        try:
            while True:
                await asyncio.sleep(0.01)
                if check():
                    return
        finally:
            task.cancel()


@in_loop
async def test_every_replica_gets_the_list_and_so_does_one_that_joins_or_restarts_later():
    fleet = Fleet(2)
    fleet.library.set_spec({0: [INK]})
    fleet.library.add(OIL)
    both = [("oil", "api"), ("ink", "spec")]
    await fleet.sent(lambda: fleet.wanted_at(0) == fleet.wanted_at(1) == both)
    fleet.report(0)
    fleet.report(1)
    fleet.put(replica(2, card=TAKES))
    await fleet.sent(lambda: fleet.wanted_at(2) == both)
    fleet.put(replica(0, ReplicaState.DOWN, card=TAKES))
    fleet.put(replica(0, uid="again", card=TAKES))
    await fleet.sent(lambda: fleet.wanted_at(0) == both)


@in_loop
async def test_nothing_is_sent_where_there_is_no_adapter_or_none_is_taken():
    fleet = Fleet(1)
    fleet.put(replica(1))
    fleet.library.on_replicas([])
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(fleet.sent(lambda: fleet.wanted_at(0) is not None), 0.1)
    fleet.library.add(INK)
    await fleet.sent(lambda: fleet.wanted_at(0) is not None)
    assert fleet.wanted_at(1) is None


@in_loop
async def test_an_edit_of_the_manifest_changes_the_list():
    fleet = Fleet()
    fleet.library.set_spec({0: [INK]})
    fleet.report()
    fleet.library.set_spec({0: [OIL]})
    await fleet.sent(lambda: fleet.wanted_at(0) == [("oil", "spec")])
    assert fleet.library.status("oil").phase == "loading"
    fleet.report()
    assert fleet.library.names == ["oil"]


@in_loop
async def test_a_head_that_restarts_learns_from_the_newest_list_of_a_replica():
    before = Fleet(1)
    before.library.set_spec({0: [INK]})
    before.library.add(OIL)
    stale = before.library.wanted(before.pool.stage)
    before.library.add(SAND)
    before.library.remove("oil")
    newest = before.library.wanted(before.pool.stage)

    after = Fleet(0)
    after.library.set_spec({0: [INK]})
    after.report(0, wanted=stale)
    assert after.library.names == ["ink", "oil"]
    after.report(1, wanted=newest)
    await after.sent(lambda: after.wanted_at(0) == after.wanted_at(1) == [("sand", "api"), ("ink", "spec")])
    after.library.remove("sand")
    after.report(0, wanted=stale)
    await after.sent(lambda: after.wanted_at(0) == [("ink", "spec")])


@in_loop
async def test_the_one_that_was_unused_the_longest_makes_room():
    fleet = Fleet(limits=LoraLimits(count=2))
    fleet.library.add(INK)
    fleet.library.add(OIL)
    fleet.report()
    with fleet.library.using(["ink"]):
        fleet.library.add(SAND)
        assert fleet.library.names == ["ink", "sand"]
        assert "to make room for 'sand'; add it again" in fleet.library.why_unusable("oil")
        with fleet.library.using(["sand"]), pytest.raises(RequestError, match="in use") as raised:
            fleet.library.add(OIL)
        assert raised.value.kind == "busy"


@in_loop
async def test_where_bytes_are_short_another_one_makes_room_as_long_as_there_is_one():
    fleet = Fleet()
    fleet.library.add(INK)
    fleet.report()
    fleet.library.add(OIL)
    fleet.report(full=["oil"])
    assert fleet.library.names == ["oil"]
    fleet.report(full=["oil"])
    status = await fleet.library.wait("oil", 5)
    assert (status.phase, status.reason) == ("full", "no such repository")


@in_loop
async def test_the_caller_waits_until_all_have_it_and_is_told_why_one_has_not():
    fleet = Fleet(2)
    fleet.library.add(INK)
    waiting = asyncio.create_task(fleet.library.wait("ink", 60))
    fleet.report(0)
    await asyncio.sleep(0.01)
    assert not waiting.done()
    fleet.report(1, failed=["ink"])
    status = await waiting
    assert (status.phase, status.reason, status.replicas) == ("failed", "no such repository", ("painter-0",))
    assert fleet.library.why_unusable("ink") is None, "one replica has it"
    fleet.report(0, failed=["ink"])
    assert fleet.library.why_unusable("ink") == "the LoRA 'ink' could not be loaded: no such repository"
    fleet.library.add(INK)
    assert fleet.library.status("ink").phase == "loading", "asked again, it is tried again"
    assert (await fleet.library.wait("ink", 0.01)).phase == "loading"
    fleet.report(0)
    fleet.report(1)
    assert (await fleet.library.wait("ink", 60)).replicas == ("painter-0", "painter-1")


@in_loop
async def test_what_the_manifest_or_a_command_line_names_is_not_changed_at_run_time():
    fleet = Fleet()
    fleet.library.set_spec({0: [INK]})
    own = HeldLoras(loras=(LoraState(OIL, "flag", "loaded"),))
    fleet.put(replica(0, card=replace(TAKES, loras=("oil",)), loras=own))
    for change in (fleet.library.add, lambda lora: fleet.library.remove(lora.name)):
        with pytest.raises(RequestError, match=r"spec.stages\[\].loras"):
            change(INK)
        with pytest.raises(RequestError, match="--lora"):
            change(OIL)
    with pytest.raises(RequestError, match="no replica of this pipeline takes"):
        Fleet(0).library.add(INK)


@in_loop
async def test_a_stage_that_encodes_holds_the_adapters_of_the_one_it_encodes_for():
    encoder = StagePool(Stage(1, "encoder", "autoregressive", "encode"), make_balancer("random"), lambda *_: None)
    painter = StagePool(Stage(0, "painter"), make_balancer("random"), lambda *_: None)
    library = LoraLibrary([encoder, painter])
    library.set_spec({0: [INK], 1: [OIL]})
    assert {lora.source.name for lora in library.wanted(encoder.stage).loras} == {"ink", "oil"}
    assert {lora.source.name for lora in library.wanted(painter.stage).loras} == {"ink"}


@in_loop
async def test_a_request_goes_where_its_adapter_is_and_waits_while_it_is_loaded():
    fleet = Fleet(2)
    fleet.library.add(INK)
    fleet.report(0, loading=["ink"])
    fleet.report(1, loading=["ink"])
    picking = asyncio.create_task(fleet.pool.pick(RunHistory(adapters=frozenset({"ink"}))))
    await asyncio.sleep(0.01)
    assert not picking.done()
    fleet.report(1)
    assert (await picking).replica.replica_id == 1
    for _ in range(3):
        assert (await fleet.pool.pick(RunHistory(adapters=frozenset({"ink"})))).replica.replica_id == 1


def test_why_no_replica_has_an_adapter():
    fleet = Fleet(2)
    fleet.library.add(INK)
    history = RunHistory(adapters=frozenset({"ink"}))
    fleet.report(0, failed=["ink"])
    fleet.report(1, loading=["ink"])
    assert history.why_no_adapters(fleet.pool.up) is None
    fleet.report(1, failed=["ink"])
    error = history.why_no_adapters(fleet.pool.up)
    assert (error.kind, error.message) == ("unavailable", "loras: no replica that is up has 'ink': no such repository")
