"""Epsilon against formulas, numerical integration and other accountants that share no code with it; calibration of noise."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import optimize, special, stats

from shared.errors import ConfigError, PrivacyError, UnsupportedMechanism
from shared.privacy import loss_distribution
from shared.privacy.accounting import (
    calibrate,
    delta,
    delta_curve,
    epsilon,
    group_epsilon,
    merged,
    rdp_epsilon,
)
from shared.privacy.events import Event, Relation

# Largest distance above the exact value that is promised.
_CLOSE = 0.02


def _skellam(multiplier: float, rate: float = 1.0, steps: int = 1, *, l2_sensitivity: float = 1e6) -> Event:
    return Event(multiplier, rate, steps, "skellam", l2_sensitivity=l2_sensitivity)


def _capped(multiplier: float, rate: float, steps: int, *, population: int, cap: int) -> Event:
    return Event(multiplier, rate, steps, sampling="truncated-poisson", population=population, sample_cap=cap)


def _fixed_size(multiplier: float, *, population: int, size: int, steps: int) -> Event:
    return Event(multiplier, size / population, steps, sampling="fixed-size", population=population, sample_cap=size)


# Oracles.


def _gaussian_delta(multiplier: float, eps: float) -> float:
    """Balle and Wang 2018, "Improving the Gaussian mechanism ...", Theorem 8."""
    a, b = 1 / (2 * multiplier), eps * multiplier
    return float(stats.norm.cdf(a - b) - math.exp(eps + stats.norm.logcdf(-a - b)))


def _gaussian_epsilon(multiplier: float, at: float) -> float:
    def excess(eps: float) -> float:
        return _gaussian_delta(multiplier, eps) - at

    return 0.0 if excess(0.0) <= 0 else float(optimize.brentq(excess, 0.0, 5000.0))


def _hockey_stick(first: NDArray[np.float64], second: NDArray[np.float64], eps: float, step: float) -> float:
    """The larger delta of two densities on a grid, either way round."""
    return max(
        float(np.maximum(first - math.exp(eps) * second, 0).sum() * step),
        float(np.maximum(second - math.exp(eps) * first, 0).sum() * step),
    )


def _mixture_delta(multiplier: float, eps: float, first: dict[float, float], second: dict[float, float]) -> float:
    """Delta between two mixtures of normal laws, given as weights by mean."""
    reach = 14 * multiplier + max(map(abs, (*first, *second)))
    x, step = np.linspace(-reach, reach, 400_001, retstep=True)

    def density(weights: dict[float, float]) -> NDArray[np.float64]:
        return np.sum([weight * stats.norm.pdf(x, mean, multiplier) for mean, weight in weights.items()], axis=0)

    return _hockey_stick(density(first), density(second), eps, float(step))


def _assert_solves(bound: float, delta_of: Callable[[float], float], target: float, *, slack: float = 0.03) -> None:
    """The bound's own delta is below the target, and a slightly smaller epsilon would exceed it."""
    assert delta_of(bound) <= target * (1 + 1e-6)
    assert delta_of(bound - slack) > target


def _fine_epsilon(multiplier: float, rate: float, steps: int, at: float, relation: Relation) -> float:
    import dp_accounting
    from dp_accounting.pld import PLDAccountant

    neighbors = dp_accounting.NeighboringRelation
    grid = 1e-4 if multiplier >= 0.6 else 1e-3  # little noise: large losses, to which a wider grid is as fine
    accountant = PLDAccountant(
        neighbors.REPLACE_ONE if relation == "replace-one" else neighbors.ADD_OR_REMOVE_ONE, grid
    )  # fmt: skip
    gaussian = dp_accounting.GaussianDpEvent(multiplier)
    accountant.compose(gaussian if rate == 1.0 else dp_accounting.PoissonSampledDpEvent(rate, gaussian), steps)
    return float(accountant.get_epsilon(at))


def _skellam_log_pmf(values: NDArray[np.int64], variance: float) -> NDArray[np.float64]:
    """Of the difference of two Poisson variables of half the variance each."""
    with np.errstate(divide="ignore"):
        return np.asarray(np.log(special.ive(np.abs(values), variance)))


def _log_moment(first: NDArray[np.float64], second: NDArray[np.float64], order: int) -> float:
    """log E_second[(first / second)^order] of two log densities on the same points."""
    seen = np.isfinite(first) & np.isfinite(second)
    return float(special.logsumexp(order * first[seen] + (1 - order) * second[seen]))


# One Gaussian release, and unsampled ones.


@pytest.mark.parametrize("at", [1e-3, 1e-5, 1e-8])
@pytest.mark.parametrize("multiplier", [0.05, 0.5, 1.0, 3.0, 20.0])
def test_epsilon_of_the_gaussian_is_never_below_the_exact_value_and_at_most_two_hundredths_above(
    multiplier: float, at: float
) -> None:
    exact = _gaussian_epsilon(multiplier, at)
    assert exact <= epsilon([Event(multiplier)], delta=at) <= exact + _CLOSE


@pytest.mark.parametrize("multiplier", [0.026, 0.002])
def test_epsilon_of_almost_no_noise_is_large_finite_and_close(multiplier: float) -> None:
    """0.026 is what an active server meets: one client's share of the noise (multiplier 5, 60 rounds, 600 shares)."""
    exact = _gaussian_epsilon(multiplier, 1e-5) if multiplier > 0.01 else 1 / (2 * multiplier**2) + 4.26 / multiplier
    found = epsilon([Event(multiplier)], delta=1e-5)
    assert exact * (1 - 1e-3) <= found <= exact * (1 + 1e-3)
    assert found >= 1 / (2 * multiplier**2)


def test_epsilon_too_large_to_represent_is_infinite_and_delta_one() -> None:
    for event in (Event(1e-5), Event(1e-300), Event(1e-9, 0.5, 10), _skellam(1e-200)):
        assert epsilon([event], delta=1e-5) == math.inf
        assert delta([event], epsilon=1.0) == 1.0


