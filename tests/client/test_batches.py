"""Batches: what follows what, windows, thinning, and histories that do not fit the catalog."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest

from client.batches import Batch, batch_losses, draw_batch
from shared.config import RunConfig
from shared.recommender import Recommender, build

LENGTH = 6


@pytest.fixture(scope="module")
def recommender(tiny_config: RunConfig, tiny_catalog: Any) -> Recommender:
    return build(tiny_config, tiny_catalog)


def _batch(recommender: Recommender, config: RunConfig, histories: list[list[int]], **changes: Any) -> Batch:
    settings = config.training.model_copy(update={"random_windows": False, **changes})
    return draw_batch(pl.Series(histories, dtype=pl.List(pl.Int32)), recommender, settings, np.random.default_rng(0))


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
        thinned = draw_batch(
            pl.Series(histories, dtype=pl.List(pl.Int32)),
            recommender,
            tiny_config.training.model_copy(update={"random_windows": False, "history_dropout": 0.9}),
            np.random.default_rng(seed),
        )
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
    assert losses[1].item() == pytest.approx(alone.item(), rel=1e-5)
