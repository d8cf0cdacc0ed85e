"""From one stage to the next: which stages a request needs, and the parameters that each of them gets. Pure."""

from collections.abc import Sequence

import numpy as np
from msgspec.structs import replace

from omni_worker.config.records import Stage
from omni_worker.errors import RequestError
from omni_worker.requests import GenerationParams, GenerationResult, Message

DIFFUSION = "diffusion"
TEXT, IMAGE = "text", "image"
END_OF_REASONING = "</think>"  # reasoning models close with it what is not part of their answer


def outputs_of(stages: Sequence[Stage]) -> frozenset[str]:
    """The outputs that a pipeline of these stages can return: `text`, `image` or both."""
    return frozenset(output for stage in stages if (output := _output(stage)))


def required_stages(stages: Sequence[Stage], outputs: frozenset[str]) -> list[Stage]:
    """The stages that a request for these outputs runs through: up to the last one that gives any of them.

    Raises RequestError if no stage gives one of the outputs.
    """
    missing = outputs - outputs_of(stages)
    if missing or not outputs:
        available, requested = (" and ".join(sorted(names)) or "nothing" for names in (outputs_of(stages), missing))
        raise RequestError("invalid", f"this pipeline gives {available}, not {requested}", "modalities")
    last = max(position for position, stage in enumerate(stages) if _output(stage) in outputs)
    return list(stages[: last + 1])


def _output(stage: Stage) -> str | None:
    if stage.engine == DIFFUSION:
        return IMAGE
    return TEXT if stage.task == "generate" else None


def stage_params(stage: Stage, following: Stage | None, params: GenerationParams) -> GenerationParams:
    """A request's parameters for one stage, with the stage's defaults and what the `following` stage needs."""
    if stage.engine == DIFFUSION:
        return replace(params, stream=False)
    messages = params.messages
    if stage.system and not any(message.role == "system" for message in messages):
        turns = messages or (Message(role="user", content=params.prompt),)
        messages = (Message(role="system", content=stage.system), *turns)
    sampling = params.sampling
    if sampling.max_tokens is None:
        sampling = replace(sampling, max_tokens=stage.max_tokens)
    needs_states = following is not None and following.input == "hidden-states"
    return replace(params, messages=messages, sampling=sampling, hidden_states=needs_states)


def with_input_from(stage: Stage, params: GenerationParams, previous: GenerationResult) -> GenerationParams:
    """A request's parameters with the previous stage's result as the input of `stage`: embeddings or a prompt.

    Raises RequestError if the result holds nothing that the stage can use.
    """
    if stage.input == "hidden-states":
        return replace(params, embeddings=_embeddings(previous), written=())
    text = previous.completion.written.text.rpartition(END_OF_REASONING)[2].strip() if previous.completion else ""
    if not text:
        raise RequestError("failed", "the text of the stage before, which was to be the prompt, is empty")
    return replace(params, prompt=text, messages=(), written=())


def _embeddings(previous: GenerationResult) -> dict[str, np.ndarray]:
    """The embeddings, under the names of the pipeline's parameters.

    A language model returns hidden states: those of its output are used, or those of the prompt if it wrote nothing.
    """
    embeddings = previous.embeddings
    if not embeddings:
        raise RequestError("failed", "the stage before gave no hidden states")
    if "prompt_hidden_states" not in embeddings:
        return embeddings
    output = embeddings["output_hidden_states"]
    states = output if len(output) else embeddings["prompt_hidden_states"]
    return {"prompt_embeds": states, "prompt_embeds_mask": np.ones(len(states), np.int64)}


def combine_results(results: Sequence[GenerationResult]) -> GenerationResult:
    """The result of a request from those of its stages, in their order: the last images and the last text."""
    completions = [result.completion for result in results if result.completion is not None]
    return replace(results[-1], completion=completions[-1] if completions else None, embeddings={})
