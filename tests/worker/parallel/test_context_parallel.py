"""Two ranks that divide the sequences of each call give the outputs that diffusers gives without them."""

import importlib
import pkgutil
from typing import Any

import diffusers
import pytest
import torch
from diffusers.models import attention_dispatch, transformers

from omni_settings.load import LoadSettings
from omni_settings.parallelism import ATTENTION, COMPILE, DIVISIBLE_ATTENTION, OFFLOAD, ModelParallelism
from omni_worker.config import model_source
from omni_worker.errors import LoadError, RequestError
from omni_worker.parallel.ranks import Ranks
from omni_worker.pipelines.batching.calls import Call
from omni_worker.pipelines.batching.collators import collator_of
from omni_worker.pipelines.batching.parallel_models import ParallelModels, SplitArgument
from omni_worker.pipelines.context_parallel import divide_sequences
from omni_worker.pipelines.loading import load
from omni_worker.pipelines.request_context import RequestContext
from tests.worker.parallel import divided_specimens
from tests.worker.parallel.divided_specimens import RING, SPECIMENS, named
from tests.worker.parallel.rank_processes import results_of_ranks
from tests.worker.pipelines.survey import build, specimen
from tests.worker.pipelines.zoo import flux, stable_diffusion, video_dit

ONLY_MODULAR = {"MiniMaxH3Transformer3DModel"}
"""Classes with a plan that only modular pipelines have."""
ULYSSES = ModelParallelism(ulysses=2)


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    """What the first of two ranks found. The other one found the same."""
    first, second = results_of_ranks(divided_specimens.__name__, 2)
    assert first == second
    return dict(first)


def classes_with_plans(attribute: str) -> set[str]:
    """The classes of diffusers that have a plan under this name."""
    for module in pkgutil.iter_modules(transformers.__path__):
        importlib.import_module(f"{transformers.__name__}.{module.name}")
    pending, kinds = [diffusers.ModelMixin], set()
    while pending:
        kind = pending.pop()
        pending += kind.__subclasses__()
        if getattr(kind, attribute) is not None and kind.__module__.startswith("diffusers."):
            kinds.add(kind.__name__)
    return kinds


@pytest.mark.processes
class TestTwoRanks:
    @pytest.mark.parametrize("name", SPECIMENS)
    def test_outputs_are_those_of_diffusers_alone_and_together(self, found: dict[str, Any], name: str) -> None:
        assert max(found[name]["alone"], found[name]["together"]) <= 1
        assert found[name]["exchanges"] > 0, "the ranks have divided the work"

    def test_every_class_with_a_plan_is_among_them(self, found: dict[str, Any]) -> None:
        assert {found[name]["kind"] for name in SPECIMENS} | ONLY_MODULAR == classes_with_plans("_cp_plan")

    @pytest.mark.parametrize("name", RING)
    def test_a_ring_gives_the_same_outputs(self, found: dict[str, Any], name: str) -> None:
        assert max(found["ring"][name]["alone"], found["ring"][name]["together"]) <= 1
        assert found["ring"][name]["kernel_calls"] > 0

    def test_requests_with_different_adapters_share_batches(self, found: dict[str, Any]) -> None:
        assert found["adapters"] <= 1

    def test_a_quantized_model_is_divided_too(self, found: dict[str, Any]) -> None:
        assert found["int8"] <= 1

    def test_a_sequence_that_is_too_short_fails_its_own_request_before_anything_is_computed(
        self, found: dict[str, Any]
    ) -> None:
        kind, error_kind, message, levels_of_next = found["short"]
        assert (kind, error_kind) == ("RequestError", "invalid")
        assert "encoder_hidden_states has 1" in message
        assert levels_of_next <= 1


def test_a_ring_that_cannot_work_is_refused() -> None:
    ring, ranks = ModelParallelism(ring=2), Ranks(0, 2)
    with pytest.raises(LoadError, match=r"parallelism.ring.*masks its texts"):
        divide_sequences(build(specimen(video_dit, "LTXPipeline"), "float32"), ring, ranks, "cpu")
    with pytest.raises(LoadError, match=r"parallelism.ring.*need a GPU"):
        load(model_source.parse("builtin://digits"), None, ranks=ranks, parallelism=ring)


