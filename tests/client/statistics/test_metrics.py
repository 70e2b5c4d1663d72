"""A client's evaluation equals metrics computed user by user with sorted lists, whatever the batches."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import polars as pl
import pytest

from shared.config import RunConfig
from shared.model.recommender import Recommender, build
from shared.model.state import RecommenderState
from tests.alone import bounded_metrics, evaluate, vector_of
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
    np.testing.assert_allclose(vector_of(parts[0] + parts[1]), vector_of(whole), atol=1e-9)


def test_a_users_weight_in_a_replicate_is_the_same_in_runs_of_every_seed(
    recommender: Recommender, tiny_config: RunConfig, tiny_histories: pl.DataFrame
) -> None:
    """Otherwise a mean over seeds would seem surer of users than it is."""
    sums = [
        evaluate(tiny_histories, recommender, tiny_config.with_values({"run.seed": seed}), target="test") for seed in (0, 1)
    ]
    np.testing.assert_array_equal(vector_of(sums[0]), vector_of(sums[1]))


def test_users_without_a_target_do_not_count(
    recommender: Recommender, tiny_config: RunConfig, tiny_histories: pl.DataFrame
) -> None:
    empty = pl.Series([[]], dtype=pl.List(pl.Int32))
    without = tiny_histories.with_columns(test=pl.when(pl.col("user") == "u0").then(empty.first()).otherwise("test"))
    assert without["test"].list.len().to_list() == [0, *[1] * 8]
    found = evaluate(without, recommender, tiny_config, target="test")
    expected = evaluate(tiny_histories.filter(pl.col("user") != "u0"), recommender, tiny_config, target="test")
    np.testing.assert_allclose(vector_of(found), vector_of(expected), atol=1e-9)
    nobody = evaluate(without.head(1), recommender, tiny_config, target="test")
    assert nobody.num_users == 0
    assert not vector_of(nobody).any()


def _several_targets(histories: pl.DataFrame, recommender: Recommender) -> pl.DataFrame:
    """The same users with one to three targets each; the first user's only one is what the recommender ranks first."""
    rows = histories.to_dicts()
    for place, row in enumerate(rows):
        row["test"] = [(row["test"][0] + step) % 12 for step in range(1 + place % 3)]
    known = rows[0]["train"] + rows[0]["validation"]
    scores = recommender.score([np.array(known)])[0].copy()
    scores[known] = -np.inf
    rows[0]["test"] = [int(scores.argmax())]
    return pl.DataFrame(rows, schema=histories.schema)


def test_bounded_metrics_move_by_at_most_one_in_l2_norm_when_one_user_is_added_or_removed(
    recommender: Recommender, tiny_config: RunConfig, tiny_histories: pl.DataFrame
) -> None:
    histories = _several_targets(tiny_histories, recommender)
    whole = bounded_metrics(histories, recommender, tiny_config, target="test")
    moved = []
    for user in histories["user"]:
        without = bounded_metrics(histories.filter(pl.col("user") != user), recommender, tiny_config, target="test")
        moved.append(float(np.linalg.norm(whole - without)))
    assert max(moved) <= 1 + 1e-12
    assert moved[0] == pytest.approx(1.0)  # a perfect list: hit, NDCG 1, and the count
    assert min(moved) == pytest.approx(1 / math.sqrt(3))  # nothing but the count


@pytest.mark.parametrize("target", ["validation", "test"])
def test_bounded_metrics_are_the_sums_of_hits_of_ndcg_and_of_users_over_the_root_of_three(
    target: Any, recommender: Recommender, tiny_config: RunConfig, tiny_histories: pl.DataFrame
) -> None:
    expected = np.zeros(3)
    for row in tiny_histories.iter_rows(named=True):
        known = row["train"] + (row["validation"] if target == "test" else [])
        metrics = metrics_of_user(recommender.score([np.array(known)])[0].tolist(), known, row[target], 3)
        expected += [metrics["hr@3"], metrics["ndcg@3"], 1.0]
    found = bounded_metrics(tiny_histories, recommender, tiny_config, target=target)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, expected / math.sqrt(3), atol=1e-12)


@pytest.mark.parametrize("column", ["train", "validation", "test"])
@pytest.mark.parametrize("item", [12, -1])
def test_a_user_with_items_that_the_catalog_lacks_counts_as_nothing(
    column: str, item: int, recommender: Recommender, tiny_config: RunConfig, tiny_histories: pl.DataFrame
) -> None:
    """An error, or metrics of an item that is not there, would tell others about the data."""
    rows = tiny_histories.to_dicts()
    rows[3][column] = [*rows[3][column], item]
    faulty = pl.DataFrame(rows, schema=tiny_histories.schema)
    without = tiny_histories.filter(pl.col("user") != rows[3]["user"])
    found, expected = (bounded_metrics(part, recommender, tiny_config, target="test") for part in (faulty, without))
    np.testing.assert_array_equal(found, expected)
    assert found[2] < bounded_metrics(tiny_histories, recommender, tiny_config, target="test")[2]


def test_bounded_metrics_of_nobody_are_zero_and_of_the_same_shape(
    recommender: Recommender, tiny_config: RunConfig, tiny_histories: pl.DataFrame
) -> None:
    nobody = bounded_metrics(tiny_histories.head(0), recommender, tiny_config, target="test")
    np.testing.assert_array_equal(nobody, np.zeros(3))
