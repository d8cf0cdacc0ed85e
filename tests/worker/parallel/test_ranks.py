"""Work divided over ranks: three processes, which all report what they got."""

import os
from collections import OrderedDict
from dataclasses import dataclass

import pytest
import torch
import torch.distributed as dist

from omni_worker.errors import RequestError
from omni_worker.parallel import ranks as ranks_module
from omni_worker.parallel.ranks import SHORT_BYTES, Ranks
from tests.worker.parallel.rank_processes import results_of_ranks

SIZE = 3


@dataclass
class Answer:
    """What a model gives, in a form of its own."""

    sample: torch.Tensor
    extra: object = None


class Named(OrderedDict):
    """What diffusers' output objects are: a dict of its own type."""


def noise(i, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(i))


def structures():
    """Answers of every form."""
    same = noise(5, 4, 4)
    return [
        noise(0, 3, 5),
        (noise(1, 2), None, {"a": [noise(2, 1), "text", 3]}),
        Answer(noise(3, 2, 3).to(torch.bfloat16), extra=torch.tensor(7)),
        Named(sample=torch.zeros(0, 4), mask=torch.tensor([True, False])),
        [same, same],
        noise(6, 8, 6).T[::2],
        torch.view_as_complex(noise(7, 4, 2)),
        "x" * 3 * SHORT_BYTES,
        (noise(8, 600, 700),),
    ]


def fails(rank_of, i):
    if rank_of == i:
        raise RequestError("invalid", f"job {i} cannot run", "width")
    return noise(i, 2)


def attempt(ranks, jobs):
    try:
        return ranks.spread(jobs)
    except Exception as error:
        return type(error), str(error), vars(error)


def scenarios(ranks):
    """All that a rank does in these tests, in one life: processes are slow to start."""
    ran = []

    def job(i):
        ran.append(i)
        return noise(i, 1)

    got = {}
    got["structures"] = ranks.spread([lambda one=one: one for one in structures()])
    for count in (0, 1, 2, 3, 7):
        ran.clear()
        answers = ranks.spread([lambda i=i: job(i) for i in range(count)])
        got[f"{count} jobs"] = (answers, list(ran))
    for i in range(4):
        got[f"job {i} fails"] = attempt(ranks, [lambda i=i, j=j: fails(i, j) for j in range(4)])
    got["all fail"] = attempt(ranks, [lambda j=j: fails(j, j) for j in range(4)])
    got["unsendable"] = attempt(ranks, [lambda: lambda: None])[:1]
    got["afterwards"] = ranks.spread([lambda: "fine"] * 2)
    ran.clear()
    got["together"] = ranks.spread([lambda i=i: job(i) for i in range(2)], SIZE), list(ran)
    got["all of a group fail"] = attempt_together(ranks)
    return got


def attempt_together(ranks):
    def sums(i):
        total = torch.tensor([ranks.rank])
        dist.all_reduce(total)
        if i == 1:
            raise RequestError("invalid", f"the sum is {int(total)}")
        return int(total)

    first = ranks.spread([lambda: sums(0)], SIZE)
    try:
        ranks.spread([lambda: sums(1)], SIZE)
    except RequestError as error:
        return first, error.message, ranks.spread([lambda: sums(2)], SIZE)


@pytest.fixture(scope="module")
def got():
    return results_of_ranks(__name__, SIZE)


def same(one, other):
    """Equal to the bit, in the same types."""
    assert type(one) is type(other)
    if isinstance(one, torch.Tensor):
        assert one.dtype == other.dtype
        assert one.shape == other.shape
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert list(one) == list(other)
        for name in one:
            same(one[name], other[name])
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for left, right in zip(one, other, strict=True):
            same(left, right)
    elif isinstance(one, Answer):
        same(vars(one), vars(other))
    else:
        assert one == other


