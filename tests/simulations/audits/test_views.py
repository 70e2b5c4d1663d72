"""What a view reads off sums that are made here, without a federation."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from client.statistics.sparse import SparseRows
from shared.audit import one_run
from shared.audit.membership import area
from simulations.audits.views import Directions, View, independence, unusual

Floats = NDArray[np.float64]
CANARIES, SIZE = 60, 400


def _canaries(rng: np.random.Generator, size: int = SIZE) -> tuple[Floats, NDArray[np.bool_], NDArray[np.bool_]]:
    """Unit vectors, coins, and which have long histories."""
    vectors = rng.normal(size=(CANARIES, size))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors, rng.random(CANARIES) < 0.5, np.arange(CANARIES) % 10 == 9


def _view(rng: np.random.Generator, *, noise: float = 0.5, factor: float = 1.0, actual: float = 1.0, parts: int = 2) -> View:
    """One release of canaries in so many parts, counted `factor` times, under `actual` times the claimed noise."""
    vectors, included, long = _canaries(rng)
    homes = rng.permutation(CANARIES) % parts
    view = View("replies", included, long)
    members = [np.flatnonzero(homes == part) for part in range(parts)]
    sums = [factor * vectors[own][included[own]].sum(axis=0) for own in members]
    left = [own + rng.normal(size=SIZE, scale=noise * actual) for own in sums]
    view.add("pairs", 0, Directions(vectors), left, members, noise_stddev=noise)
    return view


def test_a_release_as_claimed_has_factor_1_unit_norms_and_the_claimed_noise_on_all_unused_directions() -> None:
    (read,) = _view(np.random.default_rng(0)).releases
    assert read.samples == 2 * (SIZE - 2)
    assert read.total / read.samples == pytest.approx(1.0, abs=0.15)
    assert read.short is not None and read.long is not None
    assert abs(read.short.factor - 1.0) < 4 * read.short.error and abs(read.long.factor - 1.0) < 4 * read.long.error
    assert read.short.norm == pytest.approx(1.0) and read.long.norm == pytest.approx(1.0)


def test_double_counting_shows_in_the_factor_and_less_noise_in_the_residue() -> None:
    (twice,) = _view(np.random.default_rng(1), factor=2.0).releases
    assert twice.short is not None and abs(twice.short.factor - 2.0) < 4 * twice.short.error
    assert twice.total / twice.samples == pytest.approx(1.0, abs=0.15)
    (quiet,) = _view(np.random.default_rng(1), actual=0.5).releases
    assert quiet.total / quiet.samples == pytest.approx(0.25, abs=0.05)


def test_standard_errors_of_factors_are_true() -> None:
    """200 releases: factors over their errors have variance 1 within 0.7 to 1.3 (chance 0.3 %)."""
    rng = np.random.default_rng(2)
    z = []
    for _ in range(200):
        (read,) = _view(rng).releases
        assert read.short is not None
        z.append((read.short.factor - 1.0) / read.short.error)
    assert 0.7 < np.var(z) < 1.3 and abs(np.mean(z)) < 0.25


def test_scores_of_orthogonal_canaries_are_likelihood_ratios() -> None:
    included = np.array([True, False, True])
    view = View("sums", included, np.zeros(3, dtype=bool))
    left = np.array([0.9, 0.1, 0.7, -0.2])
    view.add("popularity", 0, Directions(np.eye(3, 4)), [left], [np.arange(3)], noise_stddev=0.5)
    view.add("popularity", 1, Directions(np.eye(3, 4)), [left], [np.arange(3)], noise_stddev=1.0)
    # log N(x; 1, s) / N(x; 0, s) = (x - 1/2) / s^2, added up over releases
    assert view.scores() == pytest.approx([(x - 0.5) * (4.0 + 1.0) for x in left[:3]])


def test_scores_are_those_of_the_inverse_of_the_whole_matrix() -> None:
    view = _view(np.random.default_rng(9), noise=0.8)
    inverse = np.linalg.inv(view.gram + 4.0 * np.eye(CANARIES))
    guesses = inverse @ (view.linear - view.gram.sum(axis=1) / 2.0)
    expected = 4.0 * guesses / (1.0 - np.diagonal(inverse @ view.gram))
    np.testing.assert_allclose(view.scores(), expected, rtol=1e-9)
    view.gram *= 1e30  # of a release almost without noise
    assert np.isfinite(view.scores()).all()


def test_scores_of_canaries_that_overlap_are_better_than_inner_products_and_no_score_knows_a_coin() -> None:
    rng = np.random.default_rng(3)
    base = rng.normal(size=80)
    vectors = rng.normal(size=(CANARIES, 80)) + 2.0 * base
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    areas: dict[str, list[float]] = {"scores": [], "products": []}
    for _ in range(20):
        included = rng.random(CANARIES) < 0.5
        left = vectors[included].sum(axis=0) + rng.normal(size=80, scale=0.3)
        views = [View("sums", coins, np.zeros(CANARIES, dtype=bool)) for coins in (included, ~included)]
        for view in views:
            view.add("pairs", 0, Directions(vectors), [left], [np.arange(CANARIES)], noise_stddev=0.3)
        assert views[0].scores() == pytest.approx(views[1].scores())
        areas["scores"].append(area(views[0].scores()[included], views[0].scores()[~included]).value)
        products = vectors @ left
        areas["products"].append(area(products[included], products[~included]).value)
    assert np.mean(areas["scores"]) > np.mean(areas["products"]) + 0.05


def test_sparse_vectors_are_read_as_dense_ones() -> None:
    rng = np.random.default_rng(4)
    dense = np.where(rng.random((CANARIES, SIZE)) < 0.05, rng.normal(size=(CANARIES, SIZE)), 0.0)
    rows, places = np.nonzero(dense)
    starts = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=CANARIES))])
    included, left = rng.random(CANARIES) < 0.5, rng.normal(size=SIZE)
    found = []
    for vectors in (dense, SparseRows(SIZE, starts, places, dense[rows, places])):
        view = View("sums", included, np.arange(CANARIES) % 10 == 9)
        view.add("pairs", 0, Directions(vectors), [left], [np.arange(CANARIES)], noise_stddev=2.0)
        found.append((view.gram, view.linear, view.releases[0].total, view.releases[0].short))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-5, abs=1e-6) and found[0][1] == pytest.approx(found[1][1])
    assert found[0][2] == pytest.approx(found[1][2])
    assert vars(found[0][3]) == pytest.approx(vars(found[1][3]))


def test_a_release_without_noise_tells_every_coin() -> None:
    rng = np.random.default_rng(5)
    vectors, included, long = _canaries(rng)
    view = View("sums", included, long)
    view.add("pairs", 0, Directions(vectors), [vectors[included].sum(axis=0)], [np.arange(CANARIES)], noise_stddev=0.0)
    guessed = one_run.guess(view.scores(), included, guesses=40)
    assert guessed.correct == 40 and np.isfinite(view.scores()).all()


def test_a_release_in_which_no_canary_shows_has_no_class_and_still_shows_its_noise() -> None:
    view = View("sums", np.zeros(3, dtype=bool), np.zeros(3, dtype=bool))
    view.add(
        "pairs", 0, Directions(np.eye(3, 50)), [np.random.default_rng(6).normal(size=50)], [np.arange(3)], noise_stddev=1.0
    )
    assert view.releases[0].short is None and view.releases[0].samples == 50


def test_independent_noises_are_standard_normal_together_and_one_that_is_used_twice_is_far_out() -> None:
    """Null: 300 sets of three noises; variance within 0.7 to 1.4. Negative control: one pair of three shared."""
    rng = np.random.default_rng(7)

    def of(noises: Floats) -> float:
        return independence([(noises[0], noises[1]), (noises[0], noises[2]), (noises[1], noises[2])])[1]

    z = [of(rng.normal(size=(3, 100))) for _ in range(300)]
    assert 0.7 < np.var(z) < 1.4 and abs(np.mean(z)) < 0.25
    for _ in range(20):
        noises = rng.normal(size=(3, 100))
        noises[2] = noises[0]
        assert of(noises) > 2.5
    assert independence([(np.zeros(4), np.zeros(4))]) == (4, 0.0)


def test_a_pair_that_was_planted_is_unusual_and_popular_items_are_not() -> None:
    rng = np.random.default_rng(8)
    scores = rng.normal(size=(1, 30)) * 5.0 + rng.normal(size=(12, 1)) * 3.0
    scores[4, 7] += 1.0
    found = unusual(scores)
    assert np.unravel_index(found.argmax(), found.shape) == (4, 7) and found[4, 7] > 0.8
    assert abs(np.delete(found, 7, axis=1)).max() < 0.1
    assert unusual(np.full((2, 3), np.nan)).tolist() == [[0.0] * 3] * 2
