"""The argument of --lora, and the file of an adapter."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from omni_worker.config.lora_source import LoraSource, parse, parse_all
from omni_worker.errors import LoadError, UsageError
from tests.hub import Hub


@pytest.mark.parametrize(
    ("text", "lora"),
    [
        ("ink=/loras/ink.safetensors", LoraSource("ink", "/loras/ink.safetensors")),
        ("ink=hf://org/name@v1", LoraSource("ink", "hf://org/name@v1")),
        (
            '{"name": "ink", "source": "loras", "weightName": "a.safetensors", "scale": 2}',
            LoraSource("ink", "loras", "a.safetensors", 2.0),
        ),
    ],
)
def test_it_is_parsed(text, lora):
    assert parse(text) == lora


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("ink", "where does 'ink' come from?"),
        ("=loras", "a name has"),
        ("a/b=loras", "a name has"),
        ("ink=", "where does"),
        ('{"name": "ink"}', "source"),
        ('{"name": "ink", "source": "x", "scale": "much"}', "much"),
        ('{"name": "ink", "source": "x", "weight": 1}', "weight"),
        ("{nonsense", "malformed"),
    ],
)
def test_a_wrong_one_is_refused(text, words):
    with pytest.raises(UsageError, match="give NAME=SOURCE") as raised:
        parse(text)
    assert words in str(raised.value)


def test_a_name_is_given_once():
    with pytest.raises(UsageError, match="the same name, among a, a"):
        parse_all(["a=x", "a=y"])


def test_the_file_is_found(tmp_path):
    only = tmp_path / "one" / "sub" / "only.safetensors"
    only.parent.mkdir(parents=True)
    only.touch()
    assert LoraSource("ink", str(tmp_path / "one")).find() == only
    assert LoraSource("ink", str(only)).find() == only
    several = tmp_path / "several"
    several.mkdir()
    (several / "a.safetensors").touch()
    (several / "b.safetensors").touch()
    with pytest.raises(LoadError, match=r"several: a.safetensors, b.safetensors; name one as weightName"):
        LoraSource("ink", str(several)).find()
    assert LoraSource("ink", str(several), "b.safetensors").find() == several / "b.safetensors"
    (several / "pytorch_lora_weights.safetensors").touch()
    assert LoraSource("ink", str(several)).find().name == "pytorch_lora_weights.safetensors"
    with pytest.raises(LoadError, match="there is no file"):
        LoraSource("ink", str(several), "c.safetensors").find()
    with pytest.raises(LoadError, match="there is no file"):
        LoraSource("ink", str(tmp_path / "nowhere")).find()
    (tmp_path / "empty").mkdir()
    with pytest.raises(LoadError, match="has none"):
        LoraSource("ink", str(tmp_path / "empty")).find()


FIND = "from omni_worker.config.lora_source import LoraSource; print(LoraSource('ink', 'hf://org/ink@main').find())"


def test_a_repository_is_downloaded_once(tmp_path):
    folder = tmp_path / "ink"
    folder.mkdir()
    (folder / "ink.safetensors").write_bytes(b"weights")
    (folder / "README.md").write_text("ink")
    hub = Hub({"org/ink": folder})
    try:
        for offline in ("0", "1"):
            environment = {"HF_HOME": str(tmp_path / "home"), "HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": offline}
            ended = subprocess.run(
                [sys.executable, "-c", FIND], capture_output=True, text=True, env={**os.environ, **environment}
            )
            assert ended.returncode == 0, ended.stderr
            assert Path(ended.stdout.strip()).read_bytes() == b"weights"
        assert [name.rpartition("/")[2] for name in hub.downloads] == ["ink.safetensors"]
    finally:
        hub.close()
