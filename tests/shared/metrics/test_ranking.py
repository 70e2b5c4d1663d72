"""Per-user metrics against hand-made cases, RecBole's formulas, scikit-learn and a slow oracle."""

import tracemalloc
from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, ndcg_score, roc_auc_score

from shared.errors import DataError, TacitError
from shared.metrics import ranking
from shared.metrics.beyond_accuracy import recommended
from tests import oracles

METRICS = {
    "hr": ranking.hit_rate,
    "ndcg": ranking.ndcg,
    "mrr": ranking.reciprocal_rank,
    "map": ranking.average_precision,
    "precision": ranking.precision,
    "recall": ranking.recall,
    "f1": ranking.f1,
}


def ranks_of(scores, histories, targets):
    scores = np.asarray(scores, dtype=np.float32)
    targets = [np.asarray(items, dtype=np.int32) for items in targets]
    keys = ranking.pair_keys(targets, scores.shape[1])
    seen = [np.asarray(items, dtype=np.int32) for items in histories]
    return ranking.rank_targets(ranking.mask_seen(scores, seen, keys), keys)


def metrics_of(ranks, k):
    values = {f"{name}@{k}": metric(ranks, k) for name, metric in METRICS.items()}
    return values | {"auc": ranking.auc(ranks)}


@st.composite
def batches(draw, *, ties=True):
    num_users, num_items = draw(st.integers(1, 4)), draw(st.integers(2, 9))
    items = st.integers(0, num_items - 1)
    if ties:
        rows = [draw(st.lists(st.integers(-2, 2), min_size=num_items, max_size=num_items)) for _ in range(num_users)]
    else:
        rows = [draw(st.permutations(range(num_items))) for _ in range(num_users)]
    histories = [draw(st.lists(items, max_size=6)) for _ in range(num_users)]
    targets = [draw(st.lists(items, min_size=1, max_size=5)) for _ in range(num_users)]
    return rows, histories, targets


@given(batches(), st.integers(1, 11))
def test_every_metric_equals_the_slow_oracle_with_ties_and_repetitions(batch, k):
    rows, histories, targets = batch
    values = metrics_of(ranks_of(rows, histories, targets), k)
    for user, (row, history, target) in enumerate(zip(rows, histories, targets, strict=True)):
        for name, expected in oracles.metrics_of_user(row, history, target, k).items():
            assert values[name][user] == pytest.approx(expected, abs=1e-12), name


@given(batches())
def test_best_rank_equals_the_slow_oracle(batch):
    rows, histories, targets = batch
    expected = [oracles.best_rank_of_user(*user) for user in zip(rows, histories, targets, strict=True)]
    assert ranking.best_rank(ranks_of(rows, histories, targets)).tolist() == expected


@given(batches(ties=False), st.integers(1, 11))
def test_ndcg_equals_scikit_learn_without_ties(batch, k):
    rows, histories, targets = batch
    values = ranking.ndcg(ranks_of(rows, histories, targets), k)
    for user, (truth, scores) in enumerate(truths(rows, histories, targets)):
        if len(truth) > 1:  # scikit-learn refuses a single candidate.
            assert values[user] == pytest.approx(ndcg_score([truth], [scores], k=k))


@given(batches(ties=False))
def test_map_over_all_places_equals_scikit_learn_average_precision_without_ties(batch):
    rows, histories, targets = batch
    values = ranking.average_precision(ranks_of(rows, histories, targets), 1000)
    for user, (truth, scores) in enumerate(truths(rows, histories, targets)):
        assert values[user] == pytest.approx(average_precision_score(truth, scores))


@given(batches(ties=True))
def test_auc_equals_scikit_learn_with_ties(batch):
    rows, histories, targets = batch
    values = ranking.auc(ranks_of(rows, histories, targets))
    for user, (truth, scores) in enumerate(truths(rows, histories, targets)):
        expected = 0.5 if min(truth) == max(truth) else roc_auc_score(truth, scores)
        assert values[user] == pytest.approx(expected)


def truths(rows, histories, targets):
    """The candidates of each user as scikit-learn wants them: labels and scores."""
    for row, history, target in zip(rows, histories, targets, strict=True):
        candidates = [item for item in range(len(row)) if item not in history or item in target]
        yield [int(item in target) for item in candidates], [row[item] for item in candidates]


