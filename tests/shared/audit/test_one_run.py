"""Lower bounds from one run: against a linear program, against the published code, and on ideal Gaussian mechanisms."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import optimize

from shared.audit.one_run import (
    METHODS,
    Guessed,
    Method,
    canaries_needed,
    contradicts,
    distribution_free,
    expected_bound,
    f_dp,
    gaussian_mu,
    guess,
    largest_refutable,
    lower_bound,
    p_value,
    parametric,
    planned_guesses,
)
from shared.audit.tradeoff import CurveTradeoff, epsilon_of, mu_of, tradeoff_of
from shared.errors import ConfigError
from shared.privacy import accounting
from shared.privacy.events import Event

DELTA, CANARIES, LEVEL = 1e-5, 1000, 0.05
# Means that an audit of 1,000 canaries has to reach where epsilon is exactly 8.
LEAST_MEAN = {"distribution-free": 2.3, "f-dp": 3.8, "parametric": 6.5}


def _coins(rng: np.random.Generator, canaries: int = CANARIES) -> NDArray[np.bool_]:
    return rng.random(canaries) < 0.5


def _scores(rng: np.random.Generator, included: NDArray[np.bool_], mu: float) -> NDArray[np.float64]:
    """An ideal Gaussian mechanism: each canary has a direction of its own."""
    return rng.normal(size=len(included)) + mu * included


def _published_p_value(m: int, r: int, v: int, epsilon: float, delta: float) -> float:
    """Appendix D of Steinke et al., as it is printed, with sums of its own."""
    q = 1.0 / (1.0 + math.exp(-epsilon))
    pmf = [math.comb(r, i) * q**i * (1.0 - q) ** (r - i) for i in range(r + 1)]
    beta, alpha, total = sum(pmf[v:]), 0.0, 0.0
    for i in range(1, v + 1):
        total += pmf[v - i]
        alpha = max(alpha, total / i)
    return min(1.0, beta + alpha * delta * 2 * m)


@pytest.mark.parametrize(("m", "r", "v"), [(40, 40, 30), (100, 40, 25), (100, 60, 60), (30, 10, 1)])
def test_the_p_value_is_the_published_one(m: int, r: int, v: int) -> None:
    for epsilon in (0.0, 0.5, 2.0):
        for delta in (0.0, 1e-5, 1e-3):
            found = p_value(epsilon, delta, canaries=m, guesses=r, correct=v)
            assert found == pytest.approx(_published_p_value(m, r, v, epsilon, delta), rel=1e-9)
    assert p_value(1.0, 1e-5, canaries=m, guesses=r, correct=0) == 1.0


def _most_likely(curve: CurveTradeoff, *, m: int, r: int, c: int) -> float:
    """The largest probability of at least c right guesses that the constraints of theorem 3.2 leave, by linear programming.

    Variables are the probabilities of 0 to r right guesses.
    """
    numbers = np.arange(r + 1)
    rows, limits = [], []
    for least in range(1, r + 1):
        right = np.where(numbers >= least, numbers / m, 0.0)
        wrong = np.where(numbers >= least - 1, (r - numbers) / m, 0.0)
        for epsilon, delta in zip(curve.epsilons.tolist(), curve.deltas.tolist(), strict=True):
            rows += [right - math.exp(epsilon) * wrong, right - math.exp(-epsilon) * wrong]
            limits += [delta, 1.0 - math.exp(-epsilon) * (1.0 - delta)]
    found = optimize.linprog(
        -(numbers >= c).astype(float), A_ub=np.array(rows), b_ub=limits, A_eq=np.ones((1, r + 1)), b_eq=[1.0]
    )
    return -float(found.fun)


@pytest.mark.parametrize(("m", "r", "c"), [(8, 8, 7), (12, 8, 8), (12, 12, 9), (20, 6, 5)])
def test_what_contradicts_a_trade_off_function_is_what_a_linear_program_finds_impossible(m: int, r: int, c: int) -> None:
    epsilons = np.linspace(0.0, 5.0, 11)
    curve = CurveTradeoff(epsilons, np.array([accounting.delta([Event(1.0)], epsilon=value) for value in epsilons.tolist()]))
    most = _most_likely(curve, m=m, r=r, c=c)
    asked = {"canaries": m, "guesses": r, "correct": c}
    assert contradicts(curve, level=min(most * 1.002, 1.0), **asked)[0] or most > 0.998
    assert not contradicts(curve, level=most * 0.998, **asked)[0]


@pytest.mark.parametrize("method", METHODS)
def test_guarantee_the_bound_exceeds_the_truth_no_more_often_than_the_level_and_reaches_its_mean(method: Method) -> None:
    """Null: an ideal Gaussian mechanism of epsilon 8, 1,000 canaries, 200 repetitions; level 5 %.

    More than 19 of 200 would be too many: P[Bin(200, 0.05) > 19] = 0.2 %. Negative control: noise halved is found by the
    bound that knows the mechanism's form, in at least 190 of 200.
    """
    rng = np.random.default_rng(2)
    guesses = planned_guesses(method, 8.0, DELTA, canaries=CANARIES, level=LEVEL)
    found: dict[float, list[float]] = {1.0: [], 2.0: []}
    for scale, bounds in found.items():
        for _ in range(200):
            included = _coins(rng)
            guessed = guess(_scores(rng, included, scale * mu_of(8.0, DELTA)), included, guesses=guesses)
            bounds.append(lower_bound(method, DELTA, canaries=CANARIES, guessed=guessed, level=LEVEL))
    assert np.mean(found[1.0]) >= LEAST_MEAN[method]
    assert (np.array(found[1.0]) > 8.0).sum() <= 19
    if method == "f-dp":
        assert (np.array(found[2.0]) > 8.0).sum() >= 190
    expected = expected_bound(method, 8.0, DELTA, canaries=CANARIES, level=LEVEL, guesses=guesses)
    assert np.mean(found[1.0]) == pytest.approx(expected, abs=0.35)


def test_guarantee_at_a_small_epsilon_the_bounds_exceed_it_no_more_often_than_the_level() -> None:
    """Null: epsilon 0.5, where guesses are little better than coins; 300 repetitions, level 5 %; P[Bin > 27] = 0.1 %."""
    rng = np.random.default_rng(3)
    for method in METHODS:
        guesses = planned_guesses(method, 0.5, DELTA, canaries=200, level=LEVEL)
        bounds = []
        for _ in range(300):
            included = _coins(rng, 200)
            guessed = guess(_scores(rng, included, mu_of(0.5, DELTA)), included, guesses=guesses)
            bounds.append(lower_bound(method, DELTA, canaries=200, guessed=guessed, level=LEVEL))
        assert (np.array(bounds) > 0.5).sum() <= 27


def test_the_parametric_estimate_reaches_its_mean_and_seldom_exceeds_the_truth() -> None:
    """Null: as above; 200 repetitions, level 5 %. Negative control: noise halved is always above 8."""
    rng = np.random.default_rng(4)
    found, halved = [], []
    for _ in range(200):
        included = _coins(rng)
        noise = rng.normal(size=CANARIES)
        found.append(parametric(noise + mu_of(8.0, DELTA) * included, included, delta=DELTA, level=LEVEL).epsilon)
        halved.append(parametric(noise + 2 * mu_of(8.0, DELTA) * included, included, delta=DELTA, level=LEVEL).epsilon)
    assert np.mean(found) >= LEAST_MEAN["parametric"]
    assert (np.array(found) > 8.0).sum() <= 19
    assert (np.array(halved) > 8.0).all()


def test_the_parametric_bound_of_noiseless_scores_is_the_largest_and_of_useless_ones_0() -> None:
    included = np.arange(40) % 2 == 0
    assert parametric(included.astype(float), included, delta=DELTA, level=LEVEL).epsilon > 50.0
    assert parametric(1e4 * included + np.arange(40), included, delta=DELTA, level=LEVEL).epsilon > 50.0
    assert parametric(np.zeros(40), included, delta=DELTA, level=LEVEL).epsilon == 0.0
    assert parametric(-1.0 * included + np.arange(40) % 3, included, delta=DELTA, level=LEVEL).epsilon == 0.0
    assert parametric(np.zeros(40), np.zeros(40, dtype=bool), delta=DELTA, level=LEVEL).epsilon == 0.0


def test_no_audit_of_a_thousand_canaries_can_refute_6_without_assumptions_and_it_says_how_many_could() -> None:
    largest = largest_refutable("distribution-free", 0.0, canaries=CANARIES, guesses=CANARIES, level=LEVEL)
    assert largest == pytest.approx(5.81, abs=0.01)
    assert canaries_needed(8.0, level=LEVEL) == pytest.approx(8_930, abs=5)
    enough = canaries_needed(3.0, level=LEVEL)
    assert p_value(3.0, 0.0, canaries=enough, guesses=enough, correct=enough) < LEVEL
    fewer = enough - 2
    assert p_value(3.0, 0.0, canaries=fewer, guesses=fewer, correct=fewer) > LEVEL


def test_guesses_are_the_extremes_of_the_scores() -> None:
    scores = np.array([5.0, -3.0, 0.0, 4.0, -9.0, 1.0])
    included = np.array([True, False, False, False, False, True])
    assert guess(scores, included, guesses=4) == Guessed(4, 3)  # in: 0 right, 3 wrong; out: both right
    with pytest.raises(ConfigError, match="Expected guesses even and at most 6, got guesses=8"):
        guess(scores, included, guesses=8)
    with pytest.raises(ConfigError, match="got guesses=3"):
        guess(scores, included, guesses=3)


def test_nothing_is_refuted_by_guesses_that_are_no_better_than_coins() -> None:
    assert distribution_free(DELTA, canaries=100, guesses=60, correct=30, level=LEVEL) == 0.0
    assert gaussian_mu(canaries=100, guesses=60, correct=30, level=LEVEL) == 0.0
    assert f_dp(DELTA, canaries=100, guesses=60, correct=0, level=LEVEL) == 0.0


def test_a_bound_of_a_distance_and_the_events_trade_off_function_refute_the_same_noise() -> None:
    asked = {"canaries": 300, "guesses": 100, "correct": 92, "level": LEVEL}
    mu = gaussian_mu(**asked)
    assert contradicts(tradeoff_of([Event(1.02 / mu)]), **asked)[0]
    assert not contradicts(tradeoff_of([Event(0.98 / mu)]), **asked)[0]
    assert f_dp(DELTA, **asked) == pytest.approx(epsilon_of(mu, DELTA))


def test_sampled_releases_are_refuted_by_guesses_that_their_loss_distribution_does_not_allow() -> None:
    """Ten releases at noise 1, each with a tenth of the canaries: fewer right guesses are allowed than without sampling."""
    asked = {"canaries": 300, "guesses": 100, "correct": 92, "level": LEVEL}
    assert contradicts(tradeoff_of([Event(1.0, 0.1, 10)]), **asked)[0]
    assert not contradicts(tradeoff_of([Event(1.0, 1.0, 10)]), **asked)[0]


def test_the_number_of_guesses_depends_on_public_constants_alone_and_more_canaries_see_more() -> None:
    few = planned_guesses("f-dp", 4.0, DELTA, canaries=100, level=LEVEL)
    assert few == planned_guesses("f-dp", 4.0, DELTA, canaries=100, level=LEVEL) and few % 2 == 0 and 2 <= few <= 100
    sizes = (50, 200, 1000)
    guesses = [planned_guesses("f-dp", 4.0, DELTA, canaries=size, level=LEVEL) for size in sizes]
    bounds = [
        expected_bound("f-dp", 4.0, DELTA, canaries=size, level=LEVEL, guesses=each)
        for size, each in zip(sizes, guesses, strict=True)
    ]
    assert bounds == sorted(bounds) and bounds[-1] > bounds[0] + 0.3
