"""A pipeline on two stages: its text encoders on one, the rest on the other, gives the same images as on one stage."""

import warnings

import msgspec
import numpy as np
import pytest
import torch

from omni_worker.config import model_source
from omni_worker.config.lora_source import LoraSource
from omni_worker.engine.library import generate
from omni_worker.errors import LoadError, RequestError
from omni_worker.pipelines.encoding import UnloadedModel
from omni_worker.pipelines.loading import PipelineParts, load
from omni_worker.requests import GenerationParams, LoraChoice

from .adapters import write_adapter
from .survey import specimens

CLASSES = (
    "AuraFlowPipeline",
    "FluxPipeline",
    "Lumina2Pipeline",
    "QwenImagePipeline",
    "StableDiffusion3Pipeline",
    "StableDiffusionPipeline",
    "StableDiffusionXLPipeline",
    "ZImagePipeline",
)
PROMPTS = [
    GenerationParams(prompt="a red panda, asleep", seed=1, steps=2, width=32, height=32, guidance=3.0),
    GenerationParams(prompt="two boats", seed=2, steps=3, width=32, height=32, guidance=3.0),
]


@pytest.fixture(scope="module")
def digits():
    source = model_source.parse("builtin://digits")
    return {parts: load(source, None, parts=parts).pipeline for parts in PipelineParts}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CLASSES)
def test_any_pipeline_is_divided_without_a_difference(name, tmp_path):
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    (specimen,) = (one for one in specimens() if one.name == name)
    specimen.build().save_pretrained(tmp_path)
    source = model_source.parse(str(tmp_path))
    complete, encoder, painter = (load(source, True, parts=parts).pipeline for parts in PipelineParts)
    for params in PROMPTS:
        (expected,), (encoded,) = generate(complete, [params]), generate(encoder, [params])
        assert expected.error is None, expected.error
        assert encoded.error is None, encoded.error
        (painted,) = generate(painter, [msgspec.structs.replace(params, embeddings=encoded.result.embeddings)])
        assert painted.error is None, painted.error
        np.testing.assert_array_equal(painted.result.images[0], expected.result.images[0])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["StableDiffusionPipeline", "StableDiffusionXLPipeline", "FluxPipeline"])
def test_an_adapter_is_divided_between_the_stages_as_the_pipeline_is(name, tmp_path):
    (specimen,) = (one for one in specimens() if one.name == name)
    specimen.build().save_pretrained(tmp_path)
    source = model_source.parse(str(tmp_path))
    files = {text: tmp_path / f"lora-{text}.safetensors" for text in (True, False)}
    loras = [
        LoraSource(f"lora-{text}", str(write_adapter(specimen.build(), file, rank=2, text_encoder=text)))
        for text, file in files.items()
    ]
    complete, encoder, painter = (load(source, True, parts=parts, loras=loras).pipeline for parts in PipelineParts)
    assert complete.card.loras == encoder.card.loras == painter.card.loras == ("lora-True", "lora-False")
    (plain,), images = generate(complete, PROMPTS[:1]), []
    for lora in loras:
        params = msgspec.structs.replace(PROMPTS[0], loras=(LoraChoice(lora.name),))
        (expected,), (encoded,) = generate(complete, [params]), generate(encoder, [params])
        assert encoded.error is None, encoded.error
        (painted,) = generate(painter, [msgspec.structs.replace(params, embeddings=encoded.result.embeddings)])
        assert painted.error is None, painted.error
        np.testing.assert_array_equal(painted.result.images[0], expected.result.images[0])
        images.append(expected.result.images[0])
    assert not any(np.array_equal(image, plain.result.images[0]) for image in images)
    (without,) = generate(encoder, PROMPTS[:1])
    changed, unchanged = (
        generate(encoder, [msgspec.structs.replace(PROMPTS[0], loras=(LoraChoice(lora.name),))])[0] for lora in loras
    )
    assert differ(changed, without), "the adapter of the text encoder works there"
    assert not differ(unchanged, without), "one without weights for it changes nothing"


def differ(one, other):
    return any(not np.array_equal(value, other.result.embeddings[key]) for key, value in one.result.embeddings.items())


def test_each_stage_loads_only_its_own_models(digits):
    assert isinstance(digits[PipelineParts.TEXT_ENCODERS]._pipe.transformer, UnloadedModel)
    assert isinstance(digits[PipelineParts.TEXT_ENCODERS]._pipe.vae, UnloadedModel)
    assert isinstance(digits[PipelineParts.ALL_BUT_TEXT_ENCODERS]._pipe.text_encoder, UnloadedModel)
    assert digits[PipelineParts.TEXT_ENCODERS].card.mode == "encode"


def test_prompts_are_encoded_together(digits):
    encoder = digits[PipelineParts.TEXT_ENCODERS]
    captions = [f"a {colour} seven on black background" for colour in ("red", "blue", "green", "white")]
    before = encoder.stats()["batched_calls"]
    together = generate(encoder, [GenerationParams(prompt=caption) for caption in captions])
    for caption, ended in zip(captions, together, strict=True):
        (alone,) = generate(encoder, [GenerationParams(prompt=caption)])
        np.testing.assert_allclose(ended.result.embeddings["0"], alone.result.embeddings["0"], atol=1e-5)
    assert encoder.stats()["batched_calls"] > before


def test_states_of_the_text_encoder_can_be_given_by_name(digits):
    params = GenerationParams(prompt="a blue seven on black background", seed=3, steps=4)
    (encoded,) = generate(digits[PipelineParts.TEXT_ENCODERS], [params])
    states = encoded.result.embeddings["0"][0]
    named = {"prompt_embeds": states, "prompt_embeds_mask": np.ones(len(states), np.int64)}
    complete = digits[PipelineParts.ALL]
    (expected,), (painted,) = (
        generate(complete, [params]),
        generate(complete, [msgspec.structs.replace(params, embeddings=named)]),
    )
    np.testing.assert_array_equal(painted.result.images[0], expected.result.images[0])


@pytest.mark.parametrize(
    ("embeddings", "says"),
    [
        pytest.param({"prompt_embeds": np.zeros((3, 65), np.float32)}, "65 wide, and this model takes 64", id="width"),
        pytest.param({"other": np.zeros((3, 64), np.float32)}, "takes no embeddings", id="no embeddings of a prompt"),
        pytest.param({"encode_prompt": np.frombuffer(b"[0]", np.uint8)}, "malformed", id="an array that is missing"),
        pytest.param({"encode_prompt": np.frombuffer(b"{", np.uint8)}, "malformed", id="a structure that is no JSON"),
        pytest.param({"encode_prompt": np.frombuffer(b"[]", np.uint8)}, "more prompts", id="too few prompts"),
    ],
)
def test_embeddings_that_do_not_fit_fail_their_request_alone(embeddings, says, digits):
    good = GenerationParams(prompt="a red one", seed=1, steps=2)
    bad, other = generate(digits[PipelineParts.ALL], [msgspec.structs.replace(good, embeddings=embeddings), good])
    assert isinstance(bad.error, RequestError)
    assert says in bad.error.message
    assert other.error is None


def test_a_pipeline_that_cannot_encode_on_its_own_is_refused_at_load(tmp_path):
    (specimen,) = (one for one in specimens() if one.name == "DDPMPipeline")
    specimen.build().save_pretrained(tmp_path)
    with pytest.raises(LoadError, match="no encode_prompt"):
        load(model_source.parse(str(tmp_path)), None, parts=PipelineParts.TEXT_ENCODERS)
