"""The responses if all queues are full, and the metrics of a busy replica: real processes."""

import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import openai
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.worker.serving import Process, draw, eventually, free_ports

pytestmark = pytest.mark.processes
STEPS = 400


@pytest.fixture
def start():
    started = []

    def start(*flags):
        api, master, router, pub, data = free_ports(5)
        head = Process(
            "builtin://digits", "--host", "127.0.0.1", "--port", str(api), "--omni-master-address", "127.0.0.1",
            "--omni-master-port", str(master), "--omni-coordinator-port", str(router),
            "--omni-coordinator-pub-port", str(pub), "--omni-replica-port", str(data), *flags, port=api,
        )  # fmt: skip
        started.append(head)
        return head

    yield start
    for head in started:
        head.close()


def samples(head):
    """Every sample of a process's metrics: name, labels, value."""
    return [
        (sample.name, sample.labels, sample.value)
        for family in text_string_to_metric_families(head.get("/metrics").text)
        for sample in family.samples
    ]


def metric(head, name, **labels):
    """The sum of the samples of this name with these labels."""
    return sum(value for one, has, value in samples(head) if one == name and labels.items() <= has.items())


def under_way(head, count, replicas=1):
    """Wait until so many replicas have taken so many requests."""

    def check():
        taken = [one for one in head.get("/omni/requests").json()["requests"] if one["replica"]]
        return len(taken) == count and len({one["replica"] for one in taken}) == replicas

    eventually(check, f"{count} requests under way")


def up(head, count):
    replicas = head.get("/omni/replicas").json()["replicas"]
    return len([one for one in replicas if one["state"] == "UP"]) == count


@pytest.mark.parametrize("mode", ["--step-execution", "--no-step-execution"])
def test_one_that_finds_the_queue_full_is_told_when_to_come_again_and_the_others_go_on(start, mode):
    head = start(mode, "--max-num-seqs", "1", "--max-waiting", "1")
    eventually(head.is_ready, "a replica")
    with ThreadPoolExecutor(2) as pool:
        taken = [pool.submit(draw, head.port, seed=seed, num_inference_steps=STEPS) for seed in range(2)]
        under_way(head, 2)
        with pytest.raises(openai.RateLimitError, match="as many requests as they may hold") as refused:
            draw(head.port)
        assert refused.value.status_code == 429
        assert int(refused.value.response.headers["retry-after"]) >= 1
        assert refused.value.type == "rate_limit_error"
        assert [len(one.result()) for one in taken] == [1, 1]
    assert metric(head, "omni_requests_total", outcome="busy") == 1
    assert metric(head, "omni_request_retries_total") == 0
    eventually(lambda: metric(head, "omni_engine_refused_total", index="0") == 1, "the replica's own count")
    assert draw(head.port), "there is room again"


def test_a_full_replica_passes_requests_on_and_takes_what_another_one_lost(start):
    head = start(
        "--omni-dp-size-local", "2", "--omni-lb-policy", "round-robin", "--max-num-seqs", "1", "--max-waiting", "0"
    )
    eventually(lambda: up(head, 2), "two replicas")
    with ThreadPoolExecutor(2) as pool:
        long = pool.submit(draw, head.port, seed=1, num_inference_steps=2 * STEPS)  # longer than all that follows
        under_way(head, 1)
        for _ in range(2):  # in turn one of them goes to the replica that is full
            assert draw(head.port)
        second = pool.submit(draw, head.port, seed=2, num_inference_steps=STEPS)
        under_way(head, 2, replicas=2)  # for a moment the second may be with the one that is full
        with pytest.raises(openai.RateLimitError):
            draw(head.port)
        os.kill(head.replicas[0], signal.SIGKILL)
        assert long.result()
        assert second.result()


def test_the_metrics_show_the_batches_and_the_wait(start):
    head = start("--max-num-seqs", "auto")
    eventually(head.is_ready, "a replica")
    stop = threading.Event()

    def keep_drawing(seed):
        while not stop.is_set():
            draw(head.port, seed=seed, num_inference_steps=4 + seed)

    with ThreadPoolExecutor(3) as pool:
        drawing = [pool.submit(keep_drawing, seed) for seed in range(3)]
        denoise = {"index": "0", "phase": "denoise"}
        try:
            eventually(
                lambda: (
                    metric(head, "omni_engine_batch_size_sum", **denoise)
                    > metric(head, "omni_engine_batch_size_count", **denoise)
                    > 0
                ),
                "batches of more than one call",
            )
            eventually(lambda: metric(head, "omni_engine_batch_call_seconds", **denoise) > 0, "a line through them")
        finally:
            stop.set()
        for one in drawing:
            one.result()
    limits = [(labels, value) for name, labels, value in samples(head) if name == "omni_engine_batch_limit"]
    assert all(1 <= value <= 32 for _, value in limits)
    assert {"encode", "denoise", "decode"} <= {labels["phase"] for labels, _ in limits}
    assert all(labels["model"] for labels, _ in limits)
    assert metric(head, "omni_engine_predicted_wait_seconds") == 0, "there is a free place"