@pytest.mark.parametrize("event", [Event(1e200), Event(1e12, 0.5, 1000), _skellam(1e200), Event(1e7, 0.5)])
def test_epsilon_of_boundless_noise_is_zero(event: Event) -> None:
    assert epsilon([event], delta=1e-5) == 0.0
    assert rdp_epsilon([event], delta=1e-5) == 0.0


def test_epsilon_of_a_unit_that_is_hardly_ever_drawn_is_zero() -> None:
    assert epsilon([Event(0.3, 1e-9, 100)], delta=1e-6) == 0.0
    assert epsilon([Event(0.3, 1e-9, 10_000)], delta=1e-6) > 0.0


def test_releases_to_which_everybody_contributes_compose_as_one() -> None:
    events = [Event(3.0, 1.0, 5), Event(4.0, 1.0, 2), Event(3.0, 1.0, 1)]
    exact = _gaussian_epsilon((6 / 9 + 2 / 16) ** -0.5, 1e-5)
    assert exact <= epsilon(events, delta=1e-5) <= exact + _CLOSE


def test_replacing_one_unit_costs_as_much_as_half_the_noise_when_all_contribute() -> None:
    exact = _gaussian_epsilon(1.5, 1e-5)
    assert exact <= epsilon([Event(3.0)], delta=1e-5, relation="replace-one") <= exact + _CLOSE
    assert rdp_epsilon([Event(3.0)], delta=1e-5, relation="replace-one") == rdp_epsilon([Event(1.5)], delta=1e-5)


# Poisson sampling.


@pytest.mark.parametrize(("multiplier", "rate"), [(1.0, 0.1), (0.6, 0.5), (2.0, 0.9), (0.5, 0.002)])
def test_epsilon_of_one_sampled_release_agrees_with_numerical_integration(multiplier: float, rate: float) -> None:
    bound = epsilon([Event(multiplier, rate)], delta=1e-4)
    _assert_solves(bound, lambda eps: _mixture_delta(multiplier, eps, {0: 1 - rate, 1: rate}, {0: 1.0}), 1e-4)


@pytest.mark.parametrize(("multiplier", "rate"), [(1.0, 0.1), (0.6, 0.5), (2.0, 0.9)])
def test_epsilon_of_one_replaced_and_sampled_unit_agrees_with_numerical_integration(multiplier: float, rate: float) -> None:
    bound = epsilon([Event(multiplier, rate)], delta=1e-4, relation="replace-one")
    _assert_solves(bound, lambda eps: _mixture_delta(multiplier, eps, {0: 1 - rate, 1: rate}, {0: 1 - rate, -1: rate}), 1e-4)


@pytest.mark.parametrize("relation", ["add-or-remove-one", "replace-one"])
@pytest.mark.parametrize(
    ("multiplier", "rate", "steps"),
    [
        (1.0, 0.25, 60),
        (0.8, 0.02, 100),
        (2.5, 1.0, 40),
        # A single width of the grid fails on these: 0.004 is off by 0.22, 0.05, 0.04 and 0.20.
        (1.0, 0.001, 10_000),
        (0.6, 0.001, 10_000),
        (5.0, 0.1, 10_000),
        (20.0, 0.05, 10_000),
        (0.3, 0.1, 10),
        (100.0, 0.5, 10_000),
    ],
)
def test_the_bound_is_within_two_hundredths_of_one_on_a_fine_grid(
    multiplier: float, rate: float, steps: int, relation: Relation
) -> None:
    fine = _fine_epsilon(multiplier, rate, steps, 1e-5, relation)
    assert fine - 1e-5 * max(1.0, fine) <= epsilon([Event(multiplier, rate, steps)], delta=1e-5, relation=relation)
    assert epsilon([Event(multiplier, rate, steps)], delta=1e-5, relation=relation) <= fine + _CLOSE


def test_known_values_of_the_field_are_met() -> None:
    """Rate .01, multiplier 1, 1,000 steps, delta 1e-5: add-or-remove 1.83, replace-one 2.84-2.86, zero-out as the first."""
    events = [Event(1.0, 0.01, 1000)]
    assert epsilon(events, delta=1e-5) == pytest.approx(1.83, abs=0.01)
    assert 2.84 <= epsilon(events, delta=1e-5, relation="replace-one") <= 2.86
    assert epsilon(events, delta=1e-5, relation="zero-out") == epsilon(events, delta=1e-5)


@pytest.mark.parametrize(
    ("multiplier", "steps", "at"),
    [pytest.param(1000.0, 1_000_000, 6.0, marks=pytest.mark.soak), (100.0, 10_000, 7.2), (30.0, 10_000, 24.0)],
)
def test_rounding_in_many_convolutions_never_makes_delta_too_small(multiplier: float, steps: int, at: float) -> None:
    """A rate of almost 1 is composed by Fourier transforms, and costs what the formula for unsampled releases says.

    In the first case the transforms alone return 0.9988 of the exact 2.8e-9.
    """
    exact = _gaussian_delta(multiplier / math.sqrt(steps), at)
    assert delta([Event(multiplier, 1 - 1e-12, steps)], epsilon=at) >= exact > 0


def test_a_delta_that_rounding_swamps_has_no_finite_epsilon() -> None:
    assert epsilon([Event(1.0, 0.01, 10_000)], delta=1e-12) == math.inf
    assert epsilon([Event(1.0, 0.01, 10_000)], delta=1e-9) < 20.0


# Capped samples.


def test_a_capped_sample_costs_what_its_cap_displaces() -> None:
    """Rate .001, 10,000 steps, multiplier .7, 100,000 clients, delta 1e-6: mean + 4 sd costs 5.58 against 1.64."""
    plain = epsilon([Event(0.7, 0.001, 10_000)], delta=1e-6)
    assert plain == pytest.approx(1.64, abs=0.02)
    costs = [
        epsilon([_capped(0.7, 0.001, 10_000, population=100_000, cap=int(100 + sds * math.sqrt(99.9)))], delta=1e-6)
        for sds in (4, 5, 6, 9)
    ]
    assert costs[0] == pytest.approx(5.58, abs=0.05)
    assert costs[0] > costs[1] + 1 > costs[2] + 1
    assert costs[2:] == pytest.approx([plain, plain], abs=0.01)


