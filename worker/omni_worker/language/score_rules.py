"""What a model's generation config asks of its scores, such as a repetition penalty, with transformers' own processors.

Each request has processors of its own, because some depend on its prompt. They read nothing but its tokens, so they
work alone as in a batch, and in a request that another replica resumes.
"""

import copy
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessorList

from omni_worker.requests import SamplingParams

log = logging.getLogger(__name__)
FILTERS = ("min_p", "typical_p", "epsilon_cutoff", "eta_cutoff")
"""The settings that exclude unlikely tokens, after temperature, top_k and top_p, where tokens are sampled."""
NOT_APPLIED = {
    "guidance_scale": 1.0,
    "num_beams": 1,
    "penalty_alpha": 0.0,
    "top_h": None,
    "watermarking_config": None,
}
"""The settings that need more than one request's scores, or another order, with the value that asks for nothing."""


@dataclass(frozen=True)
class ScoreRules:
    """The rules of one request.

    processors: change the scores of its next token
    filters: then exclude tokens from sampling
    """

    processors: LogitsProcessorList
    filters: LogitsProcessorList

    def process(self, tokens: Sequence[int], scores: Tensor) -> Tensor:
        """The scores (1, vocabulary) of the token after `tokens`, which are those of prompt and output."""
        return self.processors(torch.tensor([tokens], device=scores.device), scores)


class ModelScoreRules:
    """Makes the rules of each request of a model.

    eos_tokens: the end-of-sequence tokens, which a rule about lengths suppresses or forces
    device: where the scores are
    """

    def __init__(self, name: str, model: Any, eos_tokens: Sequence[int], device: torch.device) -> None:
        self._model, self._device = model, device
        config = model.generation_config
        if ignored := [key for key, none in NOT_APPLIED.items() if getattr(config, key, None) not in (None, none)]:
            log.warning("%s: its generation_config asks for %s, which is not applied", name, ", ".join(ignored))
        self._config = copy.deepcopy(config)
        self._config.update(do_sample=False, guidance_scale=None)
        self._config._eos_token_tensor = torch.tensor(sorted(eos_tokens), device=device) if eos_tokens else None
        filters = {key: getattr(config, key, None) for key in FILTERS}
        self._filter_config = GenerationConfig(do_sample=True, top_k=0, **filters)
        self._filters = self._processors(self._filter_config, [0])
        self._is_empty = not (self._filters or self._processors(self._config, [0]))

    def for_request(self, prompt: Sequence[int], max_tokens: int, sampling: SamplingParams) -> ScoreRules | None:
        """The rules for a prompt and at most `max_tokens` more tokens; None if there are none.

        What `sampling` gives overrides the model's own.
        """
        if self._is_empty and sampling.repetition_penalty is None and sampling.min_p is None:
            return None
        config, filters = copy.copy(self._config), self._filters
        config.max_length = len(prompt) + max_tokens
        if sampling.repetition_penalty is not None:
            config.repetition_penalty = float(sampling.repetition_penalty)
        if sampling.min_p is not None:
            filter_config = copy.copy(self._filter_config)
            filter_config.min_p = float(sampling.min_p) or None
            filters = self._processors(filter_config, [0])
        return ScoreRules(self._processors(config, prompt), filters)

    def _processors(self, config: GenerationConfig, prompt: Sequence[int]) -> LogitsProcessorList:
        tokens = torch.tensor([prompt], device=self._device)
        return self._model._get_logits_processor(config, len(prompt), encoder_input_ids=tokens, device=self._device)
