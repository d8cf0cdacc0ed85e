"""Modular pipelines: loaded from folders, then served as classic ones are, with diffusers' own results."""

import inspect
import json
import shutil

import diffusers
import numpy as np
import pytest
import torch

from omni_settings.load import LoadSettings
from omni_worker.config import model_source
from omni_worker.engine.library import generate
from omni_worker.engine.scheduler import RequestStatus
from omni_worker.errors import LoadError
from omni_worker.pipelines.components import ENCODE, intercepted_methods, models
from omni_worker.pipelines.interception.stepping import InterceptedPipeline
from omni_worker.pipelines.load_arguments import PipelineParts
from omni_worker.pipelines.loading import load
from omni_worker.pipelines.modular import as_pipeline
from omni_worker.pipelines.protocol import StepState
from omni_worker.requests import GenerationParams

from .survey import own_result, specimen
from .tiny import build
from .zoo import modular, modular_new
from .zoo.text import image

Z_IMAGE, WAN = specimen(modular, "ZImageModularPipeline"), specimen(modular, "Wan22ModularPipeline")
QWEN = specimen(modular, "QwenImageModularPipeline-control")
INDEX = "modular_model_index.json"


def saved(one, folder):
    build(one).save_pretrained(str(folder), overwrite_modular_index=True)
    return folder


@pytest.fixture(scope="module")
def z_image(tmp_path_factory):
    return saved(Z_IMAGE, tmp_path_factory.mktemp("models") / "z-image")


def source(folder):
    return model_source.parse(str(folder))


def request(i, **more):
    settings = {"width": 32, "height": 32, "steps": (4, 6, 5, 3)[i], "guidance": 3.0 + i, "seed": i}
    return GenerationParams(prompt=f"a red {('cat', 'dog', 'fox', 'owl')[i]}", **(settings | more))


def results(pipeline, requests):
    finished = generate(pipeline, requests)
    assert [one.status for one in finished] == [RequestStatus.COMPLETED] * len(requests), finished
    return [one.result for one in finished]


def own_images(folder, params, **more):
    """What diffusers makes of a request, loaded by its own means."""
    pipe = diffusers.ModularPipeline.from_pretrained(str(folder))
    pipe.load_components()
    arguments = {
        "prompt": params.prompt, "width": 32, "height": 32, "num_inference_steps": params.steps,
        "generator": torch.Generator().manual_seed(params.seed), "output_type": "np",
    }  # fmt: skip
    if params.guidance is not None:
        arguments["guidance_scale"] = params.guidance
    (images,) = own_result(pipe, arguments | more)
    return np.round(images * 255).astype(int)


def test_a_modular_pipeline_gives_diffusers_own_images_alone_and_shares_batches(z_image):
    pipeline = load(source(z_image), None).pipeline
    requests = [request(i) for i in range(4)]
    (alone,) = results(pipeline, requests[:1])
    assert np.array_equal(alone.images[0], own_images(z_image, requests[0])[0])
    before = pipeline.stats()["batched_calls"]
    together = results(pipeline, requests)
    assert pipeline.stats()["batched_calls"] > before
    for params, result in zip(requests, together, strict=True):
        assert np.abs(result.images[0].astype(int) - own_images(z_image, params)[0]).max() <= 1


def test_the_card_says_what_the_blocks_take(z_image):
    card = load(source(z_image), None).pipeline.card
    assert (card.pipeline, card.mode, card.steps, card.guidance) == ("ZImageModularPipeline", "step", 8, True)
    assert (card.width, card.height) == (1024, 1024), "an attribute of the class"
    assert (card.image, card.needs_image, card.strength) == ("one", False, True)
    assert {argument.name: argument.default for argument in card.arguments}["max_sequence_length"] == 512
    assert not {"latents", "image_latents", "generator", "output_type"} & {one.name for one in card.arguments}


def test_an_image_chooses_other_blocks(z_image):
    pipeline = load(source(z_image), None).pipeline
    picture = np.asarray(image(7))
    params = request(0, images=(picture,), strength=0.5)
    (result,) = results(pipeline, [params])
    assert np.array_equal(result.images[0], own_images(z_image, params, image=image(7), strength=0.5)[0])


