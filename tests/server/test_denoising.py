"""Post-processing of noised statistics: right without noise, silent under too much, and never worse than it says."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import minimize

from server import denoising
from server.denoising import blended, factor_directions, pair_factors, transition
from server.statistics.statistic import Total
from shared.privacy.releases import BLENDING_BOUND, HESSIAN_SCALE

ITEMS, HEAD, DIRECTIONS = 30, 24, 8
Floats = NDArray[np.float64]


def _world(seed: int = 0) -> tuple[Floats, Floats, NDArray[np.int64]]:
    """Popularity (I,), texts (I, D) of norm 1, and the head."""
    rng = np.random.default_rng(seed)
    texts = rng.normal(size=(ITEMS, DIRECTIONS))
    return 40.0 / np.arange(1, ITEMS + 1), texts / np.linalg.norm(texts, axis=1, keepdims=True), np.arange(HEAD)


def _planted(popularity: Floats) -> Floats:
    """Pairs of the head in which items of equal parity go together, (H, H)."""
    expected = np.outer(popularity[:HEAD], popularity[:HEAD]) / 20
    parity = np.arange(HEAD) % 2
    pairs = expected * np.where(parity[:, None] == parity, 1.5, 0.5)
    np.fill_diagonal(pairs, 0.0)
    return pairs


def _released(pairs: Floats) -> Floats:
    return pairs[np.triu_indices(HEAD, 1)]


def test_without_noise_the_denoised_pairs_are_the_exact_ones() -> None:
    popularity, texts, _ = _world()
    pairs = 100 * _planted(popularity)
    counts = popularity[:HEAD]
    expected = np.outer(counts, counts)
    np.fill_diagonal(expected, 0.0)
    exact = pairs - (pairs * expected).sum() / (expected**2).sum() * expected
    found, signal = denoising._posterior(pairs, 1e-9, counts, texts[:HEAD] @ texts[:HEAD].T)
    np.testing.assert_allclose(found, exact, atol=1e-3 * np.abs(exact).max())
    assert signal > 0.999
    noisy, less = denoising._posterior(pairs, float(exact.std() ** 2), counts, texts[:HEAD] @ texts[:HEAD].T)
    assert less < 0.99  # the negative control: with noise there is something to shrink
    assert np.abs(noisy - exact).max() > 0.1 * np.abs(exact).max()


def test_items_that_go_together_have_factors_that_do() -> None:
    popularity, texts, head = _world()
    found = pair_factors(_released(_planted(popularity)), noise_stddev=0.0, head=head, popularity=popularity, texts=texts)
    similarity = found.values[:HEAD] @ found.values[:HEAD].T
    np.fill_diagonal(similarity, 0.0)
    together = np.arange(HEAD)[:, None] % 2 == np.arange(HEAD) % 2
    assert similarity[together].mean() > similarity[~together].mean() + 0.01
    assert found.values.shape[0] == ITEMS and np.isfinite(found.values).all()
    assert np.abs(found.values[HEAD:]).max() > 0  # items outside the head follow from their texts


@pytest.mark.parametrize("seed", range(5))
def test_noise_alone_is_no_evidence(seed: int) -> None:
    """Null: what was released is noise. False alarms of the threshold, chi-square of 1 above 6, are below 2 % a release."""
    popularity, texts, head = _world()
    rng = np.random.default_rng(seed)
    size = HEAD * (HEAD - 1) // 2
    pairs = pair_factors(rng.normal(size=size) * 50, noise_stddev=50.0, head=head, popularity=popularity, texts=texts)
    mapped = transition(rng.normal(size=DIRECTIONS**2) * 50, noise_stddev=50.0, directions=texts, popularity=popularity)
    assert (pairs.signal, mapped.signal) == (0.0, 0.0)


def test_a_map_between_texts_is_found_through_the_noise() -> None:
    popularity, texts, _ = _world()
    share = popularity / popularity.sum()
    centered = texts - share @ texts
    covariance = (centered.T * share) @ centered
    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(DIRECTIONS, DIRECTIONS)))[0]
    cross = 2000 * covariance @ turn @ covariance
    noisy = cross + np.random.default_rng(2).normal(size=cross.shape) * 0.1
    found = transition(noisy.ravel(), noise_stddev=0.1, directions=texts, popularity=popularity)
    assert found.signal > 0.9

    def agreement(learned: Floats) -> float:
        return float((learned * turn).sum() / np.linalg.norm(learned) / np.linalg.norm(turn))

    assert agreement(found.values.astype(np.float64)) > 0.6
    other = transition(np.roll(noisy.ravel(), 5), noise_stddev=0.1, directions=texts, popularity=popularity)
    assert agreement(other.values.astype(np.float64)) < 0.4  # the negative control


def test_directions_of_factors_are_uncorrelated_equally_varied_and_as_long_as_those_of_texts() -> None:
    popularity, texts, _ = _world()
    rng, share = np.random.default_rng(6), popularity / popularity.sum()
    factors = rng.normal(size=(ITEMS, 5)) @ rng.normal(size=(5, 5)) + 3.0
    found = factor_directions(factors, dimensions=4, like=texts, popularity=popularity).astype(np.float64)
    assert np.abs(share @ found).max() < 1e-6
    covariance = (found.T * share) @ found
    np.testing.assert_allclose(covariance, covariance[0, 0] * np.eye(4), atol=1e-6)
    assert covariance.trace() == pytest.approx(share @ (texts**2).sum(axis=1), rel=1e-5)
    # They span the largest part of the factors: what the fifth adds is what the smallest eigenvalue says.
    centered = (factors - share @ factors) * np.sqrt(share)[:, None]
    left = centered - (own := np.linalg.qr(found * np.sqrt(share)[:, None])[0]) @ (own.T @ centered)
    assert (left**2).sum() == pytest.approx(np.linalg.eigvalsh(centered.T @ centered)[0], rel=1e-4)


def test_factors_that_say_nothing_or_have_fewer_directions_leave_zeros() -> None:
    popularity, texts, _ = _world()
    none = factor_directions(np.zeros((ITEMS, 3)), dimensions=4, like=texts, popularity=popularity)
    assert none.shape == (ITEMS, 4) and not none.any()
    assert not factor_directions(np.zeros((ITEMS, 0)), dimensions=4, like=texts, popularity=popularity).any()
    few = factor_directions(
        np.random.default_rng(0).normal(size=(ITEMS, 2)), dimensions=4, like=texts, popularity=popularity
    )
    assert few[:, :2].any(axis=0).all() and not few[:, 2:].any()


def _logistic(users: int, true: Floats) -> tuple[Floats, Floats]:
    """Scores (users, items, K) and the item that each user chose under the weights `true`."""
    rng = np.random.default_rng(3)
    scores = rng.normal(size=(users, 20, len(true)))
    gumbel = rng.gumbel(size=(users, 20))
    return scores, (scores @ true + gumbel).argmax(axis=1)


def _sums(scores: Floats, chosen: Floats, weights: Floats) -> Floats:
    """What clients contribute, unclipped: gradient and scaled Hessian over the bound."""
    logits = scores @ weights
    probability = np.exp(logits - logits.max(axis=1, keepdims=True))
    probability /= probability.sum(axis=1, keepdims=True)
    mean = np.einsum("uik,ui->uk", scores, probability)
    gradient = (scores[np.arange(len(scores)), chosen] - mean).sum(axis=0)
    hessian = np.einsum("uik,uil,ui->kl", scores, scores, probability) - mean.T @ mean
    return np.concatenate([gradient, HESSIAN_SCALE * hessian[np.triu_indices(len(weights))]]) / BLENDING_BOUND


def test_steps_without_noise_reach_the_most_likely_weights() -> None:
    true, users = np.array([0.4, 1.0, 0.7]), 2000
    scores, chosen = _logistic(users, true)

    def loss(weights: Floats) -> float:
        logits = scores @ weights
        return float((np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(users), chosen]).mean())

    best, weights = minimize(loss, true).x, np.zeros(3)
    wide = np.full(3, 100.0)
    for _ in range(6):
        total = _sums(scores, chosen, weights)
        weights = blended(
            total, noise_stddev=0.0, users=users, weights=weights, defaults=np.zeros(3), spread=wide, curvature=np.ones(3)
        ).weights
    np.testing.assert_allclose(weights, best, atol=1e-4)


def test_under_too_much_noise_the_weights_hardly_move() -> None:
    defaults, spread, users = np.array([0.5, 0.9, 0.3]), np.full(3, 0.4), 2000
    scores, chosen = _logistic(users, np.array([2.0, 0.0, 2.0]))
    total = _sums(scores, chosen, defaults)
    common = {"users": users, "weights": defaults, "defaults": defaults, "spread": spread, "curvature": np.full(3, 0.6)}
    rng = np.random.default_rng(4)
    steps = [blended(total + 1e6 * rng.normal(size=total.shape), noise_stddev=1e6, **common) for _ in range(50)]
    moved = np.array([step.weights for step in steps]) - defaults
    assert np.abs(moved).max() < spread.max() / 1000
    exact = blended(total, noise_stddev=0.0, **common).weights
    assert np.abs(exact - defaults).max() > 0.4  # the negative control


def test_a_score_that_does_not_count_changes_nothing_of_the_others() -> None:
    """Its row of the sum is noise; mixed with the others it would make them look flat, and a statistic worth nothing."""
    true, users, noise = np.array([0.4, 1.0, 0.7]), 2000, 20.0
    scores, chosen = _logistic(users, true)
    start, spread = np.full(3, 0.5), np.full(3, 0.4)
    rng, exact = np.random.default_rng(8), _sums(scores, chosen, start)
    noisy = exact + noise * rng.normal(size=exact.shape)
    alone = blended(
        noisy, noise_stddev=noise, users=users, weights=start, defaults=start, spread=spread, curvature=np.ones(3)
    )
    larger, place = noise * rng.normal(size=4 + 10), np.zeros((4, 4), dtype=np.int64)
    place[np.triu_indices(4)] = np.arange(10)
    larger[:3], larger[4 + place[:3, :3][np.triu_indices(3)]] = noisy[:3], noisy[3:]
    wider = {
        "weights": np.append(start, 0.0),
        "defaults": np.append(start, 0.0),
        "spread": np.append(spread, 0.0),
        "curvature": np.array([1.0, 1.0, 1.0, 0.02]),
    }
    beside = blended(larger, noise_stddev=noise, users=users, **wider)
    np.testing.assert_array_equal(beside.weights, [*alone.weights, 0.0])
    np.testing.assert_array_equal(beside.promise, [*alone.promise, 0.0])
    wider["spread"] = np.append(spread, 1e-3)  # the negative control: a weight that may move a little
    moving = blended(larger, noise_stddev=noise, users=users, **wider)
    assert not np.array_equal(moving.promise[:3], alone.promise)


def test_two_releases_of_one_statistic_are_averaged_by_their_precision() -> None:
    rng, exact = np.random.default_rng(5), np.zeros(200_000)
    pilot, more = (Total(exact + rng.normal(size=len(exact)) * stddev, stddev) for stddev in (2.0, 1.0))
    both = pilot.with_another(more)
    assert both.noise_stddev == pytest.approx((1 / 4 + 1) ** -0.5)
    # 200,000 values: the standard deviation is known to 0.6 % at 3.7 standard errors.
    assert both.values.std() == pytest.approx(both.noise_stddev, rel=0.006)
    assert ((pilot.values + more.values) / 2).std() > 1.1  # the negative control: a plain mean
    assert Total(exact, 0.0).with_another(more) == Total(exact, 0.0)
