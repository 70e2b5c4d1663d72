"""Sums that add over clients: additivity, the wire form, means, intervals, differences."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import ConfigError, DataError, TacitError
from shared.metrics import (
    RANK_EDGES,
    EvaluationSums,
    difference,
    evaluate_clients,
    evaluate_scores,
    metric_names,
    ranking,
    summarize,
    user_keys,
)
from shared.metrics.bootstrap import bootstrap_weights
from tests import oracles
from tests.alone import vector_of

NUM_ITEMS = 30


def draw_batch(num_users, *, seed=0, num_targets=1):
    rng = np.random.default_rng(seed)
    return {
        "scores": rng.standard_normal((num_users, NUM_ITEMS)).astype(np.float32),
        "histories": [rng.integers(0, NUM_ITEMS, 6) for _ in range(num_users)],
        "targets": [rng.integers(0, NUM_ITEMS, num_targets) for _ in range(num_users)],
        "user_keys": user_keys([f"user {seed} {user}" for user in range(num_users)]),
    }


def evaluate(batch, rows=slice(None), *, num_replicates=20, bootstrap_seed=5, k=4):
    return evaluate_scores(
        **{name: values[rows] for name, values in batch.items()},
        k=k,
        num_replicates=num_replicates,
        bootstrap_seed=bootstrap_seed,
    )


def assert_equal(a, b):
    assert a.names == b.names
    assert a.num_users == b.num_users
    assert np.array_equal(a.item_counts, b.item_counts)
    assert np.array_equal(a.histogram, b.histogram)
    assert np.array_equal(a.replicate_counts, b.replicate_counts)
    np.testing.assert_allclose(a.sums, b.sums, rtol=0, atol=1e-9)
    np.testing.assert_allclose(a.replicate_sums, b.replicate_sums, rtol=0, atol=1e-9)


@given(st.integers(0, 12), st.integers(1, 3))
def test_sums_of_two_batches_are_the_sums_of_all_users(cut, num_targets):
    batch = draw_batch(12, num_targets=num_targets)
    assert_equal(evaluate(batch, slice(cut)) + evaluate(batch, slice(cut, None)), evaluate(batch))


def test_sums_do_not_depend_on_the_order_of_users():
    batch = draw_batch(15)
    order = np.random.default_rng(1).permutation(15)
    shuffled = {
        name: values[order] if isinstance(values, np.ndarray) else [values[row] for row in order]
        for name, values in batch.items()
    }
    assert_equal(evaluate(shuffled), evaluate(batch))


def test_a_few_scores_at_a_time_give_the_very_same_sums(monkeypatch):
    batch = draw_batch(15, num_targets=2)
    batch["scores"] = np.round(batch["scores"], 1)  # ties
    whole = vector_of(evaluate(batch))
    monkeypatch.setattr(ranking, "BLOCK", 7 * 15)
    np.testing.assert_array_equal(vector_of(evaluate(batch)), whole)


def test_vectors_without_counts_of_items_are_the_beginnings_of_those_with_them():
    batch, clients = draw_batch(9), np.array([2, 0, 0, 1, 2, 2, 0, 1, 5])
    present, whole = evaluate_clients(**batch, clients=clients, k=4, num_replicates=3)
    again, beginning = evaluate_clients(**batch, clients=clients, k=4, num_replicates=3, counts_items=False)
    assert present.tolist() == again.tolist() == [0, 1, 2, 5]
    assert beginning.shape == (4, EvaluationSums.vector_size(NUM_ITEMS, 3, k=4, counts_items=False))
    np.testing.assert_array_equal(beginning, whole[:, : -(NUM_ITEMS + len(RANK_EDGES))])


def test_zero_is_the_neutral_element():
    sums = evaluate(draw_batch(5))
    zero = EvaluationSums.zero(num_items=NUM_ITEMS, num_replicates=20, k=4)
    assert_equal(zero + sums, sums)
    assert_equal(sum([sums, sums], start=zero), sums + sums)


def test_the_vector_round_trip_gives_the_same_sums():
    sums = evaluate(draw_batch(7))
    vector = vector_of(sums)
    assert (vector.dtype, vector.ndim) == (np.float64, 1)
    assert_equal(EvaluationSums.from_vector(vector, NUM_ITEMS, 20, k=4), sums)


def test_the_vector_of_a_sum_is_the_sum_of_the_vectors():
    a, b = evaluate(draw_batch(7)), evaluate(draw_batch(4, seed=1))
    assert np.array_equal(vector_of(a + b), vector_of(a) + vector_of(b))
    added = EvaluationSums.from_vector(vector_of(a) + vector_of(b), NUM_ITEMS, 20, k=4)
    assert_equal(added, a + b)


def test_counts_survive_the_rounding_errors_of_a_masked_sum():
    sums = evaluate(draw_batch(7))
    noisy = EvaluationSums.from_vector(vector_of(sums) + 1e-6, NUM_ITEMS, 20, k=4)
    assert noisy.num_users == 7
    assert np.array_equal(noisy.item_counts, sums.item_counts)


def test_the_sums_equal_a_loop_over_users():
    batch = draw_batch(9, num_targets=3)
    sums = evaluate(batch)
    users = list(zip(batch["scores"], batch["histories"], batch["targets"], strict=True))
    values = [oracles.metrics_of_user(*user, 4) for user in users]
    for column, name in enumerate(sums.names):
        assert sums.sums[column] == pytest.approx(sum(value[name] for value in values))
    weights = bootstrap_weights(batch["user_keys"], num_replicates=20, bootstrap_seed=5)
    for replicate in range(20):
        expected = sum(w * value["auc"] for w, value in zip(weights[replicate], values, strict=True))
        assert sums.replicate_sums[replicate, -1] == pytest.approx(expected)
    expected_bins = [0] * len(RANK_EDGES)
    for scores, history, targets in users:
        rank = oracles.best_rank_of_user(scores, history, set(targets.tolist()))
        expected_bins[max(i for i, edge in enumerate(RANK_EDGES) if edge <= rank)] += 1
    assert sums.histogram.tolist() == expected_bins
    assert sums.item_counts.sum() == 9 * 4


def test_users_without_a_target_are_not_counted():
    batch = draw_batch(6)
    batch["targets"][1] = batch["targets"][4] = np.array([], dtype=np.int32)
    rest = {
        name: values[[0, 2, 3, 5]] if isinstance(values, np.ndarray) else [values[i] for i in (0, 2, 3, 5)]
        for name, values in batch.items()
    }
    assert evaluate(batch).num_users == 4
    assert_equal(evaluate(batch), evaluate(rest))


def test_no_users_at_all_give_zero_sums_and_no_means():
    sums = evaluate(draw_batch(0))
    assert_equal(sums, EvaluationSums.zero(num_items=NUM_ITEMS, num_replicates=20, k=4))
    summary = summarize(sums, item_popularity=np.ones(NUM_ITEMS))
    assert all(value == {"mean": None, "low": None, "high": None} for value in summary.values())
    assert difference(sums, sums, "auc") == {"mean": None, "low": None, "high": None, "p_value": None}


def test_summary_holds_every_metric_under_its_name():
    summary = summarize(evaluate(draw_batch(20), k=10), item_popularity=np.arange(NUM_ITEMS))
    listed = ("hr", "ndcg", "mrr", "map", "precision", "recall", "f1")
    catalog = ("item_coverage", "gini", "entropy", "average_popularity", "tail_share")
    assert list(summary) == [*(f"{n}@10" for n in listed), "auc", *(f"{n}@10" for n in catalog)]
    for name in (*(f"{n}@10" for n in listed), "auc"):
        assert summary[name]["low"] <= summary[name]["mean"] <= summary[name]["high"]
    for name in catalog:
        assert isinstance(summary[f"{name}@10"]["mean"], float)
        assert summary[f"{name}@10"]["low"] is None


def test_intervals_are_absent_without_replicates_or_with_one_user():
    popularity = np.ones(NUM_ITEMS)
    without = summarize(evaluate(draw_batch(9), num_replicates=0), item_popularity=popularity)
    single = summarize(evaluate(draw_batch(1)), item_popularity=popularity)
    for summary in (without, single):
        assert summary["auc"]["mean"] is not None
        assert (summary["auc"]["low"], summary["auc"]["high"]) == (None, None)
    sums = evaluate(draw_batch(9), num_replicates=0)
    assert difference(sums, sums, "auc") == {"mean": 0.0, "low": None, "high": None, "p_value": None}


def test_user_keys_are_the_same_for_lists_and_series_and_in_every_version():
    # What coreutils' `b2sum -l 64` prints for "a" and "b", read as little-endian words.
    printed = ["40f89e395b66422f", "8472c2e34d854f75"]
    expected = [int.from_bytes(bytes.fromhex(digest), "little") for digest in printed]
    assert user_keys(["a", "b"]).tolist() == user_keys(pl.Series(["a", "b"])).tolist()
    assert user_keys(["a", "b"]).tolist() == expected
    assert user_keys([]).shape == (0,)


def test_weights_of_a_user_depend_on_seed_user_and_replicate_alone():
    keys = user_keys([str(user) for user in range(10)])
    weights = bootstrap_weights(keys, num_replicates=8, bootstrap_seed=3)
    assert np.array_equal(bootstrap_weights(keys[5:], num_replicates=8, bootstrap_seed=3), weights[:, 5:])
    assert np.array_equal(bootstrap_weights(keys, num_replicates=5, bootstrap_seed=3), weights[:5])
    assert not np.array_equal(bootstrap_weights(keys, num_replicates=8, bootstrap_seed=4), weights)
    assert bootstrap_weights(keys, num_replicates=8, bootstrap_seed=-1).shape == (8, 10)


def test_identical_models_do_not_differ():
    sums = evaluate(draw_batch(50))
    assert difference(sums, sums, "ndcg@4") == {"mean": 0.0, "low": 0.0, "high": 0.0, "p_value": 1.0}


def test_the_same_model_evaluated_in_other_batches_does_not_differ():
    batch = draw_batch(300, num_targets=3)
    parts = [evaluate(batch, slice(start, start + 7)) for start in range(0, 300, 7)]
    result = difference(sum(parts[1:], start=parts[0]), evaluate(batch), "ndcg@4")
    assert result["p_value"] == 1.0


def test_difference_is_the_difference_of_the_means_and_changes_sign_with_the_order():
    batch = draw_batch(200)
    better = batch | {"scores": batch["scores"].copy()}
    for row, target in enumerate(batch["targets"]):
        better["scores"][row, target] += 1.5
    a, b = evaluate(better, num_replicates=200), evaluate(batch, num_replicates=200)
    forward, backward = difference(a, b, "ndcg@4"), difference(b, a, "ndcg@4")
    popularity = np.ones(NUM_ITEMS)
    means = [summarize(sums, item_popularity=popularity)["ndcg@4"]["mean"] for sums in (a, b)]
    assert forward["mean"] == pytest.approx(means[0] - means[1])
    assert 0 < forward["low"] < forward["mean"] < forward["high"]
    assert backward["low"] == pytest.approx(-forward["high"])
    # Both tails: being clearly worse is as significant as being clearly better.
    assert forward["p_value"] == backward["p_value"] == pytest.approx(2 / 201)


def test_sums_of_other_shapes_are_not_added():
    sums = evaluate(draw_batch(3))
    with pytest.raises(
        ConfigError,
        match=r"Expected item_counts of equal shape, got shape=\(30,\) and shape=\(2,\)\. Evaluate all",
    ):
        sums + EvaluationSums.zero(num_items=2, num_replicates=20, k=4)
    with pytest.raises(ConfigError, match=r"Expected replicate_sums of equal shape, got shape=\(20, 8\) and"):
        sums + EvaluationSums.zero(num_items=NUM_ITEMS, num_replicates=3, k=4)
    with pytest.raises(ConfigError, match=r"Expected metric names to be equal.*with the same k\."):
        sums + EvaluationSums.zero(num_items=NUM_ITEMS, num_replicates=20, k=5)


def test_a_vector_of_another_length_is_refused():
    with pytest.raises(ConfigError, match=r"Expected vector of shape \(53,\), got shape=\(4,\)\. Use the catalog size"):
        EvaluationSums.from_vector(np.zeros(4), NUM_ITEMS, 0)


def test_models_resampled_differently_are_not_compared():
    batch = draw_batch(20)
    a = evaluate(batch)
    for other in (evaluate(batch, bootstrap_seed=6), evaluate(batch, slice(10))):
        with pytest.raises(ConfigError, match=r"Expected both models to be evaluated on the same users and resampled alike"):
            difference(a, other, "auc")
    with pytest.raises(ConfigError, match=r"Expected a metric that both models have, got name='hr@5'\. Use one of hr@4,"):
        difference(a, a, "hr@5")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"k": 0}, r"Expected k >= 1, got k=0\. Use the length"),
        ({"num_replicates": -1}, r"Expected num_replicates >= 0, got num_replicates=-1\. Use 200\."),
        (
            {"scores": np.zeros(3)},
            r"Expected scores of shape \(B, I\) and a floating dtype, got shape=\(3,\), dtype=float64\.",
        ),
        ({"histories": []}, r"Expected one row of scores, history.*got lengths=\(3, 0, 3, 3\)\. Build all"),
        (
            {"item_popularity": np.zeros(29)},
            r"Expected item_popularity of shape \(30,\), got shape=\(29,\)\. Count popularity over",
        ),
    ],
)
def test_arguments_that_do_not_fit_are_refused(changes, expected):
    with pytest.raises(ConfigError, match=expected):
        evaluate_scores(**(draw_batch(3) | changes))


def test_popularity_of_another_length_is_refused_by_the_summary():
    with pytest.raises(ConfigError, match=r"Expected item_popularity of shape \(30,\), got shape=\(3,\)\."):
        summarize(evaluate(draw_batch(3)), item_popularity=np.ones(3))


def test_faulty_batches_are_refused():
    batch = draw_batch(3)
    with pytest.raises(DataError, match=r"Expected item rows in \[0, 30\), found 1 violations\."):
        evaluate(batch | {"histories": [np.array([30]), np.array([]), np.array([])]})
    batch["scores"][1, 1] = np.nan
    with pytest.raises(TacitError, match=r"Expected item scores without NaN, got NaN for 1 of 3 users"):
        evaluate(batch)


def test_metric_names_carry_the_list_length():
    assert metric_names(5)[:2] == ("hr@5", "ndcg@5")
    assert metric_names(5)[-1] == "auc"