def test_a_cap_that_no_sample_reaches_costs_nothing() -> None:
    capped = [_capped(1.0, 0.1, 10, population=50, cap=50)]
    assert epsilon(capped, delta=1e-5) == epsilon([Event(1.0, 0.1, 10)], delta=1e-5)
    assert rdp_epsilon(capped, delta=1e-5) == rdp_epsilon([Event(1.0, 0.1, 10)], delta=1e-5)


def _capped_delta(multiplier: float, rate: float, eps: float, *, population: int, cap: int, relation: Relation) -> float:
    """Delta of two data sets, exactly, over all samples: one unit contributes 1, and in the other data set it is absent,
    contributes 0 or contributes -1. All others contribute -1, so that displacing one of them changes the sum by two.
    """

    def sums(unit: float | None) -> dict[float, float]:
        weights: dict[float, float] = {}
        for others in range(population):
            probability = float(stats.binom.pmf(others, population - 1, rate))
            taken = 0.0 if unit is None else rate * min(1.0, cap / (others + 1))
            for total, weight in (
                (-float(min(others, cap)), 1 - taken),
                ((unit or 0.0) - min(others, cap - 1), taken),
            ):
                weights[total] = weights.get(total, 0.0) + probability * weight
        return weights

    changed = {"add-or-remove-one": None, "zero-out": 0.0, "replace-one": -1.0}[relation]
    return _mixture_delta(multiplier, eps, sums(1.0), sums(changed))


@pytest.mark.parametrize("relation", ["add-or-remove-one", "zero-out", "replace-one"])
@pytest.mark.parametrize(("population", "rate", "cap"), [(6, 0.5, 2), (20, 0.3, 4), (5, 1.0, 2), (40, 0.9, 30)])
def test_epsilon_of_a_capped_sample_is_never_below_an_explicit_pair_of_data_sets(
    population: int, rate: float, cap: int, relation: Relation
) -> None:
    def exact(eps: float) -> float:
        return _capped_delta(0.8, rate, eps, population=population, cap=cap, relation=relation)

    bound = epsilon([_capped(0.8, rate, 1, population=population, cap=cap)], delta=1e-4, relation=relation)
    assert exact(bound) <= 1e-4


def test_a_capped_sample_accounted_as_plain_sampling_would_be_below_an_explicit_pair_of_data_sets() -> None:
    """The negative control of the test above."""
    plain = epsilon([Event(0.8, 0.9)], delta=1e-4)
    assert _capped_delta(0.8, 0.9, plain, population=40, cap=30, relation="add-or-remove-one") > 1e-4


# What is refused.


@pytest.mark.parametrize("relation", ["add-or-remove-one", "zero-out", "replace-one"])
@pytest.mark.parametrize("mechanism", ["gaussian", "skellam"])
@pytest.mark.parametrize("bound", [epsilon, rdp_epsilon, group_epsilon], ids=lambda bound: bound.__name__)
def test_a_sample_of_fixed_size_is_refused_under_every_relation(
    bound: Callable[..., float], mechanism: Any, relation: Relation
) -> None:
    event = replace(_fixed_size(1.0, population=10_000, size=100, steps=1000), mechanism=mechanism, l2_sensitivity=1e4)
    with pytest.raises(
        UnsupportedMechanism, match=r"got sampling='fixed-size'\. No bound on samples of fixed size is known"
    ):
        bound([Event(3.0), event], delta=1e-5, relation=relation)


def test_what_the_common_library_says_about_fixed_size_is_below_an_explicit_pair_of_data_sets() -> None:
    """Why it is refused: 100 of 10,000, where all others contribute -1 and one unit 1 or -1.

    The sum is then -100, and -98 if that unit is 1 and drawn: a sampled release of sensitivity 2.
    """
    import dp_accounting
    from dp_accounting.rdp import RdpAccountant

    accountant = RdpAccountant(neighboring_relation=dp_accounting.NeighboringRelation.REPLACE_ONE)
    gaussian = dp_accounting.GaussianDpEvent(1.0)
    accountant.compose(dp_accounting.SampledWithoutReplacementDpEvent(10_000, 100, gaussian), 1000)
    assert accountant.get_epsilon(1e-5) == pytest.approx(3.58, abs=0.01)
    pair = epsilon([Event(0.5, 0.01, 1000)], delta=1e-5)
    assert 13.31 <= pair == pytest.approx(13.36, abs=0.02)


@pytest.mark.parametrize("event", [Event(1.0, 0.1, 5), _skellam(1.0, 0.1, 5), _capped(1.0, 0.1, 5, population=90, cap=12)])
def test_the_renyi_bound_refuses_what_it_has_no_proof_for(event: Event) -> None:
    with pytest.raises(UnsupportedMechanism, match=r"got mechanism='\w+': no Renyi bound is known for sampl"):
        rdp_epsilon([event], delta=1e-5, relation="replace-one")


def test_skellam_noise_beside_a_capped_sample_is_refused() -> None:
    events = [_skellam(3.0), _capped(1.0, 0.1, 5, population=90, cap=12)]
    with pytest.raises(UnsupportedMechanism, match="no Renyi bound is known for sampling='truncated-poisson'"):
        epsilon(events, delta=1e-5)


