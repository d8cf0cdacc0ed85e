"""Reading the only pipeline of a YAML file."""

from pathlib import Path

import pytest

from omni_operator.crd.manifest_file import ManifestError, load

EXAMPLES = sorted((Path(__file__).parents[3] / "examples").glob("*.yaml"))
GOOD = """
apiVersion: omnipipeline.dev/v1alpha1
kind: OmniPipeline
metadata: {name: digits}
spec:
  model: {source: builtin://digits}
  stages: [{name: painter, engine: diffusion}]
"""
NAMESPACE = "{apiVersion: v1, kind: Namespace, metadata: {name: gallery}}"

BAD = {
    "an empty file": ("", "there is no OmniPipeline in it; expected a document with `kind: OmniPipeline`"),
    "only other kinds": (NAMESPACE, "there is no OmniPipeline in it"),
    "two pipelines": (f"{GOOD}\n---\n{GOOD}", "there are 2 OmniPipelines in it; keep one to a file"),
    "a bracket left open": ("a: 1\nb: [1, 2\nc: 3\n", "not YAML: line 3"),
    "a tab for indentation": ("a:\n\tb: 1\n", "not YAML: line 2, column 1: found character '\\t'"),
    "several problems": (
        GOOD.replace("name: painter,", "name: painter, replicas: -1, colour: red,"),
        "2 problems\n  - spec.stages[0].replicas: -1 is negative",
    ),
    "metadata that is text": (GOOD.replace("{name: digits}", "digits"), "metadata:"),
}


@pytest.mark.parametrize("row", BAD)
def test_a_file_that_cannot_be_used_says_why(tmp_path: Path, row: str) -> None:
    content, expected = BAD[row]
    file = tmp_path / "pipeline.yaml"
    file.write_text(content)
    with pytest.raises(ManifestError) as caught:
        load(str(file))
    assert str(caught.value).startswith(f"{file}: ")
    assert expected in str(caught.value)
    assert caught.value.exit_code == 2


def test_a_missing_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="there is no such file"):
        load(str(tmp_path / "missing.yaml"))


def test_a_folder_is_no_manifest(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="Is a directory"):
        load(str(tmp_path))


def test_bytes_are_no_manifest(tmp_path: Path) -> None:
    file = tmp_path / "pipeline.yaml"
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ManifestError, match="expected YAML in UTF-8"):
        load(str(file))


def test_other_kinds_beside_the_pipeline_are_passed_over(tmp_path: Path) -> None:
    file = tmp_path / "pipeline.yaml"
    file.write_text(f"{NAMESPACE}\n---\n{GOOD}")
    assert load(str(file)).name == "digits"


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_every_example_is_valid(example: Path) -> None:
    assert load(str(example)).spec.stages
