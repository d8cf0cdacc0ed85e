"""The schemas of the /v1/images routes, with OpenAI's names."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, model_validator

from omni_worker.api.schemas import GenerationBody, refusing
from omni_worker.errors import RequestError

STEP_FACTORS = {"low": 0.5, "medium": 1.0, "high": 1.5, "xhigh": 2.0, "max": 3.0}
"""The number of steps by quality, as a multiple of the model's default."""
QUALITY_ALIASES = {"auto": "medium", "standard": "medium", "hd": "high"}
Format = Literal["png", "jpeg", "webp"]
Quality = Literal["low", "medium", "high", "xhigh", "max"]


class ImageBody(GenerationBody):
    """The fields that all requests for images share. Not itself in OpenAPI."""

    prompt: Annotated[
        str,
        Field(min_length=1, description="The prompt, in `--max-prompt-length` characters at most."),
    ]
    n: Annotated[int | None, Field(ge=1, description="How many pictures, `--max-n` at most.")] = 1
    quality: Annotated[
        Literal["auto", "low", "medium", "high", "xhigh", "max", "standard", "hd"] | None,
        Field(
            description="As a share of the model's own number of steps: low 0.5, medium 1, high 1.5, xhigh 2, max 3; "
            "auto and standard are medium, hd is high. `num_inference_steps` overrides it."
        ),
    ] = "auto"
    output_format: Annotated[
        Format | None,
        Field(description="File format of the pictures."),
        refusing({"gif": "pictures do not move here", "svg": "pictures are made of pixels here: png, jpeg or webp"}),
    ] = "png"
    output_compression: Annotated[
        int | None, Field(ge=0, le=100, description="Quality of jpeg and webp files; 100 if left out.")
    ] = None
    background: Annotated[
        Literal["auto", "opaque"] | None,
        Field(description="Pictures are opaque."),
        refusing({"transparent": "the models served here paint every pixel: auto or opaque"}),
    ] = "auto"
    moderation: Annotated[
        Literal["auto", "low"] | None, Field(description="Taken and not used: nothing is moderated here.")
    ] = None
    response_format: Annotated[
        Literal["b64_json"] | None,
        Field(description="Pictures come in the response."),
        refusing({"url": "pictures come in the response, for none are kept here: leave it out, or give b64_json"}),
    ] = "b64_json"
    stream: Annotated[bool | None, Field(description="Tell of the picture as server-sent events; of one only.")] = False
    partial_images: Annotated[
        int | None, Field(ge=0, le=3, description="Previews that a stream shows of it, at most.")
    ] = None

    @model_validator(mode="after")
    def _check_combinations(self) -> "ImageBody":
        if self.stream and (self.n or 1) > 1:
            raise RequestError("invalid", "n: a stream tells of one picture: leave n out, or ask for each alone", "n")
        if self.partial_images and not self.stream:
            raise RequestError("invalid", "partial_images: needs stream: true", "partial_images")
        if self.output_compression not in (None, 100) and self.format == "png":
            raise RequestError(
                "invalid",
                "output_compression: png files lose nothing: leave it out, or ask for jpeg or webp",
                "output_compression",
            )
        return self

    @property
    def count(self) -> int:
        """How many images the request asks for."""
        return self.n or 1

    @property
    def format(self) -> Format:
        """The file format of the images."""
        return self.output_format or "png"

    @property
    def effective_quality(self) -> Quality:
        """The quality without aliases, as responses name it."""
        quality = self.quality or "auto"
        return QUALITY_ALIASES.get(quality, quality)  # type: ignore[return-value]

    def denoising_steps(self, default: int | None) -> int | None:
        """The number of steps for a model whose default is `default`; None leaves the choice to the model."""
        factor = STEP_FACTORS[self.effective_quality]
        if self.steps is not None or default is None or factor == 1.0:
            return self.steps
        return max(1, round(default * factor))


class ImageGenerationRequest(ImageBody):
    """Body of POST /v1/images/generations."""

    style: Annotated[
        None,
        Field(description="Not known here."),
        refusing({}, "styles are not known here: say it in the prompt"),
    ] = None


class ImageEditRequest(ImageBody):
    """Body of POST /v1/images/edits, but for its files."""

    strength: Annotated[
        float | None,
        Field(gt=0, le=1, description="How much of the picture is to change, where the pipeline knows of it."),
    ] = None
    input_fidelity: Annotated[
        Literal["low"] | None,
        Field(description="Only low."),
        refusing({"high": "not known here: strength says how much is to change, where the pipeline takes it"}),
    ] = None


class InputTokens(BaseModel):
    """Tokens that were read."""

    image_tokens: int = 0
    text_tokens: int = 0


class ImageUsage(BaseModel):
    """Tokens that stages which read and write text went through; pictures are not counted in tokens here."""

    input_tokens: int = 0
    input_tokens_details: InputTokens = InputTokens()
    output_tokens: int = 0
    total_tokens: int = 0


class ImageData(BaseModel):
    """One picture: a file in base64, and the seed that makes it again."""

    b64_json: str
    seed: int
    revised_prompt: Annotated[str | None, Field(description="What a stage before the painter made of the prompt.")] = (
        None
    )


class ImageResponse(BaseModel):
    """Answer of the routes that make pictures. `created` is in seconds since 1970."""

    created: int
    background: Literal["opaque"] = "opaque"
    data: list[ImageData]
    size: str
    quality: Quality
    output_format: Format
    usage: ImageUsage


class ImageEvent(BaseModel):
    """One event of a stream. Those that complete it have `usage`, and partial ones a `partial_image_index`."""

    type: Literal[
        "image_generation.partial_image",
        "image_generation.completed",
        "image_edit.partial_image",
        "image_edit.completed",
    ]
    b64_json: str
    background: Literal["opaque"] = "opaque"
    created_at: int
    output_format: Format
    quality: Quality
    size: str
    partial_image_index: int | None = None
    seed: int | None = None
    usage: ImageUsage | None = None

    @property
    def payload(self) -> dict[str, Any]:
        """The event as it is sent."""
        return self.model_dump(exclude_none=True)
