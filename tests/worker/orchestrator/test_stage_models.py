"""Stages that serve different models, or different parts of one model, over HTTP with real processes."""

import warnings

import numpy as np
import pytest

from omni_worker.models import DIGITS
from tests.worker.pipelines.survey import specimens
from tests.worker.serving import Pipeline, client_of, draw, eventually


def serve(model: str, stages: list[dict], *processes: tuple) -> Pipeline:
    pipeline = Pipeline(model, stages=stages)
    try:
        for id, *flags in processes:
            pipeline.add_stage(id, *flags)
        eventually(pipeline.head.is_ready, "all stages up")
    except BaseException:
        pipeline.close()
        raise
    return pipeline


def test_the_text_encoder_on_one_stage_and_the_rest_on_another_paint_what_the_whole_paints():
    divided = serve(
        "builtin://digits",
        [
            {"id": 0, "name": "encoder", "engine": "autoregressive", "task": "encode"},
            {"id": 1, "name": "painter", "engine": "diffusion", "input": "hidden-states"},
        ],
        (0, "--task", "encode"),
        (1, "--no-text-encoder"),
    )
    try:
        whole = serve("builtin://digits", [{"id": 0, "name": "painter", "engine": "diffusion"}], (0,))
        try:
            for seed, prompt in enumerate(["a red three on black background", "green 8 on grey", "a blue one"]):
                (one,) = draw(divided.head.port, prompt, seed=seed, steps=4 + seed)
                (other,) = draw(whole.head.port, prompt, seed=seed, steps=4 + seed)
                assert np.abs(np.asarray(one, int) - np.asarray(other, int)).max() <= 2
            (positive,) = draw(divided.head.port, "a red three", seed=7, negative_prompt="blue", guidance_scale=3)
            (expected,) = draw(whole.head.port, "a red three", seed=7, negative_prompt="blue", guidance_scale=3)
            assert np.abs(np.asarray(positive, int) - np.asarray(expected, int)).max() <= 2
        finally:
            whole.close()
    finally:
        divided.close()


@pytest.mark.filterwarnings("ignore")
def test_any_language_model_writes_prompts_for_any_text_to_image_model(tmp_path):
    warnings.simplefilter("ignore")
    (specimen,) = (one for one in specimens() if one.name == "StableDiffusionPipeline")
    specimen.build().save_pretrained(tmp_path)
    writer = str(DIGITS / "thinker")
    pipeline = serve(
        str(tmp_path),
        [
            {"id": 0, "name": "rewriter", "engine": "autoregressive", "model": writer, "max_tokens": 12},
            {"id": 1, "name": "painter", "engine": "diffusion", "input": "text"},
        ],
        (0,),
        (1,),
    )
    try:
        answer = client_of(pipeline.head.port).images.generate(
            prompt="three plus four, in green", size="32x32", extra_body={"seed": 1, "steps": 2}
        )
        assert answer.data[0].revised_prompt == "a green seven on black background"
        assert answer.data[0].b64_json
    finally:
        pipeline.close()