def test_a_group_of_one_runs_in_place():
    made = object()
    assert Ranks().spread([lambda: made])[0] is made
    with pytest.raises(RequestError):
        Ranks().spread([lambda: fails(0, 0)])


@pytest.mark.parametrize(("count", "size"), [(0, 2), (1, 2), (2, 2), (5, 2), (5, 3), (2, 4)])
def test_shares_are_neighbours_and_even(count, size):
    shares = [Ranks(rank, size).share(count) for rank in range(size)]
    assert [i for share in shares for i in share] == list(range(count))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize(("count", "size", "together"), [(0, 4, 2), (1, 4, 2), (5, 4, 2), (5, 6, 3), (2, 2, 2)])
def test_the_ranks_of_a_group_have_the_same_share(count, size, together):
    shares = [Ranks(rank, size).share(count, together=together) for rank in range(size)]
    assert all(share == shares[rank - rank % together] for rank, share in enumerate(shares))
    assert [i for share in shares[::together] for i in share] == list(range(count))


def test_a_failure_of_all_ranks_of_a_group_is_raised():
    ranks = Ranks(1, 2, store := dist.HashStore())
    store.set("1/0", b"failed")
    with pytest.raises(RequestError, match="job 0 cannot run"):
        ranks.run_together(lambda: fails(0, 0), 2)
    assert ranks.run_together(lambda: "fine", 2) == "fine"


def test_a_rank_that_fails_alone_ends_its_process(monkeypatch, caplog):
    """The others wait for it in a collective, where nothing can reach them."""
    monkeypatch.setattr(ranks_module, "FAILURE_SECONDS", 0.05)
    monkeypatch.setattr(os, "_exit", lambda code: (_ for _ in ()).throw(SystemExit(code)))
    with pytest.raises(SystemExit, match="1"):
        Ranks(1, 2, dist.HashStore()).run_together(lambda: fails(0, 0), 2)
    assert "rank 1 of 2 failed" in caplog.text
    assert "job 0 cannot run" in caplog.text


@pytest.mark.processes
class TestThreeRanks:
    def test_all_get_all_answers_in_order_and_in_their_form(self, got):
        for one in got:
            same(one["structures"], structures())

    def test_tensors_that_were_one_are_one_again(self, got):
        for one in got:
            first, second = one["structures"][4]
            assert first is second

    @pytest.mark.parametrize("count", [0, 1, 2, 3, 7])
    def test_each_runs_its_own_share_only(self, got, count):
        for rank, one in enumerate(got):
            answers, ran = one[f"{count} jobs"]
            same(answers, [noise(i, 1) for i in range(count)])
            assert ran == list(Ranks(rank, SIZE).share(count))

    def test_jobs_of_all_ranks_run_on_all_and_give_one_result(self, got):
        for one in got:
            answers, ran = one["together"]
            same(answers, [noise(i, 1) for i in range(2)])
            assert ran == [0, 1]

    def test_a_group_continues_after_a_failure_of_all_its_ranks(self, got):
        assert [one["all of a group fail"] for one in got] == [([3], "the sum is 3", [3])] * SIZE

    @pytest.mark.parametrize("i", range(4))
    def test_an_error_on_any_rank_is_raised_on_all(self, got, i):
        for one in got:
            kind, text, fields = one[f"job {i} fails"]
            assert (kind, text, fields["kind"], fields["param"]) == (
                RequestError,
                f"job {i} cannot run",
                "invalid",
                "width",
            )
            assert "test_ranks.py" in fields["__notes__"][0]

    def test_of_several_errors_all_raise_the_first(self, got):
        assert [one["all fail"][1] for one in got] == ["job 0 cannot run"] * SIZE
        assert got[0]["all fail"] == got[1]["all fail"] == got[2]["all fail"]

    def test_an_answer_that_cannot_be_sent_is_an_error_too_and_the_group_goes_on(self, got):
        for one in got:
            assert issubclass(one["unsendable"][0], Exception)
            assert one["afterwards"] == ["fine", "fine"]
