"""One model call for many requests: takes their next tokens, returns the requested scores and all last states."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from omni_worker.language.cache import SlotCache
from omni_worker.parallel.chain import Chain, keep_own_layers


@dataclass(frozen=True)
class RowInput:
    """The tokens that one request adds to its row of the cache: `tokens`, from position `start` on.

    scored: the indices in `tokens` of those that need the scores of their successor
    text_length: the number of all tokens that are known of the request; at least `start` and those of `tokens`
    """

    id: str
    tokens: Sequence[int]
    start: int
    scored: Sequence[int]
    text_length: int


@dataclass(frozen=True)
class RowResult:
    """The outputs of a call.

    logits: (scored tokens of all rows, vocabulary), in the order of the rows and of their `scored`
    states: (tokens, width), of the last layer
    starts: the index in `states` of each row's first token
    """

    logits: Tensor
    states: Tensor
    starts: Sequence[int]

    def states_of(self, row: int, begin: int, end: int) -> Tensor:
        """A copy of the states of a row's tokens `begin` to `end`."""
        return self.states[self.starts[row] + begin : self.starts[row] + end].clone()


class SlotModel:
    """A causal language model over a cache of slots. The caller reserves a slot for every row before it runs it.

    length_borders: a text that grows beyond one of these lengths must be run again from its first token
    """

    length_borders: tuple[int, ...] = ()

    def __init__(self, model: Any, cache: SlotCache, chain: Chain | None = None) -> None:
        self._model = model
        self.cache = cache
        self.chain = chain or Chain()
        self.vocabulary: int = model.get_input_embeddings().weight.shape[0]
        self._device = model.device
        self._scored: Tensor | None = None
        self._states: Tensor | None = None
        decoder = model.get_decoder()
        self._decoder = model.model if decoder is model else decoder
        self._decoder.register_forward_hook(self._select_scored)
        self._embedding: tuple[int, torch.dtype] | None = None

    def divide(self) -> None:
        """Keep only this rank's layers. Raises ValueError if the model has fewer layers than there are ranks."""
        if self.chain.size > 1:
            embedding = self._model.get_input_embeddings()
            self._embedding = embedding.weight.shape[-1], embedding.weight.dtype
            keep_own_layers(self._model, self._decoder, self.chain)

    def is_beyond_border(self, before: int, now: int) -> bool:
        """Whether a text that grew from `before` tokens to `now` has passed one of `length_borders`."""
        return any(before <= border < now for border in self.length_borders)

    def score_alone(self, text: Sequence[int]) -> Tensor:
        """The model's own scores (vocabulary,) of the token after `text`, without a cache."""
        self._scored = torch.tensor([len(text) - 1], device=self._device)
        try:
            inputs = torch.tensor([list(text)], device=self._device)
            return self._model(input_ids=inputs, use_cache=False).logits[0, -1]
        finally:
            self._scored = self._states = None

    def run(
        self, rows: Sequence[RowInput], count: int = 0, choose: Callable[[RowResult], list[int]] = lambda result: []
    ) -> tuple[RowResult | None, list[int]]:
        """Call the model once; returns its result, and the `count` numbers that `choose` returns for it.

        All ranks get the numbers, and only the last one the result. Raises what the model raises on any rank; the rows
        can run again then.
        """
        results: list[RowResult] = []

        def call() -> list[int]:
            if (result := self._call(rows)) is None:
                return []
            results.append(result)
            return choose(result)

        numbers = self.chain.run_on_all(call, count)
        return (results[0] if results else None), numbers

    def _call(self, rows: Sequence[RowInput]) -> RowResult | None:
        lengths = [row.text_length for row in rows] if self.length_borders else ()
        order = self.cache.set_layout([(row.id, row.start, len(row.tokens)) for row in rows], lengths)
        tokens: list[int] = []
        starts = [0] * len(rows)
        for i in order:
            starts[i] = len(tokens)
            tokens += rows[i].tokens
        scored = [starts[i] + index for i, row in enumerate(rows) for index in row.scored]
        self._scored = torch.tensor(scored, dtype=torch.long, device=self._device)
        inputs: dict[str, Any] = {"input_ids": torch.tensor([tokens], device=self._device)}
        if not self.chain.is_first and self._embedding is not None:
            size, dtype = self._embedding  # only the shape counts: the first layer here gets the previous rank's states
            inputs = {"inputs_embeds": torch.zeros(1, len(tokens), size, dtype=dtype, device=self._device)}
        positions = self.cache.current.layout.positions[None]
        inputs |= {"position_ids": positions, "past_key_values": self.cache, "use_cache": True}
        try:
            if not self.chain.is_last:
                self._decoder(**inputs)
                return None
            out = self._model(**inputs)
            assert self._states is not None, "the decoder was not called"
            return RowResult(out.logits[0], self._states, starts)
        finally:
            self._scored = self._states = None

    def _select_scored(self, module: Any, args: Any, output: Any) -> Any:
        """Keep all states, and pass only those of the scored tokens on to the head."""
        if self._scored is not None:
            self._states = output.last_hidden_state[0]
            output.last_hidden_state = self._states[self._scored][None]
        return output