@pytest.mark.parametrize(
    ("event", "message"),
    [
        (Event(0.0), "Expected noise_multiplier > 0 and finite, got noise_multiplier=0.0"),
        (Event(-1.0), "Expected noise_multiplier > 0"),
        (Event(math.nan), "Expected noise_multiplier > 0 and finite, got noise_multiplier=nan"),
        (Event(math.inf), "Expected noise_multiplier > 0 and finite"),
        (Event(1.0, 0.0), r"Expected sampling_rate in \(0, 1\], got sampling_rate=0.0"),
        (Event(1.0, 1.01), r"Expected sampling_rate in \(0, 1\]"),
        (Event(1.0, math.nan), r"Expected sampling_rate in \(0, 1\]"),
        (Event(1.0, 0.5, 0), "Expected whole steps >= 1, got steps=0"),
        (Event(1.0, 0.5, 1.5), "Expected whole steps >= 1"),  # type: ignore[arg-type]
        (_skellam(1.0, l2_sensitivity=0.0), "Expected l2_sensitivity >= 1 and finite for Skellam noise, got l2_sens"),
        (_skellam(1.0, l2_sensitivity=math.inf), "Expected l2_sensitivity >= 1"),
        (_capped(1.0, 0.1, 1, population=0, cap=3), "Expected population >= 1 for a capped sample, got population=0"),
        (_capped(1.0, 0.1, 1, population=3, cap=0), "Expected sample_cap >= 1 for a capped sample, got sample_cap=0"),
    ],
)
def test_a_malformed_event_is_refused_everywhere(event: Event, message: str) -> None:
    for call in (
        lambda: epsilon([event], delta=1e-5),
        lambda: rdp_epsilon([Event(1.0), event], delta=1e-5),
        lambda: delta([event], epsilon=1.0),
        lambda: delta_curve([event], deltas=[1e-5]),
        lambda: group_epsilon([event], delta=1e-5),
        lambda: merged([event]),
        lambda: calibrate(lambda _: [event], target_epsilon=1.0, delta=1e-5),
    ):
        with pytest.raises(PrivacyError, match=message):
            call()


@pytest.mark.parametrize("field", ["mechanism", "sampling"])
def test_an_unknown_kind_of_event_is_refused(field: str) -> None:
    with pytest.raises(UnsupportedMechanism, match=f"Expected {field} .*, got {field}='laplace'"):
        epsilon([replace(Event(1.0), **{field: "laplace"})], delta=1e-5)  # type: ignore[arg-type]


def test_an_unknown_relation_is_refused() -> None:
    with pytest.raises(UnsupportedMechanism, match=r"Expected relation one of .*, got relation='add'"):
        epsilon([Event(1.0)], delta=1e-5, relation="add")  # type: ignore[arg-type]


@pytest.mark.parametrize("at", [0.0, 1.0, -1e-5, 2.0, math.nan])
def test_delta_outside_zero_and_one_is_refused(at: float) -> None:
    for call in (
        lambda: epsilon([], delta=at),
        lambda: rdp_epsilon([Event(1.0)], delta=at),
        lambda: group_epsilon([Event(1.0)], delta=at),
        lambda: delta_curve([Event(1.0)], deltas=[1e-5, at]),
        lambda: calibrate(lambda multiplier: [Event(multiplier)], target_epsilon=1.0, delta=at),
    ):
        with pytest.raises(ConfigError, match=r"Expected delta in \(0, 1\), got delta="):
            call()


@pytest.mark.parametrize("eps", [-1.0, math.inf, math.nan])
def test_an_epsilon_that_is_none_is_refused(eps: float) -> None:
    with pytest.raises(ConfigError, match="Expected epsilon >= 0 and finite, got epsilon="):
        delta([Event(1.0)], epsilon=eps)


# The other accountants.


@pytest.mark.parametrize(
    ("multiplier", "rate", "steps"), [(1.0, 0.01, 1000), (1.0, 0.12, 240), (0.8, 0.02, 100), (2.0, 0.3, 50)]
)
def test_opacus_prv_accountant_agrees_within_two_hundredths(multiplier: float, rate: float, steps: int) -> None:
    from opacus.accountants import PRVAccountant

    accountant = PRVAccountant()
    accountant.history = [(multiplier, rate, steps)]
    quoted = epsilon([Event(multiplier, rate, steps)], delta=1e-5)
    assert abs(accountant.get_epsilon(1e-5, eps_error=0.01) - quoted) <= _CLOSE


@pytest.mark.parametrize(
    ("multiplier", "rate", "steps"),
    [(1.0, 0.25, 60), (5.0, 1.0, 1), (0.7, 0.01, 500), (1.0, 0.01, 1000), (10.0, 1.0, 100), (1.0, 0.12, 240)],
)
def test_the_renyi_cross_check_is_8_to_51_percent_looser(multiplier: float, rate: float, steps: int) -> None:
    events = [Event(multiplier, rate, steps)]
    assert 1.08 <= rdp_epsilon(events, delta=1e-5) / epsilon(events, delta=1e-5) <= 1.51


@pytest.mark.parametrize(("multiplier", "rate", "steps"), [(1.0, 0.25, 60), (5.0, 1.0, 1), (0.7, 0.01, 500)])
def test_the_renyi_bound_equals_the_one_of_dp_accounting_at_whole_orders(multiplier: float, rate: float, steps: int) -> None:
    import dp_accounting
    from dp_accounting.rdp import RdpAccountant

    accountant = RdpAccountant(orders=[*range(2, 64)])
    gaussian = dp_accounting.GaussianDpEvent(multiplier)
    accountant.compose(gaussian if rate == 1.0 else dp_accounting.PoissonSampledDpEvent(rate, gaussian), steps)
    assert rdp_epsilon([Event(multiplier, rate, steps)], delta=1e-5) == pytest.approx(accountant.get_epsilon(1e-5), rel=1e-9)


# Skellam noise.


def test_fine_skellam_noise_costs_what_gaussian_noise_does_and_coarse_noise_what_its_renyi_bound_says() -> None:
    """Multiplier 10, 100 releases, delta 1e-5: a Gaussian loss distribution 4.38, Renyi 4.75 (whole orders)."""
    gaussian = epsilon([Event(10.0, 1.0, 100)], delta=1e-5)
    assert gaussian == pytest.approx(4.38, abs=0.01)
    assert gaussian < epsilon([_skellam(10.0, 1.0, 100)], delta=1e-5) < gaussian + 0.001
    coarse = [_skellam(10.0, 1.0, 100, l2_sensitivity=999.0)]
    assert epsilon(coarse, delta=1e-5) == rdp_epsilon(coarse, delta=1e-5) == pytest.approx(4.75, abs=0.01)
    mixed = [Event(3.0, 0.1, 20), Event(4.0), _skellam(10.0, 0.5, 5)]
    milder = epsilon([replace(event, mechanism="gaussian") for event in mixed], delta=1e-5)
    assert milder < epsilon(mixed, delta=1e-5) < milder + _CLOSE < rdp_epsilon(mixed, delta=1e-5)


