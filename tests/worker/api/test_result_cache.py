"""A head with a result cache: the same request is answered from it, and each API key has its own results."""

import re

import httpx
import pytest
from openai import OpenAI

from tests.worker.api.heads import head

KEYS = "alice-alice-alice name=alice tenant=team\nbob-bob-bob-bob name=bob tenant=team\n"


@pytest.fixture(scope="module")
def process(tmp_path_factory):
    file = tmp_path_factory.mktemp("keys") / "keys"
    file.write_text(KEYS)
    with head("builtin://digits", "--result-cache-bytes", "100000000", "--api-key-file", str(file)) as process:
        yield process


def client(process, name):
    key = next(line.split()[0] for line in KEYS.splitlines() if f"name={name}" in line)
    return OpenAI(base_url=f"http://127.0.0.1:{process.port}/v1", api_key=key, max_retries=0)


def drawn(process, name="alice", prompt="a red three", **extra):
    """The pictures, how many requests the cache answered, and how many it could have and did not."""
    before = counts(process)
    answer = client(process, name).images.generate(prompt=prompt, size="32x32", n=2, extra_body=extra)
    hits, misses = (now - then for now, then in zip(counts(process), before, strict=True))
    return [one.b64_json for one in answer.data], hits, misses


def counts(process):
    page = httpx.get(f"http://127.0.0.1:{process.port}/metrics").text
    return [
        int(float(re.search(rf"^omni_result_cache_{name}_total (\S+)$", page, re.MULTILINE)[1]))
        for name in ("hits", "misses")
    ]


@pytest.mark.processes
def test_a_request_with_a_seed_is_answered_from_the_cache_for_its_own_key(process):
    first = drawn(process, seed=5)
    assert first[1:] == (0, 2)
    assert drawn(process, seed=5) == (first[0], 2, 0)
    assert drawn(process, seed=6)[1:] == (1, 1), "its first picture has the seed of the second one before"
    assert drawn(process, name="bob", seed=5)[1:] == (0, 2), "nobody learns what others requested"


@pytest.mark.processes
def test_a_request_without_a_seed_is_new_each_time(process):
    first, again = drawn(process, prompt="a blue four"), drawn(process, prompt="a blue four")
    assert first[0] != again[0]
    assert first[1:] == again[1:] == (0, 0)


@pytest.mark.processes
def test_a_stream_ends_with_the_picture_that_was_kept(process):
    (kept, _), *_ = drawn(process, seed=40)
    before = counts(process)
    events = client(process, "alice").images.generate(
        prompt="a red three", size="32x32", stream=True, partial_images=2, extra_body={"seed": 40}
    )
    assert [event.b64_json for event in events][-1] == kept
    assert counts(process)[0] == before[0] + 1
