"""A client's evaluation equals metrics computed user by user with sorted lists, whatever the batches."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest

from client.evaluation import evaluate
from shared.config import RunConfig
from shared.recommender import Recommender, build
from shared.update import RecommenderState
from tests.oracles import best_rank_of_user, list_of_user, metrics_of_user


@pytest.fixture(scope="module")
def recommender(tiny_config: RunConfig, tiny_catalog: Any) -> Recommender:
    built = build(tiny_config, tiny_catalog)
    rng = np.random.default_rng(4)
    built.load_state(
        RecommenderState(rng.normal(size=12).astype(np.float32), rng.normal(0, 0.4, built.attached.size).astype(np.float32))
    )
    return built


@pytest.mark.parametrize("target", ["validation", "test"])
@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_sums_equal_those_of_metrics_computed_user_by_user(
    target: Any,
    batch_size: int,
    recommender: Recommender,
    tiny_config: RunConfig,
    tiny_histories: pl.DataFrame,
) -> None:
    config = tiny_config.with_values({"evaluation.batch_size": batch_size})
    sums = evaluate(tiny_histories, recommender, config, target=target)
    expected: dict[str, float] = {}
    items, ranks = np.zeros(12), []
    for row in tiny_histories.iter_rows(named=True):
        known = row["train"] + (row["validation"] if target == "test" else [])
        scores = recommender.score([np.array(known)])[0].tolist()
        for name, value in metrics_of_user(scores, known, row[target], 3).items():
            expected[name] = expected.get(name, 0.0) + value
        items[list_of_user(scores, known, row[target], 3)] += 1
        ranks.append(best_rank_of_user(scores, known, row[target]))
    assert sums.num_users == 9
    assert dict(zip(sums.names, sums.sums, strict=True)) == pytest.approx(expected)
    np.testing.assert_array_equal(sums.item_counts, items)
    assert sums.histogram[0] == ranks.count(1)
    assert sums.histogram.sum() == 9


def test_clients_evaluations_add_up_to_that_of_all_users(
    recommender: Recommender, tiny_config: RunConfig, tiny_histories: pl.DataFrame
) -> None:
    """Intervals too: a user's weight in a replicate depends on the user, and not on the client."""
    whole = evaluate(tiny_histories, recommender, tiny_config, target="test")
    parts = [
        evaluate(tiny_histories[rows], recommender, tiny_config, target="test") for rows in ([0, 5, 8], [1, 2, 3, 4, 6, 7])
    ]
    np.testing.assert_allclose((parts[0] + parts[1]).to_vector(), whole.to_vector(), atol=1e-9)


def test_users_without_a_target_do_not_count(
    recommender: Recommender, tiny_config: RunConfig, tiny_histories: pl.DataFrame
) -> None:
    empty = pl.Series([[]], dtype=pl.List(pl.Int32))
    without = tiny_histories.with_columns(test=pl.when(pl.col("user") == "u0").then(empty.first()).otherwise("test"))
    assert without["test"].list.len().to_list() == [0, *[1] * 8]
    found = evaluate(without, recommender, tiny_config, target="test")
    expected = evaluate(tiny_histories.filter(pl.col("user") != "u0"), recommender, tiny_config, target="test")
    np.testing.assert_allclose(found.to_vector(), expected.to_vector(), atol=1e-9)
    nobody = evaluate(without.head(1), recommender, tiny_config, target="test")
    assert nobody.num_users == 0
    assert not nobody.to_vector().any()