def test_skellam_noise_of_a_large_scale_costs_what_gaussian_noise_does_and_of_a_small_scale_more() -> None:
    for rate in (1.0, 0.2):
        gaussian = epsilon([Event(1.0, rate, 10)], delta=1e-5)
        costs = [epsilon([_skellam(1.0, rate, 10, l2_sensitivity=scale)], delta=1e-5) for scale in (1e6, 30.0, 3.0)]
        assert costs[0] == pytest.approx(gaussian, rel=2e-3)
        assert costs[0] < costs[1] < costs[2]


@pytest.mark.parametrize("units", [1, 2])
@pytest.mark.parametrize(("multiplier", "l2_sensitivity"), [(0.5, 1.0), (1.0, 4.0), (2.0, 9.0), (0.7, 2.5), (6.0, 3.0)])
def test_epsilon_of_skellam_noise_is_what_the_published_bound_says(
    multiplier: float, l2_sensitivity: float, units: int
) -> None:
    """Agarwal, Kairouz and Liu 2021, written in their terms: variance, L2 and L1 sensitivity (of integers: its square)."""
    variance = (multiplier * l2_sensitivity) ** 2
    l2, l1 = units * l2_sensitivity, units * l2_sensitivity**2
    candidates = []
    for order in range(2, 64):
        divergence = order * l2**2 / (2 * variance)
        divergence += min(((2 * order - 1) * l2**2 + 6 * l1) / (4 * variance**2), 3 * l1 / (2 * variance))
        candidates.append(divergence + math.log1p(-1 / order) - math.log(1e-3 * order) / (order - 1))
    event = _skellam(multiplier, l2_sensitivity=l2_sensitivity)
    relation: Relation = "replace-one" if units == 2 else "add-or-remove-one"
    assert epsilon([event], delta=1e-3, relation=relation) == pytest.approx(min(candidates), rel=1e-9)
    assert group_epsilon([event], delta=1e-3, size=units) == pytest.approx(min(candidates), rel=1e-9)


@pytest.mark.parametrize("shift", [(1,), (2,), (3,), (1, 1), (2, 1), (3, 0)], ids=str)
@pytest.mark.parametrize("variance", [0.5, 2.0, 10.0, 50.0])
def test_epsilon_of_skellam_noise_is_never_below_exact_sums_and_not_far_above(
    shift: tuple[int, ...], variance: float
) -> None:
    """Renyi divergences summed over all integers, turned into epsilon here; the noise of coordinates is independent."""
    values = np.arange(-400, 401)
    noise = _skellam_log_pmf(values, variance)
    orders = np.arange(2, 40)
    exact = np.array([
        sum(_log_moment(_skellam_log_pmf(values - by, variance), noise, order) for by in shift) / (order - 1)
        for order in orders
    ])  # fmt: skip
    sensitivity = math.hypot(*shift)
    multiplier = math.sqrt(variance) / sensitivity
    for steps, at in [(1, 1e-2), (4, 1e-5)]:
        candidates = steps * exact + np.log1p(-1 / orders) - np.log(at * orders) / (orders - 1)
        bound = epsilon([_skellam(multiplier, 1.0, steps, l2_sensitivity=sensitivity)], delta=at)
        assert candidates.min() <= bound
        if variance >= 10.0:
            assert bound <= 1.6 * candidates.min()


@pytest.mark.parametrize("rate", [0.01, 0.3, 0.9])
@pytest.mark.parametrize(("shift", "variance"), [(1, 2.0), (2, 5.0), (4, 40.0), (3, 9.0)])
def test_delta_of_sampled_skellam_noise_is_never_below_exact_sums_either_way_round(
    shift: int, variance: float, rate: float
) -> None:
    values = np.arange(-400, 401)
    without = np.exp(_skellam_log_pmf(values, variance))
    with_unit = (1 - rate) * without + rate * np.exp(_skellam_log_pmf(values - shift, variance))
    event = _skellam(math.sqrt(variance) / shift, rate, l2_sensitivity=float(shift))
    for eps in (0.01, 0.1, 0.5, 2.0):
        exact = _hockey_stick(with_unit, without, eps, 1.0)
        assert exact <= delta([event], epsilon=eps)


@pytest.mark.parametrize("rate", [0.001, 0.05, 0.5, 0.95])
@pytest.mark.parametrize("variance", [0.5, 4.0, 60.0])
def test_removing_a_sampled_unit_has_the_larger_renyi_divergence_for_symmetric_noise(variance: float, rate: float) -> None:
    """What the bound on sampled Skellam noise is proven by; it is what allows to leave the other direction out."""
    values = np.arange(-300, 301)
    for shift in (1, 2, 5):
        without, shifted = _skellam_log_pmf(values, variance), _skellam_log_pmf(values - shift, variance)
        seen = np.isfinite(without) & np.isfinite(shifted)
        without, shifted = without[seen], shifted[seen]
        mixture = np.logaddexp(math.log1p(-rate) + without, math.log(rate) + shifted)
        for order in (2, 3, 5, 9, 17):
            assert _log_moment(mixture, without, order) >= _log_moment(without, mixture, order) - 1e-9


def test_replacing_one_unit_doubles_the_sensitivity_of_skellam_noise() -> None:
    """The L1 norm doubles only, where the L2 norm's square is four times as large."""
    replaced = epsilon([_skellam(10.0, 1.0, 20, l2_sensitivity=50.0)], delta=1e-5, relation="replace-one")
    assert replaced == pytest.approx(rdp_epsilon([_skellam(5.0, 1.0, 20)], delta=1e-5), rel=1e-3)
    assert replaced <= epsilon([_skellam(5.0, 1.0, 20, l2_sensitivity=100.0)], delta=1e-5)
    values = np.arange(-600, 601)
    # Contributions 2 and -2: four steps apart.
    exact = max(
        _hockey_stick(np.exp(_skellam_log_pmf(values - 2, 16.0)), np.exp(_skellam_log_pmf(values + 2, 16.0)), eps, 1.0)
        / delta([_skellam(2.0, l2_sensitivity=2.0)], epsilon=eps, relation="replace-one")
        for eps in (0.1, 1.0, 3.0)
    )
    assert 0.05 < exact <= 1.0


