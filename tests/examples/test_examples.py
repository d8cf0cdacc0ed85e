"""The examples, each served as it is and asked for what it is for: `omni up` with the manifest itself, which takes its
models from a hub. The hub is a small one on this machine, and its models are tiny ones of the same classes with random
weights, so that what comes out can be compared with what diffusers and transformers make of the same model.

Of each stage runs one replica, however many the manifest asks for.
"""

import base64
import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import av
import diffusers
import httpx
import numpy as np
import pytest
import torch
import transformers
import yaml
from openai import BadRequestError, OpenAI
from PIL import Image

from omni_worker.api.videos.files import encode_variants
from omni_worker.models.digits_reader import Reading, read
from tests.hub import Hub
from tests.operator.commands.omni_processes import OmniUp, eventually, run_omni
from tests.worker.api.heads import save_specimen
from tests.worker.pipelines.zoo.text import prompt
from tests.worker.pipelines.zoo.text_llm import llm_tokenizer, qwen3

pytestmark = pytest.mark.processes
EXAMPLES = Path(__file__).parents[2] / "examples"
SERVED_ELSEWHERE = {"digits", "digits-thinker"}  # by tests/operator/commands/test_up.py and test_generate.py
PIPELINES = {
    "black-forest-labs/FLUX.1-dev": "FluxPipeline",
    "stabilityai/stable-diffusion-3.5-large": "StableDiffusion3Pipeline",
    "stabilityai/stable-diffusion-xl-base-1.0": "StableDiffusionXLPipeline",
    "Qwen/Qwen-Image": "QwenImagePipeline",
    "Wan-AI/Wan2.1-T2V-1.3B-Diffusers": "WanPipeline",
}
REWRITER = "Qwen/Qwen3-0.6B"
GATED = ("black-forest-labs/FLUX.1-dev", "stabilityai/stable-diffusion-3.5-large")
SEED, STEPS, SIZE = 7, 4, 32


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    """Tiny models under the names of large ones."""
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    models = {name: save_specimen(pipeline, folder / name) for name, pipeline in PIPELINES.items()}
    models[REWRITER] = folder / REWRITER
    qwen3().eval().save_pretrained(models[REWRITER])
    llm_tokenizer().save_pretrained(models[REWRITER])
    hub = Hub(models, GATED)
    yield hub
    hub.close()


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where downloads are kept, as in the volume of `spec.model.cache`."""
    return tmp_path_factory.mktemp("cache")


@contextmanager
def served(name: str, hub: Hub, cache: Path, folder: Path) -> Iterator[tuple[OpenAI, OmniUp]]:
    """The example on this machine, and a client of it."""
    manifest = yaml.safe_load((EXAMPLES / f"{name}.yaml").read_text())
    for part in (manifest["spec"], *manifest["spec"]["stages"]):
        part.update({"replicas": 1} if "replicas" in part else {})
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump(manifest, sort_keys=False))
    environment = {
        "HF_ENDPOINT": hub.url, "HF_HOME": str(cache), "HF_TOKEN": hub.token, "HF_HUB_OFFLINE": "0",
        "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    with OmniUp(folder, str(file), "--port=0", environment=environment) as up:
        yield OpenAI(base_url=f"{up.url}/v1", api_key="none", max_retries=0, timeout=120), up


def model(hub: Hub, name: str) -> Any:
    """The same model, as diffusers itself loads it."""
    warnings.simplefilter("ignore")
    pipe = diffusers.DiffusionPipeline.from_pretrained(hub.models[name])
    pipe.set_progress_bar_config(disable=True)
    return pipe


def own(pipe: Any, wish: str, **more: Any) -> np.ndarray:
    """What the pipeline's own call gives, in the numbers of a picture."""
    torch.set_num_threads(1)
    output = pipe(
        wish, width=SIZE, height=SIZE, num_inference_steps=STEPS, generator=torch.Generator().manual_seed(SEED),
        output_type="np", **more,
    )  # fmt: skip
    (made,) = output.frames if hasattr(output, "frames") else output.images
    return (made * 255).round().astype(np.uint8)


def drawn(client: OpenAI, wish: str, **extra: Any) -> tuple[np.ndarray, str | None]:
    """The picture of a wish, and the prompt that it was drawn from where another stage wrote that."""
    answer = client.images.generate(
        prompt=wish, size=f"{SIZE}x{SIZE}", extra_body={"seed": SEED, "num_inference_steps": STEPS, **extra}
    )
    assert answer.data
    picture = Image.open(io.BytesIO(base64.b64decode(answer.data[0].b64_json or "")))
    return np.asarray(picture.convert("RGB")), answer.data[0].revised_prompt


def test_there_is_a_test_of_every_example() -> None:
    told = set(re.findall(r'served\("([\w.-]+)"', Path(__file__).read_text()))
    told |= {row[0] for row in PICTURES} | SERVED_ELSEWHERE
    assert told == {file.stem for file in EXAMPLES.glob("*.yaml")}


PICTURES = [
    ("flux", "black-forest-labs/FLUX.1-dev", {"guidance_scale": 3.0}),
    ("sdxl", "stabilityai/stable-diffusion-xl-base-1.0", {"guidance_scale": 4.0, "negative_prompt": "low quality"}),
    ("stable-diffusion-3.5", "stabilityai/stable-diffusion-3.5-large", {"guidance_scale": 3.5}),
    ("qwen-image-two-stages", "Qwen/Qwen-Image", {"true_cfg_scale": 4.0, "negative_prompt": "low quality"}),
]


