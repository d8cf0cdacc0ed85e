"""Reads how a replica loads its model: the file of --load, and the flags for its common settings."""

import argparse
import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import ValidationError

from omni_settings.load import Backend, Dtype, LoadSettings, Offload
from omni_worker.errors import UsageError

DTYPES: tuple[str, ...] = get_args(Dtype)
BACKENDS: tuple[str, ...] = get_args(Backend)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.add_argument(
        "--load",
        metavar="FILE",
        help="YAML or JSON that says how the model is loaded, with the keys of spec.stages[].load; or the JSON itself. "
        "The flags for single settings override it",
    )
    parser.add_argument(
        "--dtype",
        action="append",
        default=[],
        metavar="[COMPONENT=]DTYPE",
        help=f"of the weights: {', '.join(DTYPES)}; of one component, like vae=float32. Can be given several times "
        "(default: auto, which is bfloat16 on a GPU, float32 on a CPU)",
    )
    parser.add_argument(
        "--quantization",
        action="append",
        default=[],
        metavar="COMPONENT=BACKEND[:WHAT]",
        help="quantize a component, like transformer=torchao:Int8WeightOnlyConfig, transformer=gguf:FILE, or "
        "text_encoder=bitsandbytes_4bit. Can be given several times",
    )
    parser.add_argument(
        "--custom-pipeline",
        metavar="FILE",
        help="Python file in the model's folder or repository with the pipeline's class; needs --trust-remote-code",
    )
    parser.add_argument(
        "--trust-remote-code",
        action="store_true",
        help="run Python code of the model, with the rights of the replica",
    )
    parser.add_argument(
        "--offload",
        choices=get_args(Offload),
        help="what is in host memory while it does not work: nothing, every component but one (model), every "
        "layer, copied ahead of its turn (group) or in its turn (sequential) (default: none)",
    )
    parser.add_argument(
        "--vae-tiling",
        action=argparse.BooleanOptionalAction,
        help="encode and decode large images in tiles, which takes less memory (default: whole)",
    )
    parser.add_argument(
        "--vae-slicing",
        action=argparse.BooleanOptionalAction,
        help="encode and decode the images of a batch one by one, which takes less memory (default: together)",
    )
    parser.add_argument(
        "--attention",
        metavar="BACKEND",
        help="attention backend of the denoisers, as diffusers names it, like native, flash_hub or sage",
    )
    parser.add_argument(
        "--compile",
        nargs="?",
        const="inductor",
        metavar="BACKEND",
        help="have torch compile the denoisers, with inductor by default: slow to start, then faster",
    )


def from_arguments(args: argparse.Namespace) -> LoadSettings:
    """The settings. Raises UsageError, which names the flag and the key."""
    settings = _read(args.load) if args.load is not None else LoadSettings()
    flags = _dtype_flags(settings, args.dtype)
    if args.quantization:
        given_before = {name: one.model_dump(by_alias=True) for name, one in settings.quantization.items()}
        flags["quantization"] = given_before | dict(map(_quantization_flag, args.quantization))
    compiled = settings.compile.model_dump() if settings.compile else {}
    vae = {"tiling": args.vae_tiling, "slicing": args.vae_slicing}
    given = {
        "customPipeline": args.custom_pipeline,
        "trustRemoteCode": args.trust_remote_code or None,
        "offload": args.offload,
        "attention": args.attention,
        "compile": None if args.compile is None else {**compiled, "backend": args.compile},
    }
    flags |= {key: value for key, value in given.items() if value is not None}
    flags["vae"] = settings.vae.model_dump() | {key: value for key, value in vae.items() if value is not None}
    return _validated({**settings.model_dump(by_alias=True), **flags}, "")


def _read(argument: str) -> LoadSettings:
    is_inline = argument.lstrip().startswith("{")
    where = "--load" if is_inline else f"--load {argument}"
    try:
        content: Any = yaml.safe_load(argument if is_inline else Path(argument).read_text())
    except OSError as error:
        raise UsageError(f"{where}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{where}: not YAML: {error}") from error
    if not isinstance(content, Mapping):
        raise UsageError(f"{where}: expected keys and values, like dtype: bfloat16")
    return _validated(content, f"{where}: ")


def _dtype_flags(settings: LoadSettings, texts: Sequence[str]) -> dict[str, Any]:
    """What --dtype says, as keys of the settings."""
    flags: dict[str, Any] = {}
    components: dict[str, Any] = dict(settings.component_dtypes)
    for text in texts:
        component, separator, dtype = text.rpartition("=")
        if dtype not in DTYPES or (separator and not component):
            raise UsageError(f"--dtype {text}: give one of {', '.join(DTYPES)}, or of one component, like vae=float32")
        if separator:
            components[component] = dtype
        else:
            flags["dtype"] = dtype
    return {**flags, "componentDtypes": components}


def _quantization_flag(text: str) -> tuple[str, dict[str, str]]:
    """A component and its quantization."""
    component, _, rest = text.partition("=")
    backend, has_more, more = rest.partition(":")
    if not component or backend not in BACKENDS:
        raise UsageError(
            f"--quantization {text}: give COMPONENT=BACKEND, with one of the backends {', '.join(BACKENDS)}, like "
            "transformer=torchao:Int8WeightOnlyConfig"
        )
    return component, {"backend": backend, **({"file" if backend == "gguf" else "type": more} if has_more else {})}


def _validated(content: Mapping[str, Any], prefix: str) -> LoadSettings:
    """The settings. Raises UsageError for the first problem."""
    try:
        return LoadSettings.model_validate(content)
    except ValidationError as error:
        detail = error.errors(include_url=False)[0]
        path = ".".join(map(str, detail["loc"]))
        message = detail["msg"][:1].lower() + detail["msg"][1:]
        if detail["type"] == "extra_forbidden":
            known = [field.alias or name for name, field in LoadSettings.model_fields.items()]
            similar = difflib.get_close_matches(str(detail["loc"][-1]), known, n=1)
            message = "is not a known key" + (f"; did you mean {similar[0]}?" if similar else "")
        message = message.removeprefix("value error, ")
        raise UsageError(f"{prefix}{path}: {message}" if path else f"{prefix or '--load: '}{message}") from None
