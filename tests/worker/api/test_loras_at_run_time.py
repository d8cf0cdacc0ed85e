"""Adapters that clients add to a running pipeline, and those of its manifest, on every replica, whatever restarts."""

import json
from pathlib import Path

import diffusers
import httpx
import numpy as np
import pytest

from omni_worker.config.model_source import parse
from tests.worker.pipelines.adapters import write_adapter
from tests.worker.serving import Pipeline, draw, eventually

pytestmark = pytest.mark.processes
STAGE = {"id": 0, "name": "painter", "engine": "diffusion"}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder, model = tmp_path_factory.mktemp("loras"), parse("builtin://digits").location
    return {
        name: write_adapter(diffusers.DiffusionPipeline.from_pretrained(model), folder / f"{name}.safetensors", seed)
        for seed, name in enumerate(("ink", "oil"))
    }


@pytest.fixture(scope="module")
def pipeline():
    pipeline = Pipeline(stages=[STAGE])
    try:
        pipeline.add_stage(0)
        eventually(lambda: len(pipeline.up()) == 1, "a replica up")
        yield pipeline
    finally:
        pipeline.close()


def call(pipeline, method, path="", **body):
    url = f"http://127.0.0.1:{pipeline.head.port}/v1/omni/loras{path}"
    return httpx.request(method, url, timeout=600, **({"json": body} if body else {}))


def loaded(pipeline):
    """The adapters of each replica that is up."""
    stages = pipeline.head.get("/v1/omni/topology").json()["stages"]
    return [one["loras"] for one in stages[0]["replicas"] if one["state"] == "UP"]


def pixels(pipeline, **fields):
    return np.asarray(draw(pipeline.head.port, seed=1, **fields)[0]).astype(int)


def edit(pipeline, loras):
    """Replace the file of the stages, as the kubelet does."""
    file = Path(next(flag for flag in pipeline.head.argv if flag.endswith(".json")))
    (new := file.with_suffix(".new")).write_text(json.dumps({"stages": [{**STAGE, "loras": loras}]}))
    new.replace(file)


def test_the_life_of_an_adapter(pipeline, files):
    plain = pixels(pipeline)
    added = call(pipeline, "POST", name="ink", source=str(files["ink"]), scale=0.5)
    assert (added.status_code, added.json()["state"]) == (200, "loaded"), added.text
    assert added.json()["size"] == files["ink"].stat().st_size
    ink = pixels(pipeline, model="ink")
    assert np.abs(ink - plain).max() > 5
    assert np.abs(pixels(pipeline, loras=[{"name": "ink", "scale": 0.5}]) - ink).max() <= 1

    failed = call(pipeline, "POST", name="sand", source="/nowhere/sand.safetensors")
    assert failed.status_code == 400
    assert "there is no file /nowhere/sand.safetensors" in failed.json()["error"]["message"]
    (listed,) = (one for one in call(pipeline, "GET").json()["loras"] if one["name"] == "sand")
    assert (listed["state"], listed["replicas"]) == ("failed", [])
    assert "there is no file" in listed["reason"]
    asked = httpx.post(
        f"http://127.0.0.1:{pipeline.head.port}/v1/images/generations",
        json={"prompt": "a", "model": "sand"},
        timeout=60,
    )
    assert asked.status_code == 503
    assert "there is no file /nowhere/sand.safetensors" in asked.json()["error"]["message"]
    assert call(pipeline, "DELETE", "/sand").json() == {"name": "sand", "deleted": True}

    edit(pipeline, [{"name": "oil", "source": str(files["oil"]), "scale": 1.0}])
    eventually(lambda: loaded(pipeline) == [["ink", "oil"]], "the adapter of the manifest is loaded")
    pipeline.add_stage(0)
    eventually(lambda: [sorted(one) for one in loaded(pipeline)] == [["ink", "oil"]] * 2, "the second replica has both")
    restarted = pipeline.headless[0]
    restarted.stop()
    restarted.start()
    eventually(lambda: [sorted(one) for one in loaded(pipeline)] == [["ink", "oil"]] * 2, "so has one that restarted")
    pipeline.head.stop()
    pipeline.head.start()
    names = lambda: {one["name"]: one["origin"] for one in call(pipeline, "GET").json()["loras"]}  # noqa: E731
    eventually(lambda: names() == {"ink": "api", "oil": "spec"}, "the head that restarted has learned of the first one")
    eventually(lambda: [sorted(one) for one in loaded(pipeline)] == [["ink", "oil"]] * 2, "all are up again")
    assert np.abs(pixels(pipeline, model="ink") - ink).max() <= 1

    edit(pipeline, [])
    eventually(lambda: loaded(pipeline) == [["ink"]] * 2, "the adapter of the manifest is unloaded")
    refused = call(pipeline, "DELETE", "/oil")
    assert refused.status_code == 404
    assert call(pipeline, "DELETE", "/ink").status_code == 200
    eventually(lambda: loaded(pipeline) == [[]] * 2, "the one that was added is unloaded")
    assert np.abs(pixels(pipeline) - plain).max() <= 1
