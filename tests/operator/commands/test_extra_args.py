"""The values of `omni generate --extra-arg`."""

import argparse
from pathlib import Path

import pytest

from omni_operator.client.uploads import UnusableImage
from omni_operator.commands.generate import IMAGES, BadOption, configure, diffusion_request, read_uploads
from omni_worker.commands.cli import CommandParser

PNG = b"\x89PNG\r\n\x1a\n"


def arguments(*flags: str) -> argparse.Namespace:
    parser = CommandParser(add_help=False)
    configure(parser)
    return parser.parse_args(["a tree", "-o", "a.png", *flags])


def test_a_value_is_json_or_else_a_text(tmp_path: Path) -> None:
    (tmp_path / "edges.png").write_bytes(PNG)
    flags = ["max_sequence_length=512", "sigmas=[1.0, 0.5]", "prompt_2=oil = paint", f"edges=@{tmp_path}/edges.png"]
    args = arguments(*(f"--extra-arg={flag}" for flag in flags))
    assert diffusion_request(args)["extra_args"] == {
        "max_sequence_length": 512,
        "sigmas": [1.0, 0.5],
        "prompt_2": "oil = paint",
        "edges": "data:image/png;base64,iVBORw0KGgo=",
    }
    assert read_uploads(args, IMAGES) == []


def test_a_form_sends_images_as_files(tmp_path: Path) -> None:
    file = tmp_path / "edges.png"
    file.write_bytes(PNG)
    args = arguments(f"--image={file}", f"--extra-arg=edges=@{file}", "--extra-arg=eta=0.5")
    assert diffusion_request(args)["extra_args"] == {"eta": 0.5}
    assert [(field, content) for field, (_, content, _) in read_uploads(args, IMAGES)] == [
        ("image", PNG),
        ("extra_args[edges]", PNG),
    ]


@pytest.mark.parametrize(
    ("flags", "error", "says"),
    [
        (["eta"], BadOption, "--extra-arg eta: give NAME=VALUE"),
        (["=3"], BadOption, "--extra-arg =3: give NAME=VALUE"),
        (["eta=1", "eta=2"], BadOption, "--extra-arg eta: is given twice"),
        (["edges=@/nowhere.png"], UnusableImage, "--extra-arg /nowhere.png: cannot be read"),
    ],
)
def test_what_cannot_be_sent_is_refused(flags: list[str], error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        diffusion_request(arguments(*(f"--extra-arg={flag}" for flag in flags)))
