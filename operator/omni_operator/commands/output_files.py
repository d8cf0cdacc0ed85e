"""The files that `omni generate` writes, or standard output in place of one."""

import argparse
import sys
import tempfile
from pathlib import Path

from omni_operator.commands.flags import BadOption

STANDARD_OUTPUT = "-"
VIDEO_SUFFIX = ".mp4"
SOUND_FORMATS = {
    ".wav": "wav", ".mp3": "mp3", ".flac": "flac", ".opus": "opus", ".ogg": "opus", ".aac": "aac",
}  # fmt: skip
"""Files that end in .ogg contain Opus, as do those that end in .opus."""
IMAGE_FORMATS = {"": "png", ".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp"}


def output_files(args: argparse.Namespace) -> list[Path]:
    """The files to write, one for each image. Raises BadOption if they could not be written in the end."""
    if args.format and not is_standard_output(args):
        raise BadOption(f"--format {args.format}: is for -o -; the name of a file tells its format")
    if args.output is None:
        return []
    count = image_count(args)
    if count < 1:
        raise BadOption(f"--count {count}: expected 1 or more")
    if suffix_of(args) not in (VIDEO_SUFFIX, *SOUND_FORMATS, *IMAGE_FORMATS):
        given = (
            f"--format {args.format}: expected" if args.format else f"-o {args.output}: expected a name that ends in"
        )
        raise BadOption(
            f"{given} .png, .jpg, .webp, or in {VIDEO_SUFFIX} for a video, or in {', '.join(SOUND_FORMATS)} for sound"
        )
    if is_standard_output(args):
        require_usable_standard_output(args, count)
        return [Path(STANDARD_OUTPUT)]
    output = Path(args.output)
    if output.is_dir():
        raise BadOption(f"-o {output}: is a folder; give the name of a file")
    if not output.absolute().parent.is_dir():
        raise BadOption(f"-o {output}: there is no folder {output.parent}; make it first")
    files = [output]
    if count > 1:
        files = [output.with_name(f"{output.stem}-{index}{output.suffix}") for index in range(count)]
    for file in files:
        require_writable(file)
    return files


def require_usable_standard_output(args: argparse.Namespace, count: int) -> None:
    """Raise BadOption unless standard output can take the file, and nothing but the file."""
    if count > 1 or args.json:
        option = "--json" if args.json else f"--count {count}"
        raise BadOption(f"{option}: standard output takes one file and nothing else; leave it out, or give -o FILE")
    if sys.stdout.isatty():
        raise BadOption("-o -: standard output is a terminal; redirect it to a file or a program")


def require_writable(file: Path) -> None:
    """Raise BadOption if the file cannot be written. Changes nothing."""
    try:
        if file.exists():
            file.open("r+b").close()
        else:
            tempfile.TemporaryFile(dir=file.absolute().parent).close()
    except OSError as error:
        raise BadOption(f"-o {file}: cannot be written ({error.strerror}); give another name") from None


def is_standard_output(args: argparse.Namespace) -> bool:
    return bool(args.output == STANDARD_OUTPUT)


def suffix_of(args: argparse.Namespace) -> str:
    """What the output file is, as the end of a file's name."""
    return f".{args.format or 'png'}" if is_standard_output(args) else Path(args.output).suffix.lower()


def image_count(args: argparse.Namespace) -> int:
    return 1 if args.count is None else int(args.count)