# Delta.


@pytest.mark.parametrize("multiplier", [0.5, 1.0, 4.0])
def test_delta_of_the_gaussian_is_never_below_the_exact_value_and_at_most_a_twentieth_above(multiplier: float) -> None:
    for eps in (0.0, 0.5, 1.0, 3.0):
        exact = _gaussian_delta(multiplier, eps)
        assert exact <= delta([Event(multiplier)], epsilon=eps) <= 1.05 * exact + 1e-14


@given(
    multiplier=st.floats(-2.0, 8.0).map(lambda exponent: 10.0**exponent),
    eps=st.floats(-8.0, 3.0).map(lambda exponent: 10.0**exponent),
)
@settings(max_examples=300)
def test_delta_of_a_full_release_is_never_below_the_exact_one_and_close_to_it(multiplier: float, eps: float) -> None:
    """The exact one with 60 digits; noise from a hundredth of the sensitivity to a hundred million times it."""
    with mpmath.workdps(60):
        ratio, at = 1 / mpmath.mpf(multiplier), mpmath.mpf(eps)
        exact = mpmath.ncdf(ratio / 2 - at / ratio) - mpmath.exp(at) * mpmath.ncdf(-ratio / 2 - at / ratio)
        if exact < mpmath.mpf(10) ** -250:
            return
        found = mpmath.mpf(delta([Event(multiplier)], epsilon=eps))
        # Logarithms of some hundreds lose three of sixteen digits, and their difference as many as the noise has.
        assert exact <= found <= exact * (1 + mpmath.mpf(10) ** -8 * max(1.0, multiplier))


@pytest.mark.parametrize(
    "events",
    [[Event(1.0, 0.1, 20), Event(3.0)], [_skellam(3.0, 1.0, 4)], [_capped(1.0, 0.1, 5, population=90, cap=20)]],
    ids=["gaussian", "skellam", "capped"],
)
def test_delta_is_the_inverse_of_epsilon(events: list[Event]) -> None:
    for at in (1e-3, 1e-6):
        assert delta(events, epsilon=epsilon(events, delta=at)) == pytest.approx(at, rel=0.1)


def test_the_delta_curve_pairs_each_delta_with_its_epsilon_in_the_order_asked_for() -> None:
    events = [Event(1.0, 0.1, 20)]
    curve = delta_curve(events, deltas=[1e-7, 1e-3, 1e-5])
    assert curve == [(at, epsilon(events, delta=at)) for at in (1e-7, 1e-3, 1e-5)]
    assert curve[0][1] > curve[2][1] > curve[1][1]


# Several accounts of one person.


@pytest.mark.parametrize(("single", "double"), [(8.0, 19.1), (2.0, 4.4)])
def test_two_accounts_cost_what_the_report_says_about_one_gaussian_release(single: float, double: float) -> None:
    multiplier = calibrate(lambda noise: [Event(noise)], target_epsilon=single, delta=1e-5)
    both = group_epsilon([Event(multiplier)], delta=1e-5)
    exact = _gaussian_epsilon(multiplier / 2, 1e-5)
    assert exact <= both <= exact + _CLOSE
    assert both == pytest.approx(double, abs=0.05)


@pytest.mark.parametrize(("multiplier", "rate", "size"), [(1.0, 0.1, 2), (2.0, 0.5, 3), (0.7, 0.02, 2), (3.0, 0.999, 2)])
def test_epsilon_of_several_sampled_accounts_agrees_with_numerical_integration(
    multiplier: float, rate: float, size: int
) -> None:
    bound = group_epsilon([Event(multiplier, rate)], delta=1e-4, size=size)
    drawn = {float(count): float(stats.binom.pmf(count, size, rate)) for count in range(size + 1)}
    _assert_solves(bound, lambda eps: _mixture_delta(multiplier, eps, drawn, {0: 1.0}), 1e-4)


def test_several_sampled_accounts_over_many_rounds_agree_with_the_mixtures_of_dp_accounting() -> None:
    from dp_accounting.dp_event import MixtureOfGaussiansDpEvent
    from dp_accounting.pld import PLDAccountant

    accountant = PLDAccountant(value_discretization_interval=4e-3)
    weights = [0.88**2, 2 * 0.88 * 0.12, 0.12**2]
    accountant.compose(MixtureOfGaussiansDpEvent(1.0, [0.0, 1.0, 2.0], weights), 240)
    assert group_epsilon([Event(1.0, 0.12, 240)], delta=1e-5) == pytest.approx(accountant.get_epsilon(1e-5), abs=0.02)


def test_two_accounts_under_skellam_noise_cost_as_much_as_half_the_noise() -> None:
    both = group_epsilon([_skellam(10.0, 1.0, 20)], delta=1e-5)
    assert both == pytest.approx(epsilon([_skellam(5.0, 1.0, 20)], delta=1e-5), rel=1e-3)


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize(
    ("events", "relation"),
    [
        ([Event(9.0, 0.999999)], "replace-one"),
        ([_skellam(9.0, 0.999999)], "add-or-remove-one"),
        ([_capped(9.0, 0.5, 4, population=60, cap=33)], "add-or-remove-one"),
        ([_skellam(9.0), Event(6.0, 0.5)], "zero-out"),
    ],
    ids=["replaced", "skellam", "capped", "mixed"],
)
def test_the_general_group_bound_is_never_below_what_the_group_costs(
    events: list[Event], relation: Relation, size: int
) -> None:
    """Against the same releases with Gaussian noise and no cap, which cost less."""
    milder = [Event(event.noise_multiplier, event.sampling_rate, event.steps) for event in events]
    found = group_epsilon(events, delta=1e-5, relation=relation, size=size)
    if relation == "replace-one":
        assert found >= _gaussian_epsilon(9.0 / (2 * size), 1e-5) - 1e-3
    else:
        assert found >= group_epsilon(milder, delta=1e-5, size=size) - _CLOSE
    assert found > epsilon(events, delta=1e-5, relation=relation) * size


