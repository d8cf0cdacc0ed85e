"""The schemas of /v1/audio/speech, with OpenAI's names."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from omni_worker.api.schemas import GenerationBody, refusing

VOICES = ("alloy", "auto", "default")
"""What the official client sends if no voice is wanted: it always sends one."""
NO_VOICES = "the models served here have no voices: describe the sound in input, and leave voice out, or send alloy"
NO_SPEED = "sound cannot be sped up here: leave speed out, or send 1; seconds sets the length"
NO_INSTRUCTIONS = "there are no instructions beside input: say it there, or use an argument of the model in extra_args"
Format = Literal["mp3", "opus", "aac", "flac", "wav", "pcm"]


class SpeechRequest(GenerationBody):
    """Body of POST /v1/audio/speech."""

    input: Annotated[
        str,
        Field(min_length=1, description="The sound to make, in at most `--max-prompt-length` characters."),
    ]
    voice: Annotated[
        str | None,
        Field(description=f"Not used. The models have no voices, so only {', '.join(VOICES)} are accepted."),
        refusing(dict.fromkeys(VOICES), NO_VOICES),
    ] = None
    response_format: Annotated[
        Format | None,
        Field(description="Format of the file. pcm is 16 bits, little-endian, without a header; see `X-Sample-Rate`."),
    ] = "mp3"
    stream_format: Annotated[
        Literal["audio", "sse"] | None,
        Field(description="audio: the body is the file, sent in pieces; sse: events that carry the pieces in base64."),
    ] = "audio"
    speed: Annotated[
        float | None,
        Field(description="Not used. Only 1."),
        refusing({1: None}, NO_SPEED),
    ] = None
    instructions: Annotated[
        str | None,
        Field(description="Not used. Only an empty text."),
        refusing({"": None}, NO_INSTRUCTIONS),
    ] = None
    seconds: Annotated[
        float | None,
        Field(
            ge=0.01,
            le=36_000,
            allow_inf_nan=False,
            description="Length of the sound, at most `--max-audio-seconds`; the model's own if left out.",
        ),
    ] = None
    size: Annotated[None, Field(description="Sound has no size."), refusing({}, "sound has no size: leave it out")] = (
        None
    )

    @property
    def format(self) -> Format:
        """The format of the file."""
        return self.response_format or "mp3"

    @property
    def param_names(self) -> dict[str, str]:
        """What the client calls the parameters that stages and cards name in their errors."""
        return super().param_names | {"prompt": "input", "messages": "input"}


class SpeechUsage(BaseModel):
    """Tokens of stages that read and write text. Sound is not counted in tokens."""

    input_tokens: int = 0
    output_tokens: int = 0
    total_tokens: int = 0


class SpeechEvent(BaseModel):
    """One event of a stream. Deltas have a piece of the file in base64; the last event has the rest."""

    type: Literal["speech.audio.delta", "speech.audio.done"]
    audio: str | None = None
    usage: SpeechUsage | None = None
    seed: Annotated[int | None, Field(description="It makes the sound again.")] = None
    sample_rate: int | None = None
    channels: int | None = None

    @property
    def payload(self) -> dict[str, Any]:
        """The event as it is sent."""
        return self.model_dump(exclude_none=True)
