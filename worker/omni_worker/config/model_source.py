"""Where a model comes from: parses the MODEL argument, and computes a digest that identifies the model.

This module never loads weights or imports torch, so that a head can use it.
"""

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from omni_settings.model_index import INDEX_FILES, PIPELINE_INDEXES, Component
from omni_worker.errors import LoadError, UsageError

BUILTIN_MODELS = Path(__file__).parents[1] / "models"
DEFAULTS_FILE = "omni.json"
"""In a model's folder: the defaults it is served with, and the language model that belongs to it."""
IMAGE_SCHEME = "oci"
IMAGE_FOLDER = Path("/model")
"""Where Kubernetes mounts the image of an `oci://` model, in the pods that load it."""
FORMS = "give builtin://digits, hf://org/name, or a folder that save_pretrained of diffusers or transformers wrote"


@dataclass(frozen=True)
class ComponentPlace:
    """Where a component of a pipeline is: a folder in a folder, or in a repository of the hub at `revision`."""

    location: str
    subfolder: str
    is_local: bool
    revision: str | None = None


@dataclass(frozen=True)
class ModelSource:
    """A model to load.

    text: the MODEL argument
    location: a folder, or a repository of the hub (`org/name`) at `revision`
    image: the reference of the OCI image whose folder this is; only processes that load the model have the folder
    """

    text: str
    location: str
    is_local: bool
    revision: str | None = None
    image: str | None = None

    @property
    def is_language_model(self) -> bool:
        """Whether this is a folder with a transformers model rather than a diffusers pipeline."""
        return self.is_local and not self.is_diffusers_folder and (Path(self.location) / "config.json").is_file()

    @property
    def is_diffusers_folder(self) -> bool:
        """Whether this is a folder with a diffusers pipeline, classic or modular."""
        return self.is_local and any((Path(self.location) / index).is_file() for index in PIPELINE_INDEXES)

    def place_of(self, name: str, component: Component) -> "ComponentPlace":
        """Where the component `name` of this pipeline is.

        If its files are beside the index they are taken from there, as diffusers does: a copy of a repository has the
        original's index, which names the original.
        """
        subfolder = name if component.repository is None else component.subfolder or ""
        is_here = self.is_local and (Path(self.location) / subfolder).is_dir() and subfolder != ""
        if is_here or component.repository in (None, self.location):
            return ComponentPlace(self.location, subfolder, self.is_local, component.revision or self.revision)
        return ComponentPlace(component.repository, subfolder, Path(component.repository).is_dir(), component.revision)

    @property
    def defaults_file(self) -> Path:
        """The path of the folder's `omni.json`, which may not exist."""
        return Path(self.location) / DEFAULTS_FILE

    def defaults(self) -> dict[str, Any] | None:
        """The content of the folder's `omni.json`; None if there is none. Raises LoadError if it is not JSON."""
        if not self.is_local or not self.defaults_file.is_file():
            return None
        try:
            content: dict[str, Any] = json.loads(self.defaults_file.read_text())
            return content
        except ValueError as error:
            raise LoadError(f"{self.defaults_file}: {error}") from error

    @cached_property
    def digest(self) -> str:
        """16 hex digits, equal for two processes that load the same model.

        Of a folder: its JSON and Python files, and the names and sizes of its weights. Of the hub: the repository and
        revision. Of an image: its digest, from whichever registry it comes; of one that has only a tag, its name and
        the tag.
        """
        hasher = hashlib.sha256()
        if self.image:
            _, _, digest = self.image.partition("@")
            hasher.update((digest or self.image).encode())
        elif self.is_local:
            root = Path(self.location)
            for path in sorted([*root.rglob("*.json"), *root.rglob("*.py")]):
                hasher.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
            for path in sorted(root.rglob("*.safetensors")):
                hasher.update(f"{path.relative_to(root).as_posix()}={path.stat().st_size}\0".encode())
        else:
            hasher.update(f"{self.location}@{self.revision or ''}".encode())
        return hasher.hexdigest()[:16]


def require_folder(source: ModelSource) -> None:
    """Raises UsageError if the image of a model is not mounted here."""
    if source.image and not Path(source.location).is_dir():
        raise UsageError(
            f"MODEL {source.text!r}: only Kubernetes mounts images, at {source.location}; give the folder that the"
            " image was made from, or one that you copied out of it (podman create, podman cp), or hf://org/name"
        )


def parse(text: str, revision: str | None = None) -> ModelSource:
    """Parse a MODEL argument. Raises UsageError if it names no model; the message lists the valid forms."""
    scheme, separator, rest = text.partition("://")
    if separator and scheme == "builtin":
        if not (BUILTIN_MODELS / rest / "model_index.json").is_file():
            available = sorted(f"builtin://{path.parent.name}" for path in BUILTIN_MODELS.glob("*/model_index.json"))
            raise UsageError(f"MODEL {text!r}: no such built-in model; there are: {', '.join(available)}")
        return ModelSource(text, str(BUILTIN_MODELS / rest), is_local=True)
    if separator and scheme == "hf":
        if rest.count("/") != 1 or not all(rest.split("/")):
            raise UsageError(f"MODEL {text!r}: a model on the hub is named hf://org/name")
        return ModelSource(text, rest, is_local=False, revision=revision)
    if separator and scheme == IMAGE_SCHEME:
        return ModelSource(text, str(IMAGE_FOLDER), is_local=True, image=rest)
    if separator:
        raise UsageError(f"MODEL {text!r}: unknown kind of source {scheme!r}; {FORMS}")
    if Path(text).is_dir():
        if not any((Path(text) / file).is_file() for file in INDEX_FILES):
            raise UsageError(f"MODEL {text!r}: this folder has neither {' nor '.join(INDEX_FILES)}; {FORMS}")
        return ModelSource(text, str(Path(text).resolve()), is_local=True)
    if text.count("/") == 1 and not text.startswith((".", "/", "~")) and all(text.split("/")):
        return ModelSource(text, text, is_local=False, revision=revision)
    raise UsageError(f"MODEL {text!r}: no such folder; {FORMS}")