def test_a_group_is_never_said_to_cost_more_than_without_sampling() -> None:
    """Where group privacy would need a delta that no accountant reaches."""
    events = [_skellam(0.6, 0.3, 60, l2_sensitivity=1e4)]
    everybody = [replace(event, sampling_rate=1.0) for event in events]
    assert group_epsilon(events, delta=1e-5) <= group_epsilon(everybody, delta=1e-5) < math.inf
    capped = [_capped(0.58, 0.0166, 300, population=6040, cap=160)]
    assert group_epsilon(capped, delta=1e-5) <= epsilon([Event(0.58 / 4, 1.0, 300)], delta=1e-5) + 1.0 < math.inf


def test_a_group_of_one_costs_what_one_costs_and_more_accounts_cost_more() -> None:
    events = [Event(1.0, 0.2, 10), Event(3.0)]
    costs = [group_epsilon(events, delta=1e-5, size=size) for size in (1, 2, 3, 4)]
    assert costs[0] == epsilon(events, delta=1e-5)
    assert costs == sorted(costs) and len(set(costs)) == 4
    assert group_epsilon([], delta=1e-5) == 0.0


@pytest.mark.parametrize("size", [0, -1, 1.5])
def test_a_group_of_no_accounts_is_refused(size: Any) -> None:
    with pytest.raises(ConfigError, match="Expected size >= 1 and whole, got size="):
        group_epsilon([Event(1.0)], delta=1e-5, size=size)


# Composition.


def test_more_steps_a_higher_rate_and_less_noise_cost_more() -> None:
    def cost(multiplier: float = 1.0, rate: float = 0.2, steps: int = 20) -> float:
        return epsilon([Event(multiplier, rate, steps)], delta=1e-5)

    assert cost(steps=40) > cost() + 0.1
    assert cost(rate=0.4) > cost() + 0.1
    assert cost(multiplier=0.8) > cost() + 0.1
    assert epsilon([Event(1.0, 0.2, 20), Event(3.0, 1.0, 1)], delta=1e-5) > cost() + 0.01
    assert epsilon([Event(1.0, 0.2, 20)], delta=1e-7) > cost()


def test_nothing_released_costs_nothing() -> None:
    assert epsilon([], delta=1e-5) == rdp_epsilon([], delta=1e-5) == delta([], epsilon=0.0) == 0.0


_events = st.builds(
    Event,
    noise_multiplier=st.floats(0.6, 20.0),
    sampling_rate=st.one_of(st.just(1.0), st.floats(0.02, 0.98)),
    steps=st.integers(1, 40),
)
_skellam_events = st.builds(replace, _events, mechanism=st.just("skellam"), l2_sensitivity=st.floats(1.0, 1e6))
_relations = st.sampled_from(["add-or-remove-one", "zero-out", "replace-one"])


@given(event=_events, more=st.integers(2, 4), at=st.floats(1e-8, 1e-2), relation=_relations)
@settings(max_examples=25, deadline=None)
def test_epsilon_grows_with_steps_rate_and_certainty_and_shrinks_with_noise(
    event: Event, more: int, at: float, relation: Relation
) -> None:
    cost = epsilon([event], delta=at, relation=relation)
    # How far a bound may lie above the exact value.
    room = _CLOSE + 2e-4 * cost

    def costs(changed: Event, *, delta: float = at) -> float:
        return epsilon([changed], delta=delta, relation=relation)

    assert costs(replace(event, steps=event.steps * more)) >= cost - room
    assert costs(replace(event, noise_multiplier=event.noise_multiplier * more)) <= cost + room
    assert costs(replace(event, sampling_rate=event.sampling_rate / more)) <= cost + room
    assert costs(event, delta=at / more) >= cost - room
    assert costs(replace(event, sampling_rate=1.0)) >= cost - room


@given(event=_skellam_events, more=st.integers(2, 4), at=st.floats(1e-8, 1e-2))
@settings(max_examples=20, deadline=None)
def test_epsilon_of_skellam_noise_grows_with_steps_rate_and_certainty_and_shrinks_with_noise_and_scale(
    event: Event, more: int, at: float
) -> None:
    cost = epsilon([event], delta=at)
    # How far a bound may lie above the exact value.
    room = _CLOSE + 2e-4 * cost

    def costs(changed: Event, *, delta: float = at) -> float:
        return epsilon([changed], delta=delta) + room

    assert costs(replace(event, steps=event.steps * more)) >= cost
    assert costs(replace(event, sampling_rate=1.0)) >= cost
    assert costs(event, delta=at / more) >= cost
    for milder in (
        replace(event, noise_multiplier=event.noise_multiplier * more),
        replace(event, sampling_rate=event.sampling_rate / more),
        replace(event, l2_sensitivity=event.l2_sensitivity * more),
        replace(event, mechanism="gaussian", l2_sensitivity=0.0),
    ):
        assert epsilon([milder], delta=at) <= costs(event)


@given(events=st.lists(st.one_of(_events, _skellam_events), min_size=2, max_size=5), data=st.data())
@settings(max_examples=25, deadline=None)
def test_the_order_of_releases_and_how_they_are_grouped_do_not_matter(events: list[Event], data: st.DataObject) -> None:
    cost = epsilon(events, delta=1e-5)
    assert epsilon(data.draw(st.permutations(events)), delta=1e-5) == cost
    assert epsilon(merged(events), delta=1e-5) == pytest.approx(cost, rel=1e-6)
    apart = [replace(event, steps=1) for event in events for _ in range(event.steps)]
    assert epsilon(apart, delta=1e-5) == pytest.approx(cost, rel=1e-6)
    server = [replace(event, sampled_by="server") for event in events]
    assert epsilon(server, delta=1e-5) == cost