# RecBole's `pos_index` is whether each place of the list holds a target, `pos_len` the number of targets.
# The expected numbers are its formulas by hand, in the last column, K = 5.
RECBOLE_CASES = [
    pytest.param(
        [1, 0, 1, 0, 0],
        3,
        {
            "hr": 1.0,
            "mrr": 1.0,
            "map": (1 / 1 + 2 / 3) / 3,
            "ndcg": (1 + 1 / 2) / (1 + 1 / np.log2(3) + 1 / 2),
            "precision": 2 / 5,
            "recall": 2 / 3,
            "f1": 2 * (2 / 5) * (2 / 3) / (2 / 5 + 2 / 3),
        },
        id="two of three targets listed",
    ),
    pytest.param(
        [0, 1, 0, 1, 1],
        7,
        {
            "hr": 1.0,
            "mrr": 1 / 2,
            "map": (1 / 2 + 2 / 4 + 3 / 5) / 5,
            "ndcg": (1 / np.log2(3) + 1 / np.log2(5) + 1 / np.log2(6))
            / (1 + 1 / np.log2(3) + 1 / 2 + 1 / np.log2(5) + 1 / np.log2(6)),
            "precision": 3 / 5,
            "recall": 3 / 7,
            "f1": 2 * 3 / (5 + 7),
        },
        id="more targets than places",
    ),
    pytest.param(
        [0, 0, 0, 0, 0],
        2,
        {"hr": 0.0, "mrr": 0.0, "map": 0.0, "ndcg": 0.0, "precision": 0.0, "recall": 0.0, "f1": 0.0},
        id="nothing listed",
    ),
    pytest.param(
        [0, 0, 0, 0, 1],
        1,
        {
            "hr": 1.0,
            "mrr": 1 / 5,
            "map": 1 / 5,
            "ndcg": 1 / np.log2(6),
            "precision": 1 / 5,
            "recall": 1.0,
            "f1": 2 / 6,
        },
        id="one target in the last place",
    ),
]


@pytest.mark.parametrize(("pos_index", "pos_len", "expected"), RECBOLE_CASES)
def test_metrics_equal_recbole_formulas(pos_index, pos_len, expected):
    num_items = 20
    scores = -np.arange(num_items, dtype=np.float32)  # Item 0 is in the first place.
    listed = np.flatnonzero(pos_index).tolist()
    targets = listed + [10 + extra for extra in range(pos_len - len(listed))]
    ranks = ranks_of([scores], [[]], [targets])
    for name, value in expected.items():
        assert METRICS[name](ranks, 5)[0] == pytest.approx(value), name


def test_gauc_of_recbole_is_the_auc_weighted_by_targets():
    rng = np.random.default_rng(3)
    scores = rng.standard_normal((3, 12))
    targets = [[0], [1, 2], [3, 4, 5, 6]]
    ranks = ranks_of(scores, [[], [], []], targets)
    # RecBole: n items ranked, from 1, descending; (|R| (n + 1) - |R| (|R| + 1) / 2 - sum of ranks) / pairs.
    gauc = 0.0
    for row, target in zip(scores.astype(np.float32), targets, strict=True):
        places = [1 + int((row > row[item]).sum()) for item in target]
        size = len(target)
        won = size * (12 + 1) - size * (size + 1) / 2 - sum(places)
        gauc += size * won / (size * (12 - size)) / 7
    assert np.average(ranking.auc(ranks), weights=[1, 2, 4]) == pytest.approx(gauc)


def test_constant_scores_rank_a_target_last_and_have_an_auc_of_one_half():
    ranks = ranks_of(np.zeros((2, 30)), [[], [3, 4]], [[0], [29]])
    assert ranks.ranks.tolist() == [30, 28]
    assert ranking.hit_rate(ranks, 10).tolist() == [0.0, 0.0]
    assert ranking.ndcg(ranks, 10).tolist() == [0.0, 0.0]
    assert ranking.auc(ranks).tolist() == [0.5, 0.5]


def test_seen_items_take_no_place_even_when_scored_highest():
    ranks = ranks_of([[9.0, 8.0, 7.0, 6.0]], [[0, 1, 0]], [[2]])
    assert ranks.ranks.tolist() == [1]
    assert ranks.num_negatives.tolist() == [1]