def test_an_unknown_argument_is_an_error_and_not_ignored(z_image):
    pipeline = load(source(z_image), None).pipeline
    (finished,) = generate(pipeline, [{"prompt": "a cat", "num_steps": 3}])
    assert finished.status is RequestStatus.FAILED
    assert "takes no argument 'num_steps'" in str(finished.error)
    (refused,) = generate(pipeline, [request(0, extra_args={"num_steps": 3})])
    assert "no extra argument 'num_steps'" in str(refused.error)


def test_previews_and_aborts(z_image):
    pipeline = load(source(z_image), None).pipeline
    state = StepState("a", request(1, preview_every=1))
    pipeline.prepare_encode(state)
    shown = []
    while not state.is_done:
        pipeline.step_scheduler(state, pipeline.denoise_step([state])[0])
        shown, state.preview = [*shown, *(state.preview or ())], None
    assert (state.step, state.total_steps) == (6, 6)
    assert shown, "previews take a share of the time, but one is always due"
    assert {one.shape for one in shown} == {(32, 32, 3)}
    assert np.array_equal(pipeline.post_decode(state).finish().images[0], results(pipeline, [request(1)])[0].images[0])
    pipeline.close(state)
    other = StepState("b", request(1))
    pipeline.prepare_encode(other)
    pipeline.step_scheduler(other, pipeline.denoise_step([other])[0])
    pipeline.close(other)
    assert not pipeline.runs


def test_each_guider_has_a_scale_of_its_own(tmp_path):
    """The scale belongs to a request, though in diffusers it belongs to the pipeline."""
    pipe = build(WAN)
    parameters = inspect.signature(type(as_pipeline(pipe)).__call__).parameters
    assert parameters["guidance_scale"].default == pipe.guider.guidance_scale
    assert parameters["guidance_scale_2"].default == pipe.guider_2.guidance_scale
    pipeline = load(source(saved(WAN, tmp_path / "wan")), None).pipeline
    video = {"frames": 5, "extra_args": {"max_sequence_length": 16}}
    plain, other = request(0, **video), request(0, frames=5, extra_args={**video["extra_args"], "guidance_scale_2": 9})
    first, changed, again = results(pipeline, [plain])[0], results(pipeline, [other])[0], results(pipeline, [plain])[0]
    assert pipeline.card.video
    assert first.images[0].shape == (5, 32, 32, 3)
    assert not np.array_equal(first.images[0], changed.images[0])
    assert np.array_equal(first.images[0], again.images[0]), "a request's scale stays its own"


def test_a_pasted_mask_comes_back_as_an_image(tmp_path):
    pipeline = load(source(saved(QWEN, tmp_path / "qwen")), None).pipeline
    mask = np.zeros((32, 32), np.uint8)
    mask[8:24, 8:24] = 255
    (result,) = results(pipeline, [request(0, images=(np.asarray(image(3)),), mask=mask, strength=0.9)])
    assert result.images[0].shape == (32, 32, 3)
    assert pipeline.card.mask
    assert not pipeline.card.needs_image


def test_components_of_other_places_are_loaded_and_copies_are_found(z_image, tmp_path):
    moved = shutil.copytree(z_image, tmp_path / "moved")
    expected = own_images(z_image, request(0))[0]
    (moved / "vae").rename(tmp_path / "shared-vae")
    content = json.loads((moved / INDEX).read_text())
    content["vae"][2] |= {"pretrained_model_name_or_path": str(tmp_path / "shared-vae"), "subfolder": ""}
    (moved / INDEX).write_text(json.dumps(content))
    away = z_image.rename(tmp_path / "original")
    try:
        (result,) = results(load(source(moved), None).pipeline, [request(0)])
        assert np.array_equal(result.images[0], expected)
    finally:
        away.rename(z_image)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        pytest.param(
            {"pretrained_model_name_or_path": "/nowhere/at-all"},
            "the component vae cannot be loaded from /nowhere/at-all: ",
            id="a place that is not there",
        ),
        pytest.param({"type_hint": ["their_code", "Vae"]}, "contains Python code, their_code.py for vae", id="code"),
    ],
)
def test_what_cannot_be_loaded_is_named(z_image, tmp_path, change, says):
    broken = shutil.copytree(z_image, tmp_path / "broken")
    shutil.rmtree(broken / "vae")
    content = json.loads((broken / INDEX).read_text())
    content["vae"][2] |= change
    (broken / INDEX).write_text(json.dumps(content))
    with pytest.raises(LoadError, match=says):
        load(source(broken), None)