def test_a_ring_takes_no_masks() -> None:
    models = ParallelModels(2, {"transformer": SPLITS}, takes_masks=False)
    models.require_divisible(call(hidden_states=9, text=3))
    with pytest.raises(RequestError, match="takes no text_mask"):
        models.require_divisible(call(hidden_states=8, text=8, text_mask=8))


def call(**lengths: int) -> Call:
    kwargs = {name: torch.zeros(1, length, *[8] * ("mask" not in name)) for name, length in lengths.items()}
    return Call("denoise", "transformer", print, (), kwargs, RequestContext("0", 0))


SPLITS = {"hidden_states": SplitArgument(1, 3), "text": SplitArgument(1, 3), "text_mask": SplitArgument(1, 2)}


@pytest.mark.parametrize(
    ("degree", "lengths", "problem"),
    [
        (2, {"hidden_states": 9, "text": 3}, None),
        (4, {"hidden_states": 9, "text": 5}, None),
        (4, {"hidden_states": 16, "text": 3}, "text has 3"),
        (2, {"hidden_states": 9, "text": 3, "text_mask": 3}, None),
        (4, {"hidden_states": 16, "text": 8, "text_mask": 8}, None),
        (4, {"hidden_states": 16, "text": 9, "text_mask": 9}, "text has 9, text_mask has 9"),
        (4, {"hidden_states": 18, "text": 8, "text_mask": 8}, "hidden_states has 18"),
    ],
)
def test_what_ranks_cannot_divide_is_named_with_its_length(
    degree: int, lengths: dict[str, int], problem: str | None
) -> None:
    models = ParallelModels(degree, {"transformer": SPLITS})
    if problem is None:
        models.require_divisible(call(**lengths))
        return
    with pytest.raises(RequestError, match=problem) as raised:
        models.require_divisible(call(**lengths))
    assert raised.value.kind == "invalid"


def test_a_size_that_diffusers_cannot_divide_is_a_fault_of_the_request() -> None:
    def refuses() -> None:
        raise AssertionError("Cannot shard tensor of size 1")

    with pytest.raises(RequestError, match=r"4 devices cannot divide .* size 1") as raised:
        ParallelModels(4).guarded(refuses)()
    assert raised.value.kind == "invalid"


def test_more_than_two_ranks_do_not_pad_prompts_to_share_a_batch() -> None:
    model = build(named("QwenImagePipeline-lengths"), "float32").transformer
    assert collator_of(model) is not None
    for degree, shares in ((2, True), (3, False)):
        divided = diffusers.ContextParallelConfig(ulysses_degree=degree)
        model._parallel_config = diffusers.ParallelConfig(context_parallel_config=divided)
        assert (collator_of(model) is not None) is shares


@pytest.mark.parametrize(
    ("module", "name", "degree", "problem"),
    [
        (stable_diffusion, "StableDiffusionPipeline", 2, "no plan to divide the sequences of UNet2DConditionModel"),
        (flux, "FluxControlNetPipeline", 2, "no plan to divide the sequences of FluxControlNetModel"),
        (flux, "FluxPipeline", 4, "has 2 attention heads, which 4 devices cannot share"),
    ],
)
def test_a_pipeline_that_cannot_be_divided_is_refused_with_the_setting(
    module: Any, name: str, degree: int, problem: str
) -> None:
    pipe = build(specimen(module, name), "float32")
    with pytest.raises(LoadError, match=problem) as raised:
        divide_sequences(pipe, ModelParallelism(ulysses=degree), Ranks(0, degree), "cpu")
    assert "parallelism.ulysses" in str(raised.value)


def test_the_attention_backends_are_those_of_diffusers() -> None:
    divisible = attention_dispatch._AttentionBackendRegistry._supports_context_parallel
    assert {str(getattr(one, "value", one)) for one in divisible} == set(DIVISIBLE_ATTENTION)


@pytest.mark.parametrize(
    ("load", "conflicts"),
    [
        ({}, []),
        ({"attention": "native", "quantization": {"transformer": {"backend": "quanto"}}}, []),
        ({"offload": "model"}, [OFFLOAD]),
        ({"compile": {}}, [COMPILE]),
        ({"attention": "flex"}, [ATTENTION]),
    ],
)
def test_settings_that_do_not_go_together(load: dict[str, Any], conflicts: list[Any]) -> None:
    settings = LoadSettings.model_validate(load)
    assert list(ULYSSES.conflicts(settings)) == conflicts
    assert list(ModelParallelism().conflicts(settings)) == []
