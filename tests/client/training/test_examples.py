"""Batches: what follows what, windows, thinning, and histories that do not fit the catalog."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest

from client.training.examples import Batch, Draws, batch_losses, draw_examples, to_batch
from shared.config import RunConfig
from shared.model.recommender import Recommender, build
from shared.randomness import replayable_source, secret_source
from tests import rounding

LENGTH = 6


@pytest.fixture(scope="module")
def recommender(tiny_config: RunConfig, tiny_catalog: Any) -> Recommender:
    return build(tiny_config, tiny_catalog)


def _batch(recommender: Recommender, config: RunConfig, histories: list[list[int]], **changes: Any) -> Batch:
    settings = config.training.model_copy(update={"random_windows": False, **changes})
    return _drawn(recommender, histories, settings, seed=0)


def _drawn(recommender: Recommender, histories: list[list[int]], settings: Any, *, seed: int) -> Batch:
    series = pl.Series(histories, dtype=pl.List(pl.Int32))
    nobody = np.zeros(len(histories), dtype=np.int64)
    draws = Draws([replayable_source(seed)])
    return to_batch(draw_examples(series, nobody, max_length=LENGTH, config=settings, draws=draws), recommender)


def _pairs(batch: Batch, row: int) -> list[tuple[int, int]]:
    """Every input with its target."""
    kept = batch.mask[row]
    return list(zip(batch.inputs[row][kept].tolist(), batch.targets[row][kept].tolist(), strict=True))


def test_every_input_has_the_interaction_that_follows_as_its_target(
    recommender: Recommender, tiny_config: RunConfig
) -> None:
    batch = _batch(recommender, tiny_config, [[4, 5, 6], [1, 2], list(range(12))])
    assert _pairs(batch, 0) == [(4, 5), (5, 6)]
    assert _pairs(batch, 1) == [(1, 2)]
    assert _pairs(batch, 2) == [(item, item + 1) for item in range(5, 11)]
    assert batch.inputs.shape == batch.targets.shape == batch.mask.shape == (3, LENGTH)


def test_a_random_window_is_contiguous_and_of_full_length(recommender: Recommender, tiny_config: RunConfig) -> None:
    batch = _batch(recommender, tiny_config, [list(range(12))] * 50, random_windows=True)
    starts = {_pairs(batch, row)[0][0] for row in range(50)}
    assert starts == set(range(6))
    for row in range(50):
        first = _pairs(batch, row)[0][0]
        assert _pairs(batch, row) == [(item, item + 1) for item in range(first, first + LENGTH)]


@pytest.mark.parametrize("histories", [[[1, 2, 3, 4, 5]], [[1, 2], [3, 4]], [[1, 2, 3], [4, 5, 6, 7]], [[]], [[3], [5]]])
def test_thinning_leaves_out_interactions_in_place_whatever_the_lengths(
    histories: list[list[int]], recommender: Recommender, tiny_config: RunConfig
) -> None:
    for seed in range(20):
        settings = tiny_config.training.model_copy(update={"random_windows": False, "history_dropout": 0.9})
        thinned = _drawn(recommender, histories, settings, seed=seed)
        for row, history in enumerate(histories):
            pairs = _pairs(thinned, row)
            kept = [pairs[0][0], *(target for _, target in pairs)] if pairs else []
            assert kept == [item for item in history if item in kept]
            assert len(kept) >= min(2, len(history)) or len(history) == 1


@pytest.mark.parametrize("bad", [[1, 12, 2], [4, -1, 2], [2**31 - 1] * 3, [-(2**31)] * 40])
def test_a_history_outside_the_catalog_has_no_targets_and_no_loss(
    bad: list[int], recommender: Recommender, tiny_config: RunConfig
) -> None:
    good = [1, 2, 3]
    batch = _batch(recommender, tiny_config, [bad, good])
    assert not batch.mask[0].any()
    assert _pairs(batch, 1) == [(1, 2), (2, 3)]
    losses = batch_losses(recommender, batch)
    assert losses[0] == 0
    (alone,) = batch_losses(recommender, _batch(recommender, tiny_config, [good]))
    rounding.assert_close(losses[1], alone, within=rounding.of_scores(recommender))


def test_what_a_client_draws_does_not_depend_on_the_others_in_a_run_that_repeats(tiny_config: RunConfig) -> None:
    settings = tiny_config.training.model_copy(update={"random_windows": True, "history_dropout": 0.5})
    own = [[list(range(30)), list(range(20))], [list(range(25))], [list(range(12))] * 3]

    def drawn(chosen: list[int]) -> list[list[list[int]]]:
        series = pl.Series([history for client in chosen for history in own[client]], dtype=pl.List(pl.Int32))
        owner = np.repeat(np.arange(len(chosen)), [len(own[client]) for client in chosen])
        draws = Draws([replayable_source(1, client) for client in chosen])
        found = draw_examples(series, owner, max_length=LENGTH, config=settings, draws=draws).windows
        windows = [
            found.flat[start : start + length].tolist() for start, length in zip(found.starts, found.lengths, strict=True)
        ]
        return [[windows[row] for row in np.flatnonzero(owner == place)] for place in range(len(chosen))]

    together = drawn([0, 1, 2])
    assert [drawn([client])[0] for client in (0, 1, 2)] == together
    assert drawn([2, 0])[1] == together[0]
    assert together[2][0] != together[2][1] or together[2][1] != together[2][2]


def test_secret_sources_give_every_example_a_window_of_its_own(tiny_config: RunConfig) -> None:
    """Null: 200 windows with 95 possible starts. Fewer than 60 distinct ones have probability below 1e-9."""
    settings = tiny_config.training.model_copy(update={"random_windows": True})
    series = pl.Series([list(range(101))] * 200, dtype=pl.List(pl.Int32))
    draws = Draws([secret_source()] * 200)
    found = draw_examples(series, np.arange(200), max_length=LENGTH, config=settings, draws=draws).windows
    assert len(set((found.starts - 101 * np.arange(200)).tolist())) >= 60
