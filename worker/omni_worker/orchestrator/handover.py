"""From one stage to the next: which stages a request goes through, and what each is given. Pure."""

from collections.abc import Sequence

import numpy as np
from msgspec.structs import replace

from omni_worker.config.records import Stage
from omni_worker.errors import RequestError
from omni_worker.requests import GenerationParams, GenerationResult, Message

AUTOREGRESSIVE, DIFFUSION = "autoregressive", "diffusion"
TEXT, IMAGE = "text", "image"
END_OF_THOUGHT = "</think>"  # how models that reason aloud close what is not part of their answer


def outputs_of(stages: Sequence[Stage]) -> frozenset[str]:
    """What a pipeline of these stages can answer with."""
    return frozenset(output for stage in stages if (output := _output(stage)))


def route(stages: Sequence[Stage], outputs: frozenset[str]) -> list[Stage]:
    """The stages of a request that wants these outputs: up to the last that gives one of them.

    Raises RequestError where no stage gives what is wanted.
    """
    missing = outputs - outputs_of(stages)
    if missing or not outputs:
        gives, asked = (" and ".join(sorted(names)) or "nothing" for names in (outputs_of(stages), missing))
        raise RequestError("invalid", f"this pipeline gives {gives}, not {asked}", "modalities")
    last = max(position for position, stage in enumerate(stages) if _output(stage) in outputs)
    return list(stages[: last + 1])


def _output(stage: Stage) -> str | None:
    if stage.engine == DIFFUSION:
        return IMAGE
    return TEXT if stage.task == "generate" else None


def asked_of(stage: Stage, following: Stage | None, params: GenerationParams) -> GenerationParams:
    """What a stage is asked for, where `following` comes after it."""
    if stage.engine != AUTOREGRESSIVE:
        return replace(params, stream=False)
    messages = params.messages
    if stage.system and not any(message.role == "system" for message in messages):
        turns = messages or (Message(role="user", content=params.prompt),)
        messages = (Message(role="system", content=stage.system), *turns)
    sampling = params.sampling
    if sampling.max_tokens is None:
        sampling = replace(sampling, max_tokens=stage.max_tokens)
    wants_states = following is not None and following.input == "hidden-states"
    return replace(params, messages=messages, sampling=sampling, hidden_states=wants_states)


def handed_over(stage: Stage, params: GenerationParams, before: GenerationResult) -> GenerationParams:
    """What `stage` is given of a request whose last stage gave `before`.

    Raises RequestError where that is nothing it could use.
    """
    if stage.input == "hidden-states":
        return replace(params, embeddings=_embeddings(before), written=())
    text = before.completion.written.text.rpartition(END_OF_THOUGHT)[2].strip() if before.completion else ""
    if not text:
        raise RequestError("failed", "the text of the stage before, which was to be the prompt, is empty")
    return replace(params, prompt=text, messages=(), written=())


def _embeddings(before: GenerationResult) -> dict[str, np.ndarray]:
    """The embeddings by the names that pipelines take them by; those of a written answer are its own states, or the
    prompt's where nothing was written."""
    made = before.embeddings
    if not made:
        raise RequestError("failed", "the stage before gave no hidden states")
    if "prompt_hidden_states" not in made:
        return made
    states = made["output_hidden_states"] if len(made["output_hidden_states"]) else made["prompt_hidden_states"]
    return {"prompt_embeds": states, "prompt_embeds_mask": np.ones(len(states), np.int64)}


def joined(results: Sequence[GenerationResult]) -> GenerationResult:
    """One answer from what the stages gave, in their order: the last pictures, and the last text."""
    last = results[-1]
    completions = [result.completion for result in results if result.completion is not None]
    return replace(last, completion=completions[-1] if completions else None, embeddings={})
