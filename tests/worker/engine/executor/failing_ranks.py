"""Builds runners that fail on one rank, for the tests of several processes."""

from omni_worker.engine.build import build_runner

CULPRIT = [32, 33, 0]  # the tokens of "AB!"


def on_rank_0(ranks, *args):
    return _breaking(0, ranks, *args)


def on_rank_1(ranks, *args):
    return _breaking(1, ranks, *args)


def _breaking(rank, ranks, *args):
    runner, card = build_runner(ranks, *args)
    call = runner._model.slots._call

    def breaks(rows):
        if ranks.rank == rank and any(list(row.tokens) == CULPRIT for row in rows):
            raise RuntimeError("a shape does not fit")
        return call(rows)

    runner._model.slots._call = breaks
    return runner, card
