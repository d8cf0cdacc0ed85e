"""The requests of a benchmark: mixes, arrivals, traces."""

from itertools import islice
from pathlib import Path

import pytest

from omni_operator.commands.bench.workload import (
    BadWorkload,
    RequestKind,
    parse_mix,
    random_requests,
    read_trace,
    with_poisson_arrivals,
)


def test_the_same_seed_gives_the_same_requests_and_times() -> None:
    kinds = [RequestKind(4, 32, 32, 3.0), RequestKind(20, 64, 64)]
    one, two = (
        list(islice(with_poisson_arrivals(random_requests(kinds, ["a", "b"], 7), 5.0, 7), 2000)) for _ in range(2)
    )
    assert one == two
    assert one[-1].due == pytest.approx(400, rel=0.1)
    assert sum(work.kind == kinds[0].name for work in one) == pytest.approx(1500, rel=0.1)


BAD_MIXES = {
    "no size": ("32", "is not STEPSxWIDTHxHEIGHT"),
    "zero steps": ("0x32x32", "is not STEPSxWIDTHxHEIGHT"),
    "only zero weights": ("4x32x32:0", "all weights are 0"),
}


@pytest.mark.parametrize("row", BAD_MIXES)
def test_a_bad_mix_is_rejected(row: str) -> None:
    text, expected = BAD_MIXES[row]
    with pytest.raises(BadWorkload, match=expected):
        parse_mix(text)


@pytest.mark.parametrize("line", ["", "[]", '{"prompt": "a"}', '{"at": -1, "prompt": "a"}', '{"at": 1}', "{"])
def test_a_bad_trace_is_rejected(tmp_path: Path, line: str) -> None:
    (tmp_path / "trace").write_text(line)
    with pytest.raises(BadWorkload, match="--trace"):
        read_trace(tmp_path / "trace", 1.0)
