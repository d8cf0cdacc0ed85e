"""How many tokens a second an autoregressive stage writes: ratios to `generate`, one request after another.

Each cell is a number of requests in flight: three times as many are asked, and as one ends the next one is handed in.
Prompts and answers have mixed lengths. All systems have the same weights, write greedily, and must write the same
tokens. Ours is the whole engine with its scheduler, as a replica runs it. transformers' own continuous batching runs in
its manager's thread on the same core, already started, with the best of a few settings for this machine: by default it
reserves most of the memory.

Ratios are of processor time, all threads together, which others on the machine cannot spend; all systems keep the core
busy. Those of elapsed time are in the JSON too.

    python -m benchmarks.autoregressive [--quick]
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

import torch
from benchmarks import common
from rich.table import Table
from transformers import (
    ContinuousBatchingConfig,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from omni_worker.engine.engine import Engine
from omni_worker.engine.executor import UniProcExecutor
from omni_worker.engine.runner.autoregressive import AutoregressiveRunner
from omni_worker.engine.scheduler import Finished, SchedulerRequest, StepScheduler
from omni_worker.language.loading import wrap
from omni_worker.requests import GenerationParams, SamplingParams

GENERATE, THEIRS, OURS, FIXED = "generate", "transformers' batching", "ours, as served", "ours, at most 32"
SMALL = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 4}
LARGER = {"hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 8}
SHARED = {
    "vocab_size": 300,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
    "bos_token_id": 1,
    "eos_token_id": None,
    "pad_token_id": 0,
}
MODELS: dict[str, Callable[[], Any]] = {
    "Llama": lambda: LlamaForCausalLM(LlamaConfig(**SHARED, **SMALL)),
    "Qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**SHARED, **SMALL, head_dim=32)),
    "Mistral, sliding": lambda: MistralForCausalLM(MistralConfig(**SHARED, **SMALL, sliding_window=16)),
    "Llama, 25 M": lambda: LlamaForCausalLM(LlamaConfig(**SHARED, **LARGER)),
}
SHORT, LONG, QUICK = ((3, 40), (5, 60)), ((200, 400), (32, 96)), ((3, 12), (4, 8))
CELLS = [
    ("Llama", 1, SHORT),
    ("Llama", 4, SHORT),
    ("Llama", 16, SHORT),
    ("Llama", 32, SHORT),
    ("Llama", 16, LONG),
    ("Qwen3", 16, SHORT),
    ("Mistral, sliding", 16, SHORT),
    ("Llama, 25 M", 16, SHORT),
]
QUICK_CELLS = [("Llama", 4, QUICK)]
THEIR_SETTINGS: tuple[dict[str, Any], ...] = (
    {"num_blocks": 64, "max_batch_tokens": 512},
    {"page_size": 32, "num_blocks": 512, "max_batch_tokens": 512},
    {"num_blocks": 64, "max_batch_tokens": 128},
)


@dataclass(frozen=True)
class Asked:
    """One request: its prompt's tokens, and how many are to be written."""

    prompt: list[int]
    count: int


class Numbers:
    """A tokenizer whose text is the tokens' numbers: what a real one takes is no part of what is compared."""

    chat_template, bos_token_id = None, 1

    def encode(self, text: str, **how: Any) -> list[int]:
        """The tokens that the text names."""
        return [int(word) for word in text.split()]

    def decode(self, tokens: Sequence[int], **how: Any) -> str:
        """The tokens' names."""
        return " ".join(map(str, tokens))

    def get_added_vocab(self) -> dict[str, int]:
        """It has no special tokens."""
        return {}


def requests(count: int, lengths: tuple[tuple[int, int], tuple[int, int]]) -> list[Asked]:
    """The same ones every time."""
    drawn = random.Random(1)
    return [
        Asked([drawn.randint(3, 299) for _ in range(drawn.randint(*lengths[0]))], drawn.randint(*lengths[1]))
        for _ in range(count)
    ]


def generate(model: Any, asked: Sequence[Asked]) -> list[list[int]]:
    """One after another."""
    answers = []
    for one in asked:
        ids = torch.tensor([one.prompt])
        out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=one.count, do_sample=False)
        answers.append(out[0, len(one.prompt) :].tolist())
    return answers


class Theirs:
    """transformers' continuous batching, running until it is closed."""

    def __init__(self, model: Any, settings: dict[str, Any]) -> None:
        config = GenerationConfig(do_sample=False, eos_token_id=-1, pad_token_id=0)
        self._manager = model.init_continuous_batching(
            generation_config=config, continuous_batching_config=ContinuousBatchingConfig(**settings)
        )
        self._manager.start()
        self._asked = 0

    def __call__(self, asked: Sequence[Asked], in_flight: int) -> list[list[int]]:
        """All of them, so many at a time."""
        first, waiting = self._asked, iter(asked)
        for one in islice(waiting, in_flight):
            self._add(one)
        answers: dict[str, list[int]] = {}
        while len(answers) < len(asked):
            result = self._manager.get_result(timeout=60)
            if result is None:
                raise SystemExit("transformers' continuous batching gave nothing for a minute")
            if result.is_finished():
                answers[result.request_id] = result.generated_tokens
                for one in islice(waiting, 1):
                    self._add(one)
        return [answers[str(first + i)] for i in range(len(asked))]

    def _add(self, one: Asked) -> None:
        self._manager.add_request(one.prompt, request_id=str(self._asked), max_new_tokens=one.count)
        self._asked += 1

    def close(self) -> None:
        """End its thread."""
        self._manager.stop(block=True)


