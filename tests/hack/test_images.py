"""Which torch the worker image gets, and what is said about it."""

import pytest
from hack.cluster import images
from hack.cluster.images import build_arguments, torch_build

PYTORCH = "https://mirror.example.org/whl/cpu"


@pytest.mark.parametrize(
    ("index", "has_own", "arguments"),
    [
        (None, False, []),  # the Dockerfile's default
        (None, True, ["--build-arg", "TORCH_INDEX="]),
        (PYTORCH, True, ["--build-arg", f"TORCH_INDEX={PYTORCH}"]),
        ("", False, ["--build-arg", "TORCH_INDEX="]),
    ],
)
def test_the_index_of_torch_is_the_environments_or_what_pip_finds_itself(
    monkeypatch: pytest.MonkeyPatch, index: str | None, has_own: bool, arguments: list[str]
) -> None:
    monkeypatch.delenv("TORCH_INDEX", raising=False)
    if index is not None:
        monkeypatch.setenv("TORCH_INDEX", index)
    monkeypatch.setattr(images, "_has_own_torch", lambda: has_own)
    assert build_arguments("worker") == arguments
    assert build_arguments("operator") == []


def test_the_build_of_torch_is_named_with_its_cost() -> None:
    assert torch_build("2.13.0+cpu") == "the build for CPUs"
    assert "about 4 GB larger" in torch_build("2.13.0")
