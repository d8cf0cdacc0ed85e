"""Serves each example with `omni up` and uses it for its purpose.

The manifests take their models from a hub. Here, that is a small hub on this machine. Its models are tiny ones of the
same classes with random weights, so that the output can be compared with that of diffusers and transformers. Every
stage runs a single replica, whatever the manifest says.
"""

import base64
import io
import json
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
from tests.loopback import Loopback, QuietHandler
from tests.operator.commands.omni_processes import OmniUp, eventually, run_omni
from tests.worker.api.audio.sounds import as_16_bits, diffusers_sound, save_sound
from tests.worker.api.audio.sounds import decoded as decoded_sound
from tests.worker.api.heads import save_specimen
from tests.worker.pipelines.survey import own_result, specimen
from tests.worker.pipelines.zoo import modular_new
from tests.worker.pipelines.zoo.modular import save_for_hub
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
SOUND_PIPELINES = {
    "stabilityai/stable-audio-open-1.0": "StableAudioPipeline",
    "cvssp/audioldm2": "AudioLDM2Pipeline",
    "ACE-Step/acestep-v15-xl-turbo-diffusers": "AceStepPipeline",
}
REWRITER = "Qwen/Qwen3-0.6B"
MODULAR = "black-forest-labs/flux-3-image-klein"
GATED = (
    "black-forest-labs/FLUX.1-dev", "stabilityai/stable-diffusion-3.5-large", "stabilityai/stable-audio-open-1.0",
    MODULAR,
)  # fmt: skip
FLUX_3 = specimen(modular_new, "Flux3DistilledModularPipeline")
SEED, STEPS, SIZE = 7, 4, 32
SOUND_RATE = 1600
"""Samples a second, where no vocoder sets them."""


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    """A hub with tiny models under the names of large ones."""
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    models = {name: save_specimen(pipeline, folder / name) for name, pipeline in PIPELINES.items()}
    models |= {name: save_sound(pipeline, folder / name, SOUND_RATE) for name, pipeline in SOUND_PIPELINES.items()}
    models[MODULAR] = save_for_hub(FLUX_3.build(), folder / MODULAR, MODULAR)
    models[REWRITER] = folder / REWRITER
    qwen3().eval().save_pretrained(models[REWRITER])
    llm_tokenizer().save_pretrained(models[REWRITER])
    hub = Hub(models, GATED)
    yield hub
    hub.close()


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder for downloads, like the volume of `spec.model.cache`."""
    return tmp_path_factory.mktemp("cache")


@contextmanager
def served(
    name: str, hub: Hub, cache: Path, folder: Path, replaced: tuple[str, str] = (" ", " ")
) -> Iterator[tuple[OpenAI, OmniUp]]:
    """Serves an example on this machine; yields an OpenAI client and the process.

    `replaced`: a text of the manifest, and what takes its place
    """
    manifest = yaml.safe_load((EXAMPLES / f"{name}.yaml").read_text().replace(*replaced))
    for part in (manifest["spec"], *manifest["spec"]["stages"]):
        part.update({"replicas": 1} if "replicas" in part else {})
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump(manifest, sort_keys=False))
    environment = {
        "HF_ENDPOINT": hub.url, "HF_HOME": str(cache), "HF_TOKEN": hub.token, "HF_HUB_OFFLINE": "0",
        "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    with OmniUp(folder, str(file), "--port=0", environment=environment) as up:
        yield OpenAI(base_url=f"{up.url}/v1", api_key="none", max_retries=0, timeout=600), up


def diffusers_pipeline(hub: Hub, name: str) -> Any:
    """The same model, loaded by diffusers."""
    warnings.simplefilter("ignore")
    pipe = diffusers.DiffusionPipeline.from_pretrained(hub.models[name])
    pipe.set_progress_bar_config(disable=True)
    return pipe


def modular_pipeline(folder: Path) -> Any:
    """A modular pipeline, loaded by diffusers. It takes the components from its folder, not from the hub."""
    pipe = diffusers.ModularPipeline.from_pretrained(str(folder))
    pipe.load_components()
    return pipe


def diffusers_output(pipe: Any, text: str, **more: Any) -> np.ndarray:
    """The image or video of a plain call of the pipeline, as 8-bit pixels."""
    torch.set_num_threads(1)
    output = pipe(
        text, width=SIZE, height=SIZE, num_inference_steps=STEPS, generator=torch.Generator().manual_seed(SEED),
        output_type="np", **more,
    )  # fmt: skip
    (pixels,) = output.frames if hasattr(output, "frames") else output.images
    return (pixels * 255).round().astype(np.uint8)


def generate(client: OpenAI, text: str, **extra: Any) -> tuple[np.ndarray, str | None]:
    """The image of a prompt, and the prompt that a stage before wrote for it, if there is one."""
    response = client.images.generate(
        prompt=text, size=f"{SIZE}x{SIZE}", extra_body={"seed": SEED, "num_inference_steps": STEPS, **extra}
    )
    assert response.data
    image = Image.open(io.BytesIO(base64.b64decode(response.data[0].b64_json or "")))
    return np.asarray(image.convert("RGB")), response.data[0].revised_prompt


def test_every_example_has_a_test() -> None:
    tested = set(re.findall(r'served\("([\w.-]+)"', Path(__file__).read_text()))
    tested |= {row[0] for row in (*PICTURES, *SOUNDS)} | SERVED_ELSEWHERE
    assert tested == {file.stem for file in EXAMPLES.glob("*.yaml")}


ROUNDED = {"flux-two-gpus"}
"""Examples whose devices divide sums, and so round in another order than one device does."""
SDXL = "stabilityai/stable-diffusion-xl-base-1.0"
PICTURES = [
    ("flux", "black-forest-labs/FLUX.1-dev", {"guidance_scale": 3.0}),
    ("flux-two-gpus", "black-forest-labs/FLUX.1-dev", {"guidance_scale": 3.0}),
    ("sdxl", SDXL, {"guidance_scale": 4.0, "negative_prompt": "low quality"}),
    ("stable-diffusion-3.5", "stabilityai/stable-diffusion-3.5-large", {"guidance_scale": 3.5}),
    ("stable-diffusion-3.5-24gb", "stabilityai/stable-diffusion-3.5-large", {"guidance_scale": 3.5}),
    ("qwen-image-two-stages", "Qwen/Qwen-Image", {"true_cfg_scale": 4.0, "negative_prompt": "low quality"}),
]


@pytest.mark.parametrize(("name", "source", "options"), PICTURES, ids=[row[0] for row in PICTURES])
def test_an_image_equals_that_of_diffusers(
    name: str, source: str, options: dict[str, Any], hub: Hub, cache: Path, tmp_path: Path
) -> None:
    expected = diffusers_output(diffusers_pipeline(hub, source), prompt(1), **options)
    extra = {"guidance_scale" if key == "true_cfg_scale" else key: value for key, value in options.items()}
    with served(name, hub, cache, tmp_path) as (client, _):
        picture, _ = generate(client, prompt(1), **extra)
    assert picture.shape == (SIZE, SIZE, 3)
    levels = 1 if name in ROUNDED else 0
    np.testing.assert_allclose(picture.astype(int), expected.astype(int), rtol=0, atol=levels)


def test_an_image_of_a_modular_pipeline_equals_that_of_diffusers(hub: Hub, cache: Path, tmp_path: Path) -> None:
    arguments = {**FLUX_3.arguments(1), "num_inference_steps": STEPS, "generator": torch.Generator().manual_seed(SEED)}
    (pixels,) = own_result(modular_pipeline(hub.models[MODULAR]), dict(arguments))
    more = {name: arguments[name] for name in ("max_sequence_length", "text_encoder_out_layers", "max_new_tokens")}
    with served("flux3", hub, cache, tmp_path) as (client, _):
        picture, _ = generate(client, prompt(1), guidance_scale=arguments.get("guidance_scale"), extra_args=more)
    np.testing.assert_array_equal(picture, (pixels[0] * 255).round().astype(np.uint8))


def test_a_rewritten_prompt_equals_that_of_transformers_and_its_image_that_of_diffusers(
    hub: Hub, cache: Path, tmp_path: Path
) -> None:
    rewriter = yaml.safe_load((EXAMPLES / "prompt-rewriting.yaml").read_text())["spec"]["stages"][0]
    words = transformers.AutoTokenizer.from_pretrained(hub.models[REWRITER])
    messages = [{"role": "system", "content": rewriter["system"]}, {"role": "user", "content": prompt(2)}]
    inputs = words.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    writer = transformers.AutoModelForCausalLM.from_pretrained(hub.models[REWRITER])
    tokens = writer.generate(**inputs, max_new_tokens=rewriter["maxTokens"], do_sample=False)
    written = words.decode(tokens[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    expected = diffusers_output(diffusers_pipeline(hub, SDXL), written)
    with served("prompt-rewriting", hub, cache, tmp_path) as (client, _):
        picture, rewritten = generate(client, prompt(2))
        answer = client.chat.completions.create(
            model="prompt-rewriting", messages=[{"role": "user", "content": prompt(2)}], modalities=["text"]
        )
    assert rewritten == written
    assert answer.choices[0].message.content == written
    np.testing.assert_array_equal(picture, expected)


class WritingServer(Loopback):
    """A server of OpenAI's API that always writes the same text. `asked` are the keys and bodies that it got."""

    def __init__(self, text: str) -> None:
        asked: list[tuple[str | None, Any]] = []
        self.asked = asked
        chunk = {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": "stop"}]}
        stream = f"data: {json.dumps(chunk)}\n\ndata: [DONE]\n\n"

        class Handler(QuietHandler):
            def do_GET(self) -> None:
                self.send("application/json", '{"data": []}')

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                asked.append((self.headers["Authorization"], body))
                self.send("text/event-stream", stream)

            def send(self, kind: str, content: str) -> None:
                self.send_response(200)
                self.send_header("Content-Type", kind)
                self.end_headers()
                self.wfile.write(content.encode())

        super().__init__(Handler)


def test_a_server_elsewhere_writes_the_prompt(
    hub: Hub, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = diffusers_output(diffusers_pipeline(hub, SDXL), prompt(4))
    server = WritingServer(prompt(4))
    rewriter = yaml.safe_load((EXAMPLES / "external-rewriter.yaml").read_text())["spec"]["stages"][0]
    monkeypatch.setenv("OMNI_ENDPOINT_KEY_REWRITER", "a-key")
    with served("external-rewriter", hub, cache, tmp_path, ("http://vllm.models.svc:8000", server.url)) as (client, _):
        picture, rewritten = generate(client, "a fox")
    server.close()
    assert rewritten == prompt(4)
    np.testing.assert_array_equal(picture, expected)
    ((key, body),) = server.asked
    assert key == "Bearer a-key"
    assert (body["model"], body["max_tokens"]) == ("Qwen/Qwen3-8B", rewriter["maxTokens"])
    system, user = body["messages"]
    assert (system["role"], system["content"]) == ("system", rewriter["system"])
    assert (user["role"], user["content"]) == ("user", "a fox")


def test_a_video_has_the_frames_of_diffusers(hub: Hub, cache: Path, tmp_path: Path) -> None:
    """The sprite sheet of the frames is exact. The video itself is compressed."""
    expected = diffusers_output(diffusers_pipeline(hub, "Wan-AI/Wan2.1-T2V-1.3B-Diffusers"), prompt(3), num_frames=5)
    with served("wan-video", hub, cache, tmp_path) as (client, up):
        video = client.videos.create(
            prompt=prompt(3), size=f"{SIZE}x{SIZE}",  # type: ignore[arg-type] - of any size, not only of those of Sora
            extra_body={"seed": SEED, "num_inference_steps": STEPS, "num_frames": 5},
        )  # fmt: skip
        eventually(lambda: client.videos.retrieve(video.id).status in ("completed", "failed"), "the end of the video")
        file = client.videos.download_content(video.id).read()
        sprite_sheet = client.videos.download_content(video.id, variant="spritesheet").read()
        client.videos.delete(video.id)
        flags = ["--size=32x32", f"--seed={SEED}", f"--steps={STEPS}", "--seconds=0.31"]
        done = run_omni(up.folder, "generate", prompt(3), "-o", str(tmp_path / "film.mp4"), *flags)
        wrong = run_omni(up.folder, "generate", prompt(3), "-o", str(tmp_path / "film.png"), *flags[:3])
        assert not list(client.videos.list()), "omni generate deletes its jobs"
    assert sprite_sheet == encode_variants(expected, 16.0)["spritesheet"].data
    assert done.returncode == 0, done.stderr
    for mp4 in (file, (tmp_path / "film.mp4").read_bytes()):
        assert np.abs(decoded(mp4).astype(int) - expected).mean() < 10
    assert done.stdout.startswith(f"{tmp_path / 'film.mp4'}  seed {SEED}  ")
    assert wrong.returncode == 1
    assert wrong.stderr.endswith("leave -o out for text, or give -o FILE.mp4 for a video, or FILE.wav for sound\n")


SOUNDS: list[tuple[str, str, str, dict[str, Any]]] = [
    ("stable-audio", "stabilityai/stable-audio-open-1.0", "audio_end_in_s", {"audio_start_in_s": 0.05}),
    ("audioldm2", "cvssp/audioldm2", "audio_length_in_s", {}),
    ("ace-step", "ACE-Step/acestep-v15-xl-turbo-diffusers", "audio_duration", {"lyrics": "a cat"}),
]


@pytest.mark.parametrize(("name", "source", "length", "more"), SOUNDS, ids=[row[0] for row in SOUNDS])
def test_a_sound_has_the_samples_of_diffusers(
    name: str, source: str, length: str, more: dict[str, Any], hub: Hub, cache: Path, tmp_path: Path
) -> None:
    end = 0.25 + more.get("audio_start_in_s", 0)
    arguments = {"num_inference_steps": STEPS, "guidance_scale": 2.0, length: end, **more}
    expected = as_16_bits(diffusers_sound(hub.models[source], prompt(1), SEED, **arguments))
    song = tmp_path / "song.flac"
    flags = ["--seconds=0.25", f"--seed={SEED}", f"--steps={STEPS}", "--guidance=2"]
    with served(name, hub, cache, tmp_path) as (client, up):
        answer = client.audio.speech.create(
            model=name, voice="alloy", input=prompt(1), response_format="wav",
            extra_body={
                "seed": SEED, "num_inference_steps": STEPS, "guidance_scale": 2.0, "seconds": 0.25, "extra_args": more,
            },
        )  # fmt: skip
        options = [f"--extra-arg={key}={value}" for key, value in more.items()]
        done = run_omni(up.folder, "generate", prompt(1), "-o", str(song), *flags, *options)
    assert expected.std() > 100, "it is not silence"
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{song}  seed {SEED}  ")
    for file in (answer.read(), song.read_bytes()):
        samples, rate = decoded_sound(file)
        assert rate == (16_000 if name == "audioldm2" else SOUND_RATE)
        np.testing.assert_allclose(as_16_bits(samples), expected, atol=1)


def decoded(file: bytes) -> np.ndarray:
    with av.open(io.BytesIO(file)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def test_the_public_example_has_limits(hub: Hub, cache: Path, tmp_path: Path) -> None:
    """On this machine it has neither TLS nor API keys, because those come from Secrets of a cluster."""
    with served("digits-public", hub, cache, tmp_path) as (client, up):
        picture, _ = generate(client, "a red three on black background")
        with pytest.raises(BadRequestError, match="more than the 50 allowed"):
            generate(client, "a red three", num_inference_steps=51)
        assert httpx.get(f"{up.url}/").status_code == 404, "there is no playground"
    assert read(Image.fromarray(picture)) == Reading(3, "red", "black")


def test_the_text_of_the_thinker_is_the_prompt_of_the_painter(hub: Hub, cache: Path, tmp_path: Path) -> None:
    with served("digits-thinker-text", hub, cache, tmp_path) as (client, _):
        picture, written = generate(client, "two plus five, in blue")
    assert written == "a blue seven on black background"
    assert read(Image.fromarray(picture)) == Reading(7, "blue", "black")