def test_blocks_with_code_of_the_model_need_trust(z_image, tmp_path):
    folder = shutil.copytree(z_image, tmp_path / "own-blocks")
    (folder / "blocks.py").write_text(
        "from diffusers import ZImageAutoBlocks\n\n\nclass Blocks(ZImageAutoBlocks):\n    pass\n"
    )
    (folder / "modular_config.json").write_text(
        json.dumps({"_class_name": "Blocks", "auto_map": {"ModularPipelineBlocks": "blocks.Blocks"}})
    )
    with pytest.raises(LoadError, match=r"blocks.py for the blocks.*trustRemoteCode"):
        load(source(folder), None)
    loaded = load(source(folder), None, settings=LoadSettings(trustRemoteCode=True)).pipeline
    assert type(loaded._pipe._blocks).__name__ == "Blocks"


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (
            {"customPipeline": "pipeline.py", "trustRemoteCode": True},
            "load.customPipeline: ZImageModularPipeline is modular",
        ),
        (
            {"quantization": {"scheduler": {"backend": "torchao", "type": "Int8WeightOnlyConfig"}}},
            "load.quantization.scheduler: .* has no weights",
        ),
        ({"componentDtypes": {"unet": "float32"}}, "load.componentDtypes: there is no component 'unet'"),
    ],
)
def test_settings_that_cannot_apply_are_rejected(z_image, settings, says):
    with pytest.raises(LoadError, match=says):
        load(source(z_image), None, settings=LoadSettings.model_validate(settings))


def test_it_is_not_divided_into_stages(z_image):
    with pytest.raises(LoadError, match="cannot be divided into stages"):
        load(source(z_image), None, parts=PipelineParts.TEXT_ENCODERS)


@pytest.mark.parametrize("offload", ["model", "group"])
def test_components_move_as_those_of_classic_pipelines(z_image, offload):
    pipeline = load(source(z_image), None, settings=LoadSettings(offload=offload)).pipeline
    (result,) = results(pipeline, [request(2)])
    assert np.array_equal(result.images[0], own_images(z_image, request(2))[0])


def test_dtypes_and_quantization_are_of_single_components(z_image):
    settings = LoadSettings.model_validate(
        {
            "dtype": "bfloat16",
            "componentDtypes": {"vae": "float32"},
            "quantization": {"transformer": {"backend": "torchao", "type": "Int8WeightOnlyConfig"}},
        }
    )
    pipeline = load(source(z_image), None, settings=settings).pipeline
    pipe = pipeline._pipe
    assert (pipe.text_encoder.dtype, pipe.vae.dtype) == (torch.bfloat16, torch.float32)
    assert type(pipe.transformer.layers[0].attention.to_q.weight.data).__name__ == "Int8Tensor"
    assert results(pipeline, [request(0)])[0].images[0].shape == (32, 32, 3)


def test_request_mode_runs_the_same_call(z_image):
    pipeline = load(source(z_image), step_execution=False).pipeline
    assert pipeline.card.mode == "request"
    result = pipeline.generate(request(3)).finish()
    assert np.array_equal(result.images[0], own_images(z_image, request(3))[0])


def test_the_prompt_that_a_model_writes_is_no_image():
    """A model named after the upsampling of prompts is called before the loop, and previews do not run it again."""
    one = specimen(modular_new, "Flux3ModularPipeline")
    pipe = as_pipeline(build(one))
    phases = {method.phase for method in intercepted_methods("prompt_upsampler", models(pipe)["prompt_upsampler"])}
    assert phases == {ENCODE}


def test_a_modular_pipeline_makes_sound():
    pipeline = InterceptedPipeline(as_pipeline(build(specimen(modular_new, "MiniMaxMusic3ModularPipeline"))))
    card = pipeline.card
    assert (card.product, card.sample_rate, card.seconds, card.image) == ("audio", 44100, 60.0, "none")
    (result,) = results(pipeline, [GenerationParams(prompt="a cat", steps=3, seconds=0.2, extra_args={"lyrics": "a"})])
    assert result.sound.rate == 44100
    assert result.sound.samples.shape[0] in (1, 2)
    assert result.sound.samples.std() > 0
    (refused,) = generate(pipeline, [GenerationParams(prompt="a cat", steps=3)])
    assert "needs lyrics" in str(refused.error)
