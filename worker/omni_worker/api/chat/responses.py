"""Results as parts of OpenAI's responses: what complete and streamed answers have in common."""

from collections.abc import Sequence
from typing import Any

from omni_worker.api.chat.response_schemas import Logprob, TopLogprob, Usage
from omni_worker.api.generation import count_tokens
from omni_worker.api.images.encoding import encode_base64, image_of
from omni_worker.orchestrator.handover import IMAGE, TEXT
from omni_worker.requests import GeneratedText, GenerationResult


def completion_id(request_id: str) -> str:
    """The id of the answer to a request."""
    return f"chatcmpl-{request_id}"


async def message_content(result: GenerationResult, outputs: frozenset[str]) -> str | list[dict[str, Any]]:
    """The content of an answer: its text, or a list of parts if the outputs include an image."""
    text = result.completion.written.text if result.completion else ""
    if IMAGE not in outputs:
        return text
    parts: list[dict[str, Any]] = [{"type": "text", "text": text}] if TEXT in outputs else []
    for file in await encode_base64([image_of(result)]):
        parts.append({"type": "image_url", "image_url": {"url": f"data:image/png;base64,{file}"}})
    return parts


def finish_reason(result: GenerationResult) -> str:
    """Why the answer ended, in OpenAI's words."""
    return result.completion.finish_reason if result.completion else "stop"


def chat_usage(results: Sequence[GenerationResult]) -> Usage:
    """The tokens that were sent and generated."""
    prompt_tokens, completion_tokens = count_tokens(results)
    return Usage(
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        total_tokens=prompt_tokens + completion_tokens,
    )


def to_logprobs(text: GeneratedText) -> list[Logprob]:
    """The logprobs of each token of a text."""
    return [
        Logprob(
            token=entry.token,
            logprob=entry.logprob,
            bytes=list(entry.raw),
            top_logprobs=[
                TopLogprob(token=token, logprob=logprob, bytes=list(raw))
                for (token, logprob), raw in zip(entry.likeliest, entry.likeliest_raw, strict=False)
            ],
        )
        for entry in text.logprobs
    ]
