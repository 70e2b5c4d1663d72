"""The baselines: small cases by hand, a slow oracle, the withheld diagonal, and their evaluation."""

import math

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import ConfigError, DataError
from shared.metrics import summarize
from simulations.comparison import baselines
from tests import oracles, rounding
from tests.alone import vector_of

SIZE = 12


def histories_table(train, validation=None, test=None):
    lists = pl.List(pl.Int32)
    return pl.DataFrame(
        {
            "user": [f"u{user:03}" for user in range(len(train))],
            "train": pl.Series(train, dtype=lists),
            "validation": pl.Series(validation or [[]] * len(train), dtype=lists),
            "test": pl.Series(test or [[]] * len(train), dtype=lists),
        }
    )


def checkerboard():
    """User u likes the items of u's parity, in a drawn order; item u itself is withheld."""
    rng = np.random.default_rng(0)
    train = [rng.permutation([i for i in range(u % 2, SIZE, 2) if i != u]).tolist() for u in range(SIZE)]
    return histories_table(train, validation=[[user] for user in range(SIZE)])


def share_of_first_ranks(scorer):
    sums = baselines.evaluate_baseline(scorer, checkerboard(), which="validation", k=1, num_replicates=0)
    assert sums.num_users == SIZE
    return summarize(sums, item_popularity=np.ones(SIZE))["hr@1"]["mean"]


def arrays(*lists):
    return [np.array(items, dtype=np.int32) for items in lists]


def test_item_knn_ranks_the_withheld_diagonal_of_a_checkerboard_first():
    assert share_of_first_ranks(baselines.fit_item_knn(checkerboard(), num_items=SIZE)) == 1.0


@pytest.mark.parametrize("seed", [0, 1])
def test_sasrec_ranks_the_withheld_diagonal_of_a_checkerboard_first(seed):
    """Trained until it knows the groups; much longer, and it learns by heart what each user never took."""
    scorer = baselines.fit_sasrec(
        checkerboard(),
        num_items=SIZE,
        width=16,
        layers=1,
        epochs=45,
        max_length=SIZE,
        batch_size=10,
        seed=seed,
    )
    assert share_of_first_ranks(scorer) == 1.0


def test_popularity_does_not_rank_the_withheld_diagonal_first():
    popularity = baselines.train_popularity(checkerboard(), num_items=SIZE)
    assert share_of_first_ranks(baselines.fit_popularity(popularity)) == 0.0


def test_popularity_counts_training_interactions_only_and_is_the_same_for_all():
    table = histories_table([[0, 1], [1], [1, 2, 2]], validation=[[3], [3], [3]], test=[[4], [4], [4]])
    popularity = baselines.train_popularity(table, num_items=5)
    assert popularity.tolist() == [1, 3, 2, 0, 0]
    scores = baselines.fit_popularity(popularity)(arrays([0], []))
    assert (scores.dtype, scores.tolist()) == (np.float32, [[1, 3, 2, 0, 0]] * 2)


def test_text_similarity_is_the_cosine_with_the_last_items_plus_log_popularity():
    embedding = np.array([[2, 0, 1], [1, 1, 1], [0, 2, 1], [3, 1, 1]], dtype=np.float32)
    scorer = baselines.fit_text_similarity(embedding, np.array([0.0, 7.0, -3.0, 1.0]))
    scores = scorer(arrays([2, 0], []))
    centered = embedding - np.array([1.5, 1.0, 1.0])
    units = [row / np.linalg.norm(row) for row in centered]
    profile = units[0] + 0.85 * units[2]
    prior = [0.25 * math.log1p(count) for count in (0, 7, 0, 1)]
    expected = [unit @ profile / np.linalg.norm(profile) + p for unit, p in zip(units, prior, strict=True)]
    assert scores.dtype == np.float32
    within = rounding.rounding(sums=4, length=4)  # mean, norms, profile, cosine
    rounding.assert_close(scores[0], expected, within=within)
    rounding.assert_close(scores[1], prior, within=within)


def test_text_similarity_forgets_what_lies_more_than_five_items_back():
    rng = np.random.default_rng(0)
    embedding = rng.standard_normal((9, 4)).astype(np.float32)
    scorer = baselines.fit_text_similarity(embedding, np.ones(9))
    scores = scorer(arrays([0, 1, 4, 5, 6, 7, 8], [2, 3, 4, 5, 6, 7, 8]))
    assert np.array_equal(scores[0], scores[1])


@given(st.data())
def test_item_knn_equals_the_slow_oracle(data):
    num_items = data.draw(st.integers(2, 7))
    items = st.integers(0, num_items - 1)
    train = data.draw(st.lists(st.lists(items, min_size=1, max_size=6), min_size=1, max_size=5))
    history = data.draw(st.lists(items, min_size=1, max_size=8))
    shrinkage, exponent = data.draw(st.sampled_from([(0.0, 1.0), (20.0, 0.5), (1.5, 0.0)]))
    scorer = baselines.fit_item_knn(
        histories_table(train), num_items=num_items, shrinkage=shrinkage, popularity_exponent=exponent
    )
    expected = oracles.item_knn_scores(
        train, history, num_items, recent=5, decay=0.6, shrinkage=shrinkage, exponent=exponent
    )
    scores = scorer(arrays(history))
    assert scores.dtype == np.float32
    rounding.assert_close(scores[0], expected, within=rounding.rounding(length=5))


