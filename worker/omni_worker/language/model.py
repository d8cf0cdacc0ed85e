"""One model call for many requests: their next tokens in, the scores that are wanted and all last states out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from omni_worker.language.cache import SlotCache
from omni_worker.parallel.chain import Chain, keep_own_layers


@dataclass(frozen=True)
class RowInput:
    """What one request adds to its row of the cache: `tokens` from position `start` on.

    picks: behind which of these tokens the scores of the next one are wanted, as indices into `tokens`
    """

    id: str
    tokens: Sequence[int]
    start: int
    picks: Sequence[int]


@dataclass(frozen=True)
class RowResult:
    """logits: (picks of all rows, vocabulary), in the order of rows and picks
    states: (tokens, width), the last layer's; those of row i begin at `begins[i]`
    """

    logits: Tensor
    states: Tensor
    begins: Sequence[int]

    def states_of(self, row: int, begin: int, end: int) -> Tensor:
        """A copy of a row's states behind its tokens `begin` to `end`."""
        return self.states[self.begins[row] + begin : self.begins[row] + end].clone()


class SlotModel:
    """A causal language model that writes into `cache`. Each row that is run has been reserved there."""

    def __init__(self, model: Any, cache: SlotCache, chain: Chain | None = None) -> None:
        self._model = model
        self.cache = cache
        self.chain = chain or Chain()
        self._device = model.device
        self._picked: Tensor | None = None
        self._states: Tensor | None = None
        decoder = model.get_decoder()
        self._decoder = model.model if decoder is model else decoder
        self._decoder.register_forward_hook(self._pick)
        self._embedded: tuple[int, torch.dtype] | None = None

    def divide(self) -> None:
        """Keep this rank's layers alone. Raises ValueError where there are fewer of them than ranks."""
        if self.chain.size > 1:
            embedding = self._model.get_input_embeddings()
            self._embedded = embedding.weight.shape[-1], embedding.weight.dtype
            keep_own_layers(self._model, self._decoder, self.chain)

    def run(
        self, rows: Sequence[RowInput], count: int = 0, choose: Callable[[RowResult], list[int]] = lambda answer: []
    ) -> tuple[RowResult | None, list[int]]:
        """Call the model once; its answer, and the `count` numbers that `choose` makes of it.

        All ranks get the numbers, and the last alone the answer. Raises what the model raises, on any rank; the rows
        can be run again then.
        """
        answers: list[RowResult] = []

        def call() -> list[int]:
            if (answer := self._call(rows)) is None:
                return []
            answers.append(answer)
            return choose(answer)

        numbers = self.chain.conclude(call, count)
        return (answers[0] if answers else None), numbers

    def _call(self, rows: Sequence[RowInput]) -> RowResult | None:
        order = self.cache.enter([(row.id, row.start, len(row.tokens)) for row in rows])
        tokens: list[int] = []
        begins = [0] * len(rows)
        for i in order:
            begins[i] = len(tokens)
            tokens += rows[i].tokens
        picked = [begins[i] + place for i, row in enumerate(rows) for place in row.picks]
        self._picked = torch.tensor(picked, dtype=torch.long, device=self._device)
        told: dict[str, Any] = {"input_ids": torch.tensor([tokens], device=self._device)}
        if not self.chain.is_first and self._embedded is not None:
            size, dtype = self._embedded  # nobody reads them: the first layer here takes the states of the rank before
            told = {"inputs_embeds": torch.zeros(1, len(tokens), size, dtype=dtype, device=self._device)}
        positions = self.cache.current.layout.positions[None]
        told |= {"position_ids": positions, "past_key_values": self.cache, "use_cache": True}
        try:
            if not self.chain.is_last:
                self._decoder(**told)
                return None
            out = self._model(**told)
            assert self._states is not None, "the decoder was not called"
            return RowResult(out.logits[0], self._states, begins)
        finally:
            self._picked = self._states = None

    def _pick(self, module: Any, args: Any, output: Any) -> Any:
        """Keep all states, and let only those that scores are wanted of pass to the head."""
        if self._picked is not None:
            self._states = output.last_hidden_state[0]
            output.last_hidden_state = self._states[self._picked][None]
        return output
