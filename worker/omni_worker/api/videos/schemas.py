"""The schemas of the /v1/videos routes, with OpenAI's names."""

from typing import Annotated, Literal

from pydantic import BaseModel, Field, field_validator, model_validator

from omni_worker.api.request_model import RequestModel
from omni_worker.api.schemas import GenerationBody
from omni_worker.errors import RequestError

SECONDS_PATTERN = r"^[0-9]{1,4}(\.[0-9]{1,3})?$"


class Reference(RequestModel):
    """A picture to start from."""

    image_url: Annotated[str, Field(description="The picture itself, as `data:image/png;base64,…`.")]


class VideoForm(GenerationBody):
    """Body of POST /v1/videos, but for its file."""

    prompt: Annotated[str, Field(min_length=1, description="The prompt, in `--max-prompt-length` characters at most.")]
    seconds: Annotated[
        str | None,
        Field(
            pattern=SECONDS_PATTERN,
            description="Its length, rounded to the nearest number of frames that the model can generate; the model's "
            "own by default. `--max-frames` frames at most.",
        ),
    ] = None
    num_frames: Annotated[int | None, Field(ge=1, description="The same in frames.")] = None
    fps: Annotated[
        float | None,
        Field(ge=0.1, le=240, allow_inf_nan=False, description="Frames a second; the model's own if left out."),
    ] = None

    @field_validator("prompt")
    @classmethod
    def _check_prompt(cls, value: str) -> str:
        if "\0" in value:
            raise ValueError("it contains the character U+0000, which databases do not store: leave it out")
        return value

    @model_validator(mode="after")
    def _check_combinations(self) -> "VideoForm":
        if self.seconds is not None and self.num_frames is not None:
            raise RequestError("invalid", "num_frames: seconds sets the length too: leave one out", "num_frames")
        return self


class VideoRequest(VideoForm):
    """Body of POST /v1/videos in JSON."""

    input_reference: Annotated[
        Reference | None, Field(description="A picture to start from, where the pipeline takes one.")
    ] = None


class VideoError(BaseModel):
    """Why a video failed."""

    code: str
    message: str
    param: str | None = None
    type: str | None = None
    stage: str | None = None


class VideoObject(BaseModel):
    """A video and how far it is. Times are in seconds since 1970; `progress` is in percent of its denoising steps."""

    id: str
    object: Literal["video"] = "video"
    model: str
    status: Literal["queued", "in_progress", "completed", "failed"]
    progress: Annotated[int, Field(ge=0, le=100)]
    prompt: str
    size: Annotated[str, Field(description="In pixels; auto until it is known.")]
    seconds: Annotated[str, Field(description="How long it is; auto until it is known.")]
    fps: float
    seed: int
    created_at: int
    completed_at: int | None = None
    expires_at: Annotated[int | None, Field(description="When it is deleted, by `--video-max-age`.")] = None
    error: VideoError | None = None
    remixed_from_video_id: None = None


class VideoList(BaseModel):
    """Answer of GET /v1/videos."""

    object: Literal["list"] = "list"
    data: list[VideoObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


class VideoDeleted(BaseModel):
    """Answer of DELETE /v1/videos/{id}."""

    id: str
    object: Literal["video.deleted"] = "video.deleted"
    deleted: bool = True
