"""The names that a replica gives to its kinds of call, and how few they stay."""

from omni_worker.engine.runner import autoregressive
from omni_worker.engine.scheduler import KeyStats
from omni_worker.pipelines.batching.keys import BatchKey
from omni_worker.replica.batch_report import KEYS_NAMED, BatchReport


def stats(variant, limit=4, line=(1.0, 0.5), batches=1, calls=2, phase="denoise"):
    return KeyStats(BatchKey(phase, "unet", variant), limit, line, batches, calls)


def test_a_language_models_calls_have_a_name():
    told = BatchReport().of([KeyStats(autoregressive.KEY, 8, None, 4, 20, 2.0)])
    assert told["batch_counts"] == [["tokens", "language-model", 4, 20, 2.0]]
    assert told["batch_sizes"] == [["tokens", "language-model", "0", 8, None, None]]


def test_each_kind_of_call_has_its_limit_and_its_line():
    told = BatchReport().of([stats(0), stats(1, 8, None, 3, 9)])
    assert told["batch_sizes"] == [["denoise", "unet", "1", 8, None, None], ["denoise", "unet", "0", 4, 1.0, 0.5]]
    assert told["batch_counts"] == [["denoise", "unet", 4, 11, 0.0]]


def test_counts_go_on_when_the_scheduler_forgets_a_key():
    report = BatchReport()
    for keys in ([stats(0, batches=5, calls=9)], [], [stats(0, batches=1, calls=1)], [stats(0, batches=3, calls=4)]):
        told = report.of(keys)
    assert told["batch_counts"] == [["denoise", "unet", 8, 13, 0.0]]


def test_however_many_shapes_are_asked_for_the_names_stay_few():
    keys = [stats(i, limit=2, calls=1000 - i) for i in range(100)]
    keys += [stats(f"request {i}", limit=1, phase="encode") for i in range(100)]
    keys.append(KeyStats("no pipeline's", 3, None, 1, 1))
    sizes = BatchReport().of(keys)["batch_sizes"]
    assert len(sizes) == KEYS_NAMED + 3
    assert ["denoise", "unet", "others", 2, 1.0, 0.5] in sizes
    assert ["encode", "unet", "alone", 1, 1.0, 0.5] in sizes
    assert ["unknown", "unknown", "others", 3, None, None] in sizes
