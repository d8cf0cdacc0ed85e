"""How a replica loads its model: `spec.stages[].load` of the object, and `--load` of `omni serve`."""

from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, WithJsonSchema, model_validator

from omni_settings.record import Record

Dtype = Literal["auto", "float32", "bfloat16", "float16"]
Options = Annotated[dict[str, Any], WithJsonSchema({"type": "object", "x-kubernetes-preserve-unknown-fields": True})]
Offload = Literal["none", "model", "sequential", "group"]
MAX_COMPONENTS = 32
"""Components of a pipeline that one setting can name."""


class WarmUp(Record):
    """What a replica runs before it accepts requests: each size with each batch size."""

    sizes: tuple[Annotated[str, Field(pattern=r"^[1-9][0-9]{0,4}x[1-9][0-9]{0,4}$", max_length=11)], ...] = Field(
        default=(),
        description="Image sizes, as WIDTHxHEIGHT in pixels; none means the model's own.",
        max_length=32,
        strict=False,
    )
    batch_sizes: tuple[Annotated[int, Field(ge=1, le=1024)], ...] = Field(
        default=(1, 2, 4), description="Requests at one time.", min_length=1, max_length=16, strict=False
    )


class Compile(Record):
    """How torch compiles the denoisers."""

    backend: Annotated[str, Field(min_length=1, max_length=63)] = Field(
        default="inductor", description="Backend of torch.compile."
    )
    cache: bool = Field(
        default=True,
        description="Keep what inductor compiled next to the models from the hub, in spec.model.cache or HF_HOME, so"
        " that replicas that start later need not compile it again. It is code: false if others can write there.",
    )


Backend = Literal["torchao", "bitsandbytes_4bit", "bitsandbytes_8bit", "quanto", "gguf", "modelopt"]


class Quantization(Record):
    """How one component is quantized."""

    backend: Backend = Field(description="Backend of diffusers; its library is an extra of this project.")
    type: str | None = Field(
        default=None,
        description="Of torchao, required: a configuration of torchao.quantization, like Int8WeightOnlyConfig.",
        pattern=r"^[A-Za-z0-9_]{1,63}$",
        max_length=63,
    )
    file: str | None = Field(
        default=None,
        description="Of gguf, required: the file, in the model's folder or repository, or as hf://org/name/file.gguf.",
        min_length=1,
        max_length=1024,
    )
    options: Options = Field(
        default_factory=dict,
        description="Options of the backend's configuration, by their names there, like bnb_4bit_quant_type: nf4. The"
        " names of dtypes are texts.",
    )

    @model_validator(mode="after")
    def _check_backend(self) -> Self:
        for key, backend in (("type", "torchao"), ("file", "gguf")):
            if (getattr(self, key) is None) is (self.backend == backend):
                wrong = f"{backend} needs {key}" if self.backend == backend else f"{key} is for {backend}; remove it"
                raise ValueError(wrong)
        return self


class Vae(Record):
    """How autoencoders save memory."""

    tiling: bool = Field(default=False, description="Encode and decode large images in tiles, which may show at seams.")
    slicing: bool = Field(default=False, description="Encode and decode the images of a batch one by one.")


NEEDS_TRUST = "customPipeline is Python code of the model; set trustRemoteCode: true if you trust its author"
NO_COMPILED_ADAPTERS = (
    "a compiled model takes no LoRA adapters; remove load.compile (--compile), or the adapters (loras, --lora)"
)
NO_COMPILED_OFFLOAD = "a compiled model stays on the device; remove compile, or set offload to none"


class LoadSettings(Record):
    """How a replica loads its model. The defaults load it as diffusers does, onto the device."""

    model_config = ConfigDict(
        json_schema_extra={
            "x-kubernetes-validations": [
                {"rule": "!has(self.customPipeline) || self.trustRemoteCode", "message": NEEDS_TRUST},
                {"rule": "!has(self.compile) || self.offload == 'none'", "message": NO_COMPILED_OFFLOAD},
            ]
        }
    )

    dtype: Dtype = Field(
        default="auto", description="Of the weights; auto means bfloat16 on a GPU and float32 on a CPU."
    )
    component_dtypes: dict[str, Dtype] = Field(
        default_factory=dict,
        description="Of single components, by the names in model_index.json, like {vae: float32}.",
        max_length=MAX_COMPONENTS,
    )
    quantization: dict[str, Quantization] = Field(
        default_factory=dict,
        description="How components are quantized, by their names in model_index.json.",
        max_length=MAX_COMPONENTS,
    )
    custom_pipeline: str | None = Field(
        default=None,
        description="Python file in the model's folder or repository with the pipeline's class, like pipeline.py. Needs"
        " trustRemoteCode.",
        pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,62}\.py$",
        max_length=66,
    )
    trust_remote_code: bool = Field(
        default=False,
        description="Run Python code of the model, with the rights of the replica. Only if you trust its author.",
    )
    offload: Offload = Field(
        default="none",
        description="What is in host memory while it does not work: nothing (none); every component but one, such as"
        " the text encoders during the denoising loop (model); every layer, copied ahead of its turn (group); or every"
        " layer, copied in its turn (sequential).",
    )
    vae: Vae = Field(default_factory=Vae, description="How autoencoders save memory.")
    attention: str | None = Field(
        default=None,
        description="Attention backend of the denoisers, as diffusers names it, like native, flash_hub or sage; absent"
        " means its default. Backends without masks batch prompts of equal length only.",
        pattern=r"^[a-z0-9_]{1,63}$",
        max_length=63,
    )
    compile: Compile | None = Field(
        default=None,
        description="Have torch compile the denoisers: slow to start, then faster. {} uses inductor; absent compiles"
        " nothing.",
    )

    warm_up: WarmUp | None = Field(
        default=None,
        description="What a replica runs before it accepts requests, so that no request waits for a compilation or the"
        " proof of a batch; absent means up to 20 s of batches of 2, 4 and 8.",
    )

    @model_validator(mode="after")
    def _check_combinations(self) -> Self:
        if self.compile is not None and self.offload != "none":
            raise ValueError(NO_COMPILED_OFFLOAD)
        if self.custom_pipeline is not None and not self.trust_remote_code:
            raise ValueError(NEEDS_TRUST)
        return self

    @property
    def needs_pipeline(self) -> list[str]:
        """The keys that are set and that only a diffusers pipeline has a use for; a language model has none."""
        return [key for key in self.model_dump(by_alias=True, exclude_defaults=True) if key != "dtype"]