def ours(
    runner: AutoregressiveRunner, find_batch_size: bool, asked: Sequence[Asked], in_flight: int
) -> list[list[int]]:
    """All of them through an engine of our own, so many at a time."""
    ended: dict[str, Finished] = {}

    def take(event: Any) -> None:
        if isinstance(event, Finished):
            ended[event.id] = event

    engine = Engine(StepScheduler(32, find_batch_size=find_batch_size), UniProcExecutor(runner), take)
    added = 0
    while len(ended) < len(asked):
        while added < min(len(asked), len(ended) + in_flight):
            one, text = asked[added], " ".join(map(str, asked[added].prompt))
            sampling = SamplingParams(max_tokens=one.count, temperature=0.0)
            engine.add(SchedulerRequest(str(added), GenerationParams(prompt=text, sampling=sampling)))
            added += 1
        engine.step()
    return [ended[str(i)].result.completion.written.tokens for i in range(len(asked))]


def made(name: str) -> Any:
    """The model, with the same weights every time."""
    torch.manual_seed(0)
    return MODELS[name]().eval()


def best_settings(
    model: Any, asked: Sequence[Asked], in_flight: int, choices: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """Those with which transformers' continuous batching is fastest."""
    if len(choices) == 1:
        return choices[0]
    seconds = []
    for settings in choices:
        theirs = Theirs(model, settings)
        theirs(asked, in_flight)
        seconds.append(min(common.Timed.of(partial(theirs, asked, in_flight)).seconds for _ in range(2)))
        theirs.close()
    return choices[seconds.index(min(seconds))]


def cell(name: str, count: int, lengths: Any, sweeps: int, choices: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """All systems at one number of requests."""
    asked, model = requests(3 * count, lengths), made(name)
    runner = AutoregressiveRunner(wrap(made(name), Numbers()))
    their_model = made(name)
    settings = best_settings(their_model, asked, count, choices)
    theirs = Theirs(their_model, settings)
    runs: dict[str, Callable[[], list[list[int]]]] = {
        GENERATE: partial(generate, model, asked),
        THEIRS: partial(theirs, asked, count),
        FIXED: partial(ours, runner, False, asked, count),
        OURS: partial(ours, runner, True, asked, count),
    }
    answers = {system: run() for system, run in runs.items()}
    equal = {system: sum(map(list.__eq__, one, answers[GENERATE])) for system, one in answers.items()}
    if min(equal[FIXED], equal[OURS]) < len(asked):
        raise SystemExit(f"{name}, {count} in flight: not what generate writes: {equal}")
    common.settle()
    times = [measured(runs, sweep % 2 == 1) for sweep in range(sweeps)]
    theirs.close()
    return {
        "model": name,
        "in_flight": count,
        "requests": len(asked),
        "prompt": lengths[0],
        "answer": lengths[1],
        "tokens": sum(one.count for one in asked),
        "their_settings": settings,
        "equal_answers": equal,
        "systems": {system: figures(system, times) for system in runs},
    }


def measured(runs: dict[str, Callable[[], Any]], backward: bool) -> dict[str, common.Timed]:
    """One sweep over all systems."""
    return {name: common.Timed.of(runs[name]) for name in (list(runs)[::-1] if backward else runs)}


def figures(system: str, sweeps: Sequence[dict[str, common.Timed]]) -> dict[str, Any]:
    """Of one system: generate's processor time over its own, and the same of elapsed time."""
    pairs = [(sweep[GENERATE], sweep[system]) for sweep in sweeps]
    ratios = [base.seconds * base.share / (own.seconds * own.share) for base, own in pairs]
    elapsed = common.Paired()
    for base, own in pairs:
        elapsed.add(own, base)
    return {**common.spread(ratios), "ratios": ratios, "elapsed": elapsed.figures()}


def main() -> None:
    """Measure all cells, print the table, write the figures."""
    parser = common.parser(__doc__, "autoregressive")
    parser.add_argument("--sweeps", type=int, default=5, help="good pairs for each ratio (5)")
    args = parser.parse_args()
    common.start(args)
    before, cells, sweeps = common.machine(), [], 1 if args.quick else args.sweeps
    for name, count, lengths in QUICK_CELLS if args.quick else CELLS:
        cells.append(cell(name, count, lengths, sweeps, THEIR_SETTINGS[:1] if args.quick else THEIR_SETTINGS))
        common.console.print(name, count, {one: common.text(of) for one, of in cells[-1]["systems"].items()})
    table = Table("model", "in flight", "prompt", "answer", THEIRS, FIXED, OURS, title="tokens a second, generate = 1")
    for one in cells:
        ratios = [common.text(one["systems"][system]) for system in (THEIRS, FIXED, OURS)]
        lengths = ("{}..{}".format(*one[part]) for part in ("prompt", "answer"))
        table.add_row(one["model"], str(one["in_flight"]), *lengths, *ratios)
    common.console.print(table)
    common.write(args.output, before, {"cells": cells})


if __name__ == "__main__":
    main()