def test_a_user_without_history_gets_popularity_from_item_knn_and_sasrec():
    table = histories_table([[0, 1, 1], [1, 2]])
    for scorer in (
        baselines.fit_item_knn(table, num_items=3),
        baselines.fit_sasrec(table, num_items=3, width=4, layers=1, epochs=1),
    ):
        assert scorer(arrays([], [0]))[0].tolist() == [1, 3, 1]


# One layer, 8 wide and 32 within: eight products, of which the softmax amplifies some.
SASREC = 4 * rounding.rounding(sums=8, length=32)


def tiny_sasrec(seed=0, epochs=2):
    return baselines.fit_sasrec(checkerboard(), num_items=SIZE, width=8, layers=1, epochs=epochs, max_length=6, seed=seed)


def test_sasrec_repeats_with_its_seed_and_leaves_the_global_random_state():
    state = torch.random.get_rng_state()
    histories = arrays([0, 2, 4], [1])
    first, second, other = (tiny_sasrec(seed)(histories) for seed in (1, 1, 2))
    assert np.array_equal(first, second)
    assert not np.array_equal(first, other)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_sasrec_scores_a_history_the_same_alone_and_beside_longer_ones():
    scorer = tiny_sasrec()
    together = scorer(arrays([0, 2], [1, 3, 5, 7, 9, 11], [4]))
    rounding.assert_close(scorer(arrays([0, 2])), together[:1], within=SASREC)
    rounding.assert_close(scorer(arrays([4])), together[2:], within=SASREC)


def test_sasrec_reads_the_order_and_only_the_last_items_of_a_history():
    scorer = tiny_sasrec()
    long, last, swapped = scorer(arrays([9, 8, 0, 1, 2, 3, 4, 5], [0, 1, 2, 3, 4, 5], [1, 0, 2, 3, 5, 4]))
    rounding.assert_close(long, last, within=SASREC)
    assert np.abs(last - swapped).max() > 1e-3


def test_sasrec_refuses_a_catalog_too_large_for_a_softmax_over_all_items():
    histories = pl.DataFrame({"train": [[0, 1]]}, schema={"train": pl.List(pl.Int32)})
    with pytest.raises(ConfigError, match=r"^Expected at most 100000 items for the baseline sasrec, got 100001\."):
        baselines.fit_sasrec(histories, num_items=100_001)


def test_sasrec_refuses_histories_without_a_next_item():
    expected = r"Expected a user with two training interactions, found 0\. Leave out the baseline sasrec\."
    with pytest.raises(DataError, match=expected):
        baselines.fit_sasrec(histories_table([[0], [1]]), num_items=2)


def test_every_name_is_fitted_and_gives_one_score_an_item():
    embedding = np.random.default_rng(0).standard_normal((SIZE, 4)).astype(np.float32)
    assert set(baselines.CHEAP) < set(baselines.ALL)
    for name in baselines.CHEAP:
        scores = baselines.fit_baseline(name, checkerboard(), item_embedding=embedding)(arrays([0], [1, 3]))
        assert (scores.shape, scores.dtype) == ((2, SIZE), np.float32), name
        assert np.isfinite(scores).all(), name


def test_an_unknown_name_is_refused_with_the_known_ones():
    expected = (
        r"Expected a known baseline, got name='knn'\. "
        r"Use one of popularity, text_similarity, item_knn, sasrec\."
    )
    with pytest.raises(ConfigError, match=expected):
        baselines.fit_baseline("knn", checkerboard(), item_embedding=np.zeros((SIZE, 2), np.float32))


def test_the_history_of_a_test_target_is_train_and_validation():
    table = histories_table([[0, 1], [2]], validation=[[3], [0]], test=[[4], []])
    asked = []

    def scorer(histories):
        asked.extend(history.tolist() for history in histories)
        return np.tile(np.arange(5, 0, -1, dtype=np.float32), (len(histories), 1))

    validation = baselines.evaluate_baseline(scorer, table, which="validation", k=2)
    assert (asked, validation.num_users) == ([[0, 1], [2]], 2)
    asked.clear()
    test = baselines.evaluate_baseline(scorer, table, which="test", k=2)
    assert (asked, test.num_users) == ([[0, 1, 3]], 1)
    # Seen are 0, 1 and 3, so item 2 is first and the target 4 second.
    assert test.item_counts.tolist() == [0, 0, 1, 0, 1]
    assert test.sums[test.names.index("mrr@2")] == 0.5


def test_evaluation_does_not_depend_on_the_batch_size():
    scorer = baselines.fit_item_knn(checkerboard(), num_items=SIZE)
    one, many = (
        baselines.evaluate_baseline(scorer, checkerboard(), which="validation", batch_size=size) for size in (SIZE, 5)
    )
    np.testing.assert_allclose(vector_of(one), vector_of(many), atol=1e-9)


def test_evaluation_without_any_target_is_refused():
    expected = r"Expected a user with a test target, found 0\. Use data with longer histories\."
    with pytest.raises(DataError, match=expected):
        baselines.evaluate_baseline(baselines.fit_popularity(np.ones(SIZE)), checkerboard(), which="test")