@given(events=st.lists(st.one_of(_events, _skellam_events), max_size=6))
@settings(max_examples=60, deadline=None)
def test_merging_keeps_every_sampled_step_and_the_precision_of_full_releases(events: list[Event]) -> None:
    once = merged(events)
    for again in (merged(once), merged(events[::-1])):
        assert [replace(event, noise_multiplier=1.0) for event in again] == [
            replace(event, noise_multiplier=1.0) for event in once
        ]
        multipliers = [event.noise_multiplier for event in once]
        assert [event.noise_multiplier for event in again] == pytest.approx(multipliers, rel=1e-12)

    def full(released: Sequence[Event]) -> list[Event]:
        return [event for event in released if event.mechanism == "gaussian" and event.sampling_rate == 1.0]

    def precision(released: Sequence[Event]) -> float:
        return sum(event.steps / event.noise_multiplier**2 for event in full(released))

    assert len(full(once)) <= 1
    assert precision(once) == pytest.approx(precision(events))
    assert sum(event.steps for event in once if event not in full(once)) == sum(
        event.steps for event in events if event not in full(events)
    )


def test_releases_that_differ_in_what_matters_are_never_merged() -> None:
    base = _capped(1.0, 0.1, 2, population=90, cap=12)
    others = [
        replace(base, noise_multiplier=1.1),
        replace(base, sampling_rate=0.2),
        replace(base, population=91),
        replace(base, sample_cap=13),
        replace(base, sampling="poisson"),
        _skellam(1.0, 0.1, 2),
        _skellam(1.0, 0.1, 2, l2_sensitivity=5.0),
        _skellam(1.0, 1.0, 2),
        # Everybody is drawn, but all beyond the cap are left out: a sample of fixed size, not a full release.
        replace(base, sampling_rate=1.0),
        Event(1.0, 1.0, 2),
    ]
    assert len(merged([base, *others])) == len(others) + 1


def test_everybody_drawn_under_a_cap_is_not_a_full_release() -> None:
    """Half of 40 is kept: whoever is in displaces somebody, so that it may cost more than if all were in."""
    capped = epsilon([_capped(0.5, 1.0, 1, population=40, cap=20)], delta=1e-5)
    assert capped > epsilon([Event(0.5)], delta=1e-5)


def test_ten_thousand_releases_of_ten_kinds_are_composed_by_kind_and_remembered() -> None:
    """What takes time is counted: one distribution a kind and grid, not one a release; and none the second time."""
    events = [Event(0.8 + 0.1 * kind + 1e-6, 0.01 + 0.01 * kind) for kind in range(10)] * 1000
    before = loss_distribution._one_release.cache_info().misses
    first = epsilon(events, delta=1e-5)
    made = loss_distribution._one_release.cache_info().misses - before
    most_grids = 12
    assert 10 <= made <= 10 * most_grids
    assert epsilon(events, delta=1e-5) == first
    assert loss_distribution._one_release.cache_info().misses - before == made


# Calibration.


@pytest.mark.parametrize(
    ("target", "rate", "steps", "others"),
    [
        (8.0, 0.25, 60, (Event(3.0),)),
        (1.0, 0.05, 100, ()),
        (0.3, 1.0, 4, ()),
        (20.0, 0.5, 2, ()),
        (100.0, 0.25, 20, ()),
    ],
)
@pytest.mark.parametrize("mechanism", ["gaussian", "skellam"])
def test_calibrated_noise_stays_within_epsilon_and_less_noise_would_not(
    target: float, rate: float, steps: int, others: tuple[Event, ...], mechanism: Any
) -> None:
    def events_of(multiplier: float) -> list[Event]:
        return [*others, Event(multiplier, rate, steps, mechanism, l2_sensitivity=1e4)]

    multiplier = calibrate(events_of, target_epsilon=target, delta=1e-4)
    assert epsilon(events_of(multiplier), delta=1e-4) <= target < epsilon(events_of(multiplier * 0.998), delta=1e-4)


@pytest.mark.parametrize("relation", ["replace-one", "zero-out"])
def test_calibration_holds_for_the_relation_that_is_asked_for(relation: Relation) -> None:
    def events_of(multiplier: float) -> list[Event]:
        return [Event(multiplier, 0.1, 50)]

    multiplier = calibrate(events_of, target_epsilon=4.0, delta=1e-5, relation=relation)
    assert 3.95 <= epsilon(events_of(multiplier), delta=1e-5, relation=relation) <= 4.0


def test_calibration_of_capped_samples_stays_within_epsilon() -> None:
    def events_of(multiplier: float) -> list[Event]:
        return [_capped(multiplier, 0.0166, 100, population=6040, cap=150)]

    multiplier = calibrate(events_of, target_epsilon=8.0, delta=1e-5)
    assert 7.9 <= epsilon(events_of(multiplier), delta=1e-5) <= 8.0


def test_calibration_refuses_what_the_other_events_alone_exceed() -> None:
    with pytest.raises(PrivacyError, match=r"Expected a noise multiplier up to 10000 to reach epsilon=0\.5, got epsilon="):
        calibrate(lambda multiplier: [Event(multiplier, 0.1, 10), Event(1.0)], target_epsilon=0.5, delta=1e-5)


def test_calibration_refuses_an_epsilon_that_no_noise_reaches() -> None:
    with pytest.raises(PrivacyError, match="Expected a noise multiplier up to 10000 to reach epsilon=1e-06"):
        calibrate(lambda multiplier: [Event(multiplier, 1.0, 100_000)], target_epsilon=1e-6, delta=1e-9)


@pytest.mark.parametrize("target", [0.0, -1.0, math.inf, math.nan])
def test_calibration_refuses_a_target_that_is_none(target: float) -> None:
    with pytest.raises(ConfigError, match="Expected target_epsilon > 0 and finite, got target_epsilon="):
        calibrate(lambda multiplier: [Event(multiplier)], target_epsilon=target, delta=1e-5)


def test_calibration_ends_when_the_noise_changes_nothing() -> None:
    assert calibrate(lambda _: [Event(5.0)], target_epsilon=8.0, delta=1e-5) < 1e-5
