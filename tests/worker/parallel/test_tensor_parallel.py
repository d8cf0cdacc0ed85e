"""Two ranks with a part of the weights each give the outputs of one with all of them."""

from typing import Any

import pytest

from omni_settings.load import LoadSettings
from omni_settings.model_index import parse_model_index
from omni_settings.parallelism import COMPILE, EITHER, LORAS, OFFLOAD, QUANTIZATION, RING, ModelParallelism
from omni_worker.config import model_source
from omni_worker.errors import LoadError
from omni_worker.parallel.ranks import Ranks
from omni_worker.pipelines import fit, tensor_parallel
from omni_worker.pipelines.fit import require_fit, stored_weights
from omni_worker.pipelines.tensor_parallel import divisible_kinds, load_divided
from tests.worker.parallel import divided_weights
from tests.worker.parallel.divided_weights import SPECIMENS, TENSOR
from tests.worker.parallel.rank_processes import results_of_ranks
from tests.worker.parallel.test_context_parallel import classes_with_plans

DIGITS = model_source.parse("builtin://digits")
INDEX = parse_model_index({
    "_class_name": "QwenImagePipeline",
    "transformer": ["diffusers", "QwenImageTransformer2DModel"],
    "vae": ["diffusers", "AutoencoderKLQwenImage"],
    "text_encoder": ["transformers", "Qwen2_5_VLForConditionalGeneration"],
    "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
})  # fmt: skip


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    """What the first of two ranks found. The other one found the same."""
    first, second = results_of_ranks(divided_weights.__name__, 2)
    assert first == second
    return dict(first)


@pytest.mark.processes
class TestTwoRanks:
    @pytest.mark.parametrize("name", SPECIMENS)
    def test_outputs_are_those_of_diffusers_alone_and_together(self, found: dict[str, Any], name: str) -> None:
        assert max(found[name]["alone"], found[name]["together"]) <= 1

    @pytest.mark.parametrize("name", SPECIMENS)
    def test_each_rank_has_loaded_only_its_half_of_the_divided_weights(self, found: dict[str, Any], name: str) -> None:
        assert found[name]["part"] == 0.5
        assert found[name]["matrices"] > 4

    def test_every_class_with_a_plan_is_among_them(self, found: dict[str, Any]) -> None:
        assert {found[name]["kind"] for name in SPECIMENS} == classes_with_plans("_tp_plan")

    def test_a_replica_loads_the_built_in_model_so(self, found: dict[str, Any]) -> None:
        assert found["loaded"] <= 1

    def test_adapters_are_refused_with_the_setting(self, found: dict[str, Any]) -> None:
        reason, takes_loras = found["adapters"]
        assert "parallelism.tensor" in reason
        assert not takes_loras


def test_only_denoisers_with_a_plan_are_divided() -> None:
    assert list(divisible_kinds(INDEX, (), LoadSettings(), TENSOR)) == ["transformer"]
    assert divisible_kinds(INDEX, (), LoadSettings(), ModelParallelism()) == {}


@pytest.mark.parametrize(
    ("index", "load", "problem"),
    [
        (
            {"_class_name": "SD", "unet": ["diffusers", "UNet2DConditionModel"]},
            {},
            "no plan to divide the weights of SD",
        ),
        (None, {"quantization": {"transformer": {"backend": "quanto"}}}, "load.quantization of transformer"),
    ],
)
def test_what_cannot_be_divided_is_refused_before_it_is_loaded(index: Any, load: dict[str, Any], problem: str) -> None:
    settings = LoadSettings.model_validate(load)
    with pytest.raises(LoadError, match=problem) as raised:
        divisible_kinds(parse_model_index(index) if index else INDEX, (), settings, TENSOR)
    assert "parallelism.tensor" in str(raised.value)


def test_a_number_of_devices_that_does_not_divide_the_heads_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(name: str, kind: Any, **arguments: Any) -> Any:
        return kind.from_pretrained(DIGITS.location, subfolder=name, **arguments)

    monkeypatch.setattr(tensor_parallel, "init_device_mesh", lambda *args, **names: {"tensor": FakeMesh()})
    three = ModelParallelism(tensor=3)
    with pytest.raises(LoadError, match=r"--tensor-parallel-size 3 .* attention heads"):
        load_divided(divisible_kinds(INDEX, (), LoadSettings(), three), three, Ranks(0, 3), "cpu", load)


class FakeMesh:
    """Three devices, of which the check of the heads asks only the number."""

    def size(self) -> int:
        return 3


def test_a_divided_model_fits_on_smaller_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = stored_weights(DIGITS, INDEX.components)
    rest = sum(one.values for name, one in sizes.items() if name != "transformer")
    half = 2.0 * (sizes["transformer"].values / 2 + rest)
    monkeypatch.setattr(fit, "device_memory", lambda: half)
    with pytest.raises(LoadError, match="does not fit"):
        require_fit(DIGITS, INDEX, LoadSettings(), ())
    require_fit(DIGITS, INDEX, LoadSettings(), (), ["transformer"], 2)


@pytest.mark.parametrize(
    ("parallelism", "load", "has_loras", "conflicts"),
    [
        (TENSOR, {}, False, []),
        (TENSOR, {"quantization": {"text_encoder": {"backend": "quanto"}}}, False, []),
        (TENSOR, {"quantization": {"transformer_2": {"backend": "quanto"}}}, False, [QUANTIZATION]),
        (TENSOR, {}, True, [LORAS]),
        (TENSOR, {"offload": "group"}, False, [OFFLOAD]),
        (TENSOR, {"compile": {}}, False, [COMPILE]),
        (ModelParallelism(ulysses=2, tensor=2), {}, False, [EITHER]),
        (ModelParallelism(ulysses=2), {}, True, []),
        (ModelParallelism(ring=2), {}, True, [RING]),
        (ModelParallelism(ring=2), {"attention": "native"}, True, [RING]),
        (ModelParallelism(ring=2), {"attention": "flash_hub"}, True, []),
        (ModelParallelism(ulysses=2, ring=2), {"attention": "flash_hub"}, False, [EITHER]),
    ],
)
def test_settings_that_do_not_go_together(
    parallelism: ModelParallelism, load: dict[str, Any], has_loras: bool, conflicts: list[Any]
) -> None:
    assert list(parallelism.conflicts(LoadSettings.model_validate(load), has_loras=has_loras)) == conflicts
