"""What answers in one piece and streamed ones share: content, usage, and why they ended."""

from collections.abc import Sequence
from typing import Any

from omni_worker.api.chat.response_schemas import Usage
from omni_worker.api.images.encoding import in_base64, picture_of
from omni_worker.orchestrator.handover import IMAGE, TEXT
from omni_worker.requests import GenerationResult


def completion_id(id: str) -> str:
    """The id of an answer, by that of its request."""
    return f"chatcmpl-{id}"


async def content_of(result: GenerationResult, wanted: frozenset[str]) -> str | list[dict[str, Any]]:
    """An answer's content: its text, or a list of parts where a picture was asked for."""
    text = result.completion.written.text if result.completion else ""
    if IMAGE not in wanted:
        return text
    parts: list[dict[str, Any]] = [{"type": "text", "text": text}] if TEXT in wanted else []
    for file in await in_base64([picture_of(result)]):
        parts.append({"type": "image_url", "image_url": {"url": f"data:image/png;base64,{file}"}})
    return parts


def finish_reason(result: GenerationResult) -> str:
    """Why the answer ended, in OpenAI's words."""
    return result.completion.finish_reason if result.completion else "stop"


def usage(results: Sequence[GenerationResult]) -> Usage:
    """The tokens that were read and written."""
    completions = [result.completion for result in results if result.completion]
    read = sum(one.prompt_tokens for one in completions)
    written = sum(len(one.written.tokens) for one in completions)
    return Usage(prompt_tokens=read, completion_tokens=written, total_tokens=read + written)
