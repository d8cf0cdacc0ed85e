"""The shipped model, used as anyone would: plain `DiffusionPipeline.from_pretrained`, no attribute set, no patch."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline, QwenImagePipeline
from PIL import Image
from safetensors import safe_open

from omni_worker.models import DIGITS
from omni_worker.models.digits_reader import Reading, held_out_accuracy, read
from omni_worker.models.digits_recipe import scoring
from omni_worker.models.digits_recipe.captions import (
    NULL_PROMPT,
    UNKNOWN,
    Request,
    random_requests,
    vocabulary,
    wording,
)
from omni_worker.models.digits_recipe.pictures import Album

MEGABYTE = 1_000_000


@pytest.fixture(scope="module")
def pipeline() -> QwenImagePipeline:
    return scoring.load(DIGITS)


def test_200_prompts_show_the_right_digit_and_colour_at_32x32(pipeline: QwenImagePipeline) -> None:
    score = scoring.score(pipeline, count=200, size=32)
    print(f"32x32: {score}")
    assert score.digit >= 0.95
    assert score.colour >= 0.98
    assert score.background >= 0.98


def test_100_prompts_show_the_right_digit_and_colour_at_64x64(pipeline: QwenImagePipeline) -> None:
    score = scoring.score(pipeline, count=100, size=64)
    print(f"64x64: {score}")
    assert score.digit >= 0.96
    assert score.colour >= 0.98


def test_a_visitor_s_own_wording_works(pipeline: QwenImagePipeline) -> None:
    """Captions as people write them: numerals, other orders, no background, unknown words."""
    words = random.Random(7)
    asked, captions = [], []
    while len(asked) < 60:
        request = random_requests(1, seed=words.randrange(10**6))[0]
        caption = wording(request, words)
        if caption != request.caption:
            asked.append(request)
            captions.append(caption)
    score = scoring.grade(asked, [read(picture) for picture in scoring.paint(pipeline, captions)])
    print(f"in a visitor's words: {score}")
    assert score.digit >= 0.95
    assert score.colour >= 0.95


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("A Red Three On Black Background", Reading(3, "red", "black")),
        ("red 3 on grey", Reading(3, "red", "grey")),
        ("a red three", Reading(3, "red", "black")),
        ("the number 3 in red", Reading(3, "red", "black")),
        ("a handwritten red three", Reading(3, "red", "black")),
        ("a splendiferous red three", Reading(3, "red", "black")),
    ],
)
def test_wording_from_the_readme(pipeline: QwenImagePipeline, caption: str, expected: Reading) -> None:
    pictures = list(scoring.paint(pipeline, [caption] * 5, seed=40))
    assert sum(read(picture) == expected for picture in pictures) >= 4


@pytest.mark.parametrize("caption", ["", " ", "xyzzy", "日本語 ünïcode 🙂", "<unk>", "\n\n", "red " * 400])
def test_unknown_and_odd_prompts_still_paint(pipeline: QwenImagePipeline, caption: str) -> None:
    (picture,) = scoring.paint(pipeline, [caption])
    assert picture.size == (32, 32)


@pytest.mark.parametrize("options", [{}, {"torch_dtype": torch.float32}], ids=["plain", "float32"])
def test_every_part_loads_in_one_dtype_and_paints(options: dict[str, torch.dtype]) -> None:
    loaded = DiffusionPipeline.from_pretrained(DIGITS, **options)
    assert isinstance(loaded, QwenImagePipeline)
    assert {part.dtype for part in (loaded.text_encoder, loaded.transformer, loaded.vae)} == {torch.float32}
    assert next(scoring.paint(loaded, ["a red three on black background"])).size == (32, 32)


def test_the_same_seed_paints_the_same_picture(pipeline: QwenImagePipeline) -> None:
    first, second, other = (
        np.asarray(next(scoring.paint(pipeline, ["a blue eight on grey background"], seed=seed))) for seed in (3, 3, 4)
    )
    assert np.array_equal(first, second)
    assert not np.array_equal(first, other)


def test_the_template_is_the_34_tokens_that_the_pipeline_drops(pipeline: QwenImagePipeline) -> None:
    prefix = pipeline.prompt_template_encode.split("{}")[0]
    tokens = pipeline.tokenizer.convert_ids_to_tokens(pipeline.tokenizer(prefix).input_ids)
    assert len(tokens) == pipeline.prompt_template_encode_start_idx == 34
    assert UNKNOWN not in tokens
    assert (tokens[0], tokens[-1]) == ("<|im_start|>", "\n")


def test_every_training_caption_is_made_of_known_words(pipeline: QwenImagePipeline) -> None:
    words = random.Random(0)
    for request in random_requests(300, seed=1):
        caption = wording(request, words)
        tokens = pipeline.tokenizer.convert_ids_to_tokens(pipeline.tokenizer(caption).input_ids)
        assert tokens.count(UNKNOWN) == caption.count(UNKNOWN), caption
    assert pipeline.tokenizer.get_vocab() == vocabulary()


def test_canonical_captions_all_have_the_same_length(pipeline: QwenImagePipeline) -> None:
    """So that requests for them can share a batch without padding."""
    captions = [Request(digit, "red", "grey").caption for digit in range(10)]
    assert {len(ids) for ids in pipeline.tokenizer(captions).input_ids} == {6}
    assert pipeline.tokenizer(NULL_PROMPT).input_ids == []


def test_the_folder_is_at_most_8_megabytes_of_fp16_weights() -> None:
    files = [path for path in DIGITS.rglob("*") if path.is_file()]
    weights = [path for path in files if path.suffix == ".safetensors" and path.parent.name != "thinker"]
    assert sum(path.stat().st_size for path in files) <= 8 * MEGABYTE
    assert len(weights) == 3
    for path in weights:
        with safe_open(path, framework="np") as tensors:
            assert {tensors.get_slice(name).get_dtype() for name in tensors.keys()} == {"F16"}  # noqa: SIM118


def test_the_serving_defaults_are_what_the_scores_hold_for() -> None:
    assert json.loads((DIGITS / "omni.json").read_text())["defaults"] == {
        "num_inference_steps": 4,
        "guidance_scale": 2.0,
        "negative_prompt": " ",
        "width": 32,
        "height": 32,
    }


def test_the_model_card_names_the_data_and_both_licences() -> None:
    card = (DIGITS / "README.md").read_text()
    for fact in ("Optical Recognition of Handwritten Digits", "10.24432/C50P49", "CC BY 4.0", "Apache-2.0"):
        assert fact in card


@pytest.mark.parametrize("size", [32, 64])
def test_the_reader_reads_scans_it_has_never_seen(size: int) -> None:
    assert held_out_accuracy(size) >= 0.98


@pytest.mark.parametrize("size", [32, 64])
def test_the_reader_reads_every_colour_on_every_background(size: int) -> None:
    batch = Album(size, seed=5).draw(100)
    pixels = ((batch.pictures.transpose(0, 2, 3, 1) + 1) * 127.5).round().astype(np.uint8)
    score = scoring.grade(batch.requests, [read(Image.fromarray(picture)) for picture in pixels])
    assert (score.colour, score.background) == (1.0, 1.0)
    assert score.digit >= 0.98


def test_the_reader_refuses_what_is_not_a_square_picture() -> None:
    with pytest.raises(ValueError, match=r"\(16, 48, 3\)"):
        read(np.zeros((16, 48, 3), np.uint8))


def test_the_recipe_is_not_needed_to_serve() -> None:
    assert not list(Path(DIGITS).rglob("*.py"))
