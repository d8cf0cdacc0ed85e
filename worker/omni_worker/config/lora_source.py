"""Where a LoRA adapter comes from: parses the argument of --lora, and finds or downloads the adapter's file."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec

from omni_worker.config.hub_proxy import require_usable_proxies
from omni_worker.errors import LoadError, UsageError

LoraComponent = Literal["transformer_2"]
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
USUAL_FILE = "pytorch_lora_weights.safetensors"
"""The name that diffusers gives the file of an adapter."""
FORMS = (
    'give NAME=SOURCE, or JSON: {"name": …, "source": …, "weightName": …, "scale": …, "component": …}; a source is a '
    "file, a folder, or hf://org/name"
)


@dataclass(frozen=True)
class LoraSource:
    """An adapter to load.

    name: by which requests select it
    source: a file, a folder, or a repository of the hub (`hf://org/name`, or `hf://org/name@revision`)
    weight_name: the file in the folder or repository; None finds it
    scale: for requests that give none
    component: which model it adapts, if not the pipeline's first: Wan 2.2 has an adapter for each of its transformers
    """

    name: str
    source: str
    weight_name: str | None = None
    scale: float = 1.0
    component: LoraComponent | None = None

    def find(self, max_bytes: int | None = None) -> Path:
        """The adapter's file on this machine, after a download from the hub if necessary.

        Raises LoadError, also if the file is longer than `max_bytes`, and then before its download.
        """
        try:
            file = self._download(max_bytes) if self.source.startswith("hf://") else self._local()
            self._check_size(file.stat().st_size, max_bytes)
            return file
        except LoadError:
            raise
        except Exception as error:  # the hub's library passes on any error of the connection
            raise LoadError(f"LoRA {self.name!r}: {self.source} cannot be downloaded: {error}") from error

    def _local(self) -> Path:
        path = Path(self.source)
        if path.is_dir():
            files = [str(file.relative_to(path)) for file in sorted(path.rglob("*.safetensors"))]
            path /= self._choose(files)
        if not path.is_file():
            raise LoadError(f"LoRA {self.name!r}: there is no file {path}")
        return path.resolve()

    def _check_size(self, size: int | None, max_bytes: int | None) -> None:
        if size is not None and max_bytes is not None and size > max_bytes:
            raise LoadError(f"LoRA {self.name!r}: its file has {size} bytes; all adapters may have {max_bytes}")

    def _download(self, max_bytes: int | None) -> Path:
        import huggingface_hub  # it takes long to import

        require_usable_proxies()
        repository, _, revision = self.source.removeprefix("hf://").partition("@")
        name = self.weight_name
        if name is None:
            try:
                files = huggingface_hub.list_repo_files(repository, revision=revision or None)
            except Exception:  # without a connection, what has been downloaded counts
                folder = huggingface_hub.snapshot_download(repository, revision=revision or None, local_files_only=True)
                files = [str(file.relative_to(folder)) for file in sorted(Path(folder).rglob("*.safetensors"))]
            name = self._choose([file for file in files if file.endswith(".safetensors")])
        at = revision or None
        is_here = isinstance(huggingface_hub.try_to_load_from_cache(repository, name, revision=at), str)
        if max_bytes is not None and not is_here:
            url = huggingface_hub.hf_hub_url(repository, name, revision=at)
            self._check_size(huggingface_hub.get_hf_file_metadata(url).size, max_bytes)
        return Path(huggingface_hub.hf_hub_download(repository, name, revision=at))

    def _choose(self, files: Sequence[str]) -> str:
        """The adapter's file among those of its folder or repository. Raises LoadError."""
        if self.weight_name is not None:
            return self.weight_name
        if len(files) == 1 or USUAL_FILE in files:
            return USUAL_FILE if USUAL_FILE in files else files[0]
        found = f"several: {', '.join(files)}; name one as weightName" if files else "none"
        raise LoadError(f"LoRA {self.name!r}: of files in the safetensors format, {self.source} has {found}")


def parse(text: str) -> LoraSource:
    """Parse an argument of --lora. Raises UsageError; the message lists the valid forms."""
    try:
        if text.lstrip().startswith("{"):
            return from_fields(msgspec.json.decode(text))
        name, _, source = text.partition("=")
        return from_fields({"name": name, "source": source})
    except (msgspec.MsgspecError, UsageError) as error:
        raise UsageError(f"--lora {text}: {error}; {FORMS}") from None


def from_fields(fields: Any) -> LoraSource:
    """An adapter from its JSON fields, with the names of the manifest. Raises UsageError."""
    try:
        found = msgspec.convert(fields, _Fields)
    except msgspec.ValidationError as error:
        raise UsageError(str(error)) from None
    if not NAME.fullmatch(found.name):
        raise UsageError(f"{found.name!r}: a name has up to 63 letters, digits, dots, - and _")
    if not found.source:
        raise UsageError(f"where does {found.name!r} come from?")
    return LoraSource(found.name, found.source, found.weight_name, found.scale, found.component)


def parse_all(texts: Sequence[str]) -> tuple[LoraSource, ...]:
    """Parse all arguments of --lora. Raises UsageError, also if two adapters have the same name."""
    return unique([parse(text) for text in texts], "--lora")


def unique(loras: Sequence[LoraSource], what: str) -> tuple[LoraSource, ...]:
    """The adapters. Raises UsageError if two of them have the same name."""
    if len({lora.name for lora in loras}) < len(loras):
        raise UsageError(f"{what}: two adapters have the same name, among {', '.join(lora.name for lora in loras)}")
    return tuple(loras)


class _Fields(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    name: str
    source: str
    weight_name: str | None = None
    scale: float = 1.0
    component: LoraComponent | None = None