@pytest.mark.parametrize(("name", "source", "asked"), PICTURES, ids=[row[0] for row in PICTURES])
def test_a_picture_is_that_of_diffusers(
    name: str, source: str, asked: dict[str, Any], hub: Hub, cache: Path, tmp_path: Path
) -> None:
    expected = own(model(hub, source), prompt(1), **asked)
    extra = {"guidance_scale" if key == "true_cfg_scale" else key: value for key, value in asked.items()}
    with served(name, hub, cache, tmp_path) as (client, _):
        picture, _ = drawn(client, prompt(1), **extra)
    assert picture.shape == (SIZE, SIZE, 3)
    np.testing.assert_array_equal(picture, expected)


def test_a_rewritten_prompt_is_that_of_transformers_and_its_picture_that_of_diffusers(
    hub: Hub, cache: Path, tmp_path: Path
) -> None:
    rewriter = yaml.safe_load((EXAMPLES / "prompt-rewriting.yaml").read_text())["spec"]["stages"][0]
    words = transformers.AutoTokenizer.from_pretrained(hub.models[REWRITER])
    messages = [{"role": "system", "content": rewriter["system"]}, {"role": "user", "content": prompt(2)}]
    asked = words.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    writer = transformers.AutoModelForCausalLM.from_pretrained(hub.models[REWRITER])
    tokens = writer.generate(**asked, max_new_tokens=rewriter["maxTokens"], do_sample=False)
    written = words.decode(tokens[0, asked["input_ids"].shape[1] :], skip_special_tokens=True)
    expected = own(model(hub, PICTURES[1][1]), written)
    with served("prompt-rewriting", hub, cache, tmp_path) as (client, _):
        picture, rewritten = drawn(client, prompt(2))
        answer = client.chat.completions.create(
            model="prompt-rewriting", messages=[{"role": "user", "content": prompt(2)}], modalities=["text"]
        )
    assert rewritten == written
    assert answer.choices[0].message.content == written
    np.testing.assert_array_equal(picture, expected)


def test_a_video_has_the_frames_of_diffusers(hub: Hub, cache: Path, tmp_path: Path) -> None:
    """To the bit in the sheet of its frames; the video itself does not keep every bit."""
    made = own(model(hub, "Wan-AI/Wan2.1-T2V-1.3B-Diffusers"), prompt(3), num_frames=5)
    with served("wan-video", hub, cache, tmp_path) as (client, up):
        video = client.videos.create(
            prompt=prompt(3), size=f"{SIZE}x{SIZE}",  # type: ignore[arg-type] - of any size, not only of those of Sora
            extra_body={"seed": SEED, "num_inference_steps": STEPS, "num_frames": 5},
        )  # fmt: skip
        eventually(lambda: client.videos.retrieve(video.id).status in ("completed", "failed"), "the end of the video")
        file = client.videos.download_content(video.id).read()
        frames_of_it = client.videos.download_content(video.id, variant="spritesheet").read()
        client.videos.delete(video.id)
        asked = ["--size=32x32", f"--seed={SEED}", f"--steps={STEPS}", "--seconds=0.31"]
        done = run_omni(up.folder, "generate", prompt(3), "-o", str(tmp_path / "film.mp4"), *asked)
        wrong = run_omni(up.folder, "generate", prompt(3), "-o", str(tmp_path / "film.png"), *asked[:3])
        assert not list(client.videos.list()), "what was downloaded is deleted"
    assert frames_of_it == encode_variants(made, 16.0)["spritesheet"].data
    assert done.returncode == 0, done.stderr
    for mp4 in (file, (tmp_path / "film.mp4").read_bytes()):
        assert np.abs(decoded(mp4).astype(int) - made).mean() < 10
    assert done.stdout.startswith(f"{tmp_path / 'film.mp4'}  seed {SEED}  ")
    assert wrong.returncode == 1
    assert wrong.stderr.endswith("leave -o out for text, or give -o FILE.mp4 for a video\n")


def decoded(file: bytes) -> np.ndarray:
    with av.open(io.BytesIO(file)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def test_what_is_served_to_others_has_limits(hub: Hub, cache: Path, tmp_path: Path) -> None:
    """On this machine in plain HTTP and without keys: those are a cluster's Secrets."""
    with served("digits-public", hub, cache, tmp_path) as (client, up):
        picture, _ = drawn(client, "a red three on black background")
        with pytest.raises(BadRequestError, match="more than the 50 allowed"):
            drawn(client, "a red three", num_inference_steps=51)
        assert httpx.get(f"{up.url}/").status_code == 404, "there is no playground"
    assert read(Image.fromarray(picture)) == Reading(3, "red", "black")


def test_the_thinkers_words_are_the_painters_prompt(hub: Hub, cache: Path, tmp_path: Path) -> None:
    with served("digits-thinker-text", hub, cache, tmp_path) as (client, _):
        picture, written = drawn(client, "two plus five, in blue")
    assert written == "a blue seven on black background"
    assert read(Image.fromarray(picture)) == Reading(7, "blue", "black")
