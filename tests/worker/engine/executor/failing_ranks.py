"""Builds runners that fail on one rank, for the tests of several processes."""

from omni_worker.engine.build import build_runner

# What fails, as tokens, by the rank that fails.
CULPRITS = {0: [32, 33, 0], 1: [32, 34, 0]}
PROMPTS = {0: "AB!", 1: "AC!"}


def build(ranks, *args):
    runner, card = build_runner(ranks, *args)
    call = runner._model.slots._call

    def breaks(rows):
        if any(list(row.tokens) == CULPRITS[ranks.rank] for row in rows):
            raise RuntimeError("a shape does not fit")
        return call(rows)

    runner._model.slots._call = breaks
    return runner, card