def test_a_target_seen_before_stays_a_candidate():
    assert ranks_of([[1.0, 3.0, 2.0]], [[0, 1]], [[0]]).ranks.tolist() == [2]


def test_repeated_targets_count_once():
    ranks = ranks_of([[1.0, 3.0, 2.0]], [[]], [[2, 2, 2]])
    assert ranks.num_targets.tolist() == [1]
    assert ranking.recall(ranks, 2).tolist() == [1.0]


def test_a_score_of_minus_infinity_is_the_lowest_and_no_better_than_its_equals():
    ranks = ranks_of([[-np.inf, -np.inf, 0.0]], [[]], [[0]])
    assert ranks.ranks.tolist() == [3]


def test_the_scores_given_are_not_changed():
    scores = np.arange(6, dtype=np.float32).reshape(2, 3)
    before = scores.copy()
    ranks_of(scores, [[0], [1]], [[1], [2]])
    assert np.array_equal(scores, before)


@given(batches(), st.integers(1, 40))
def test_a_few_scores_at_a_time_give_the_ranks_of_all_at_once_with_ties(batch, scores_at_once):
    expected, found = ranks_of(*batch), None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranking, "BLOCK", scores_at_once)
        found = ranks_of(*batch)
    for field in fields(expected):
        np.testing.assert_array_equal(getattr(found, field.name), getattr(expected, field.name), err_msg=field.name)


def test_users_in_another_order_than_their_rows_get_their_own_ranks():
    scores = np.array([[3, 1, 2], [1, 2, 3], [2, 3, 1]], dtype=np.float32)
    targets = ranking.pair_keys([np.array([0]), np.array([0])], 3)
    candidates = ranking.mask_seen(scores, [[1], []], targets, rows=np.array([2, 0]))
    assert ranking.rank_targets(candidates, targets).ranks.tolist() == [1, 1]
    assert candidates.counts().tolist() == [2, 3]
    assert ranking.rank_targets(ranking.mask_seen(scores[:2], [[], []], targets), targets).ranks.tolist() == [1, 3]


@pytest.mark.parametrize(("num_items", "most", "expected"), [(1682, 128, 128), (10**6, 128, 33), (10**9, 128, 1), (0, 5, 5)])
def test_fewer_users_are_scored_at_once_where_the_catalog_is_larger(num_items, most, expected):
    assert ranking.users_at_once(num_items, most) == expected


def test_ranking_takes_little_memory_beside_the_scores():
    """Numpy tells tracemalloc of every array: 40 users, 400,000 items, 64 MB of scores, of which one copy is too many."""
    rng = np.random.default_rng(0)
    scores = rng.standard_normal((40, 400_000), dtype=np.float32)
    targets, histories = list(rng.integers(0, 400_000, (40, 3))), list(rng.integers(0, 400_000, (40, 50)))
    keys = ranking.pair_keys(targets, 400_000)
    tracemalloc.start()
    candidates = ranking.mask_seen(scores, histories, keys)
    ranking.rank_targets(candidates, keys)
    recommended(candidates, 10)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 0.75 * scores.nbytes


@pytest.mark.parametrize("scores_at_once", [1, 2, 4, 100])
def test_nan_scores_are_refused_instead_of_ranked_first(scores_at_once, monkeypatch):
    monkeypatch.setattr(ranking, "BLOCK", scores_at_once)
    expected = (
        r"Expected item scores without NaN, got NaN for 1 of 2 users of a batch\. "
        r"The model has diverged; use a lower learning rate\."
    )
    with pytest.raises(TacitError, match=expected):
        ranks_of([[np.nan, 0.0, 0.0], [0.0, 1.0, 2.0]], [[], []], [[0], [0]])
    with pytest.raises(TacitError, match=expected):
        ranks_of([[1.0, 0.0, 2.0], [0.0, 1.0, np.nan]], [[], []], [[0], [0]])


@pytest.mark.parametrize("row", [-1, 3])
def test_item_rows_outside_the_catalog_are_refused_and_not_quoted(row):
    expected = (
        r"^Expected item rows in \[0, 3\), found 1 violations\. "
        r"Score with the catalog the histories were built with\.$"
    )
    with pytest.raises(DataError, match=expected):
        ranking.pair_keys([np.array([0, row])], 3)
