"""Epsilon against formulas and numerical integration that share no code with it; calibration of noise."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats

from shared.errors import PrivacyError
from shared.privacy.accounting import calibrate, epsilon, merged, rdp_epsilon
from shared.privacy.events import Event


def _gaussian_epsilon(multiplier: float, delta: float) -> float:
    """Balle and Wang 2018, "Improving the Gaussian mechanism ...", Theorem 8, solved for epsilon."""

    def excess(eps: float) -> float:
        a, b = 1 / (2 * multiplier), eps * multiplier
        return stats.norm.cdf(a - b) - math.exp(eps + stats.norm.logcdf(-a - b)) - delta

    return 0.0 if excess(0.0) <= 0 else float(optimize.brentq(excess, 0.0, 2000.0))


def _sampled_delta(multiplier: float, rate: float, eps: float) -> float:
    """Delta of one Poisson-sampled release: hockey-stick on a grid, the worse of add and remove."""
    x, step = np.linspace(-12 * multiplier, 12 * multiplier + 1, 400_001, retstep=True)
    without = stats.norm.pdf(x, 0, multiplier)
    with_user = (1 - rate) * without + rate * stats.norm.pdf(x, 1, multiplier)
    return max(
        float(np.maximum(with_user - math.exp(eps) * without, 0).sum() * step),
        float(np.maximum(without - math.exp(eps) * with_user, 0).sum() * step),
    )


@pytest.mark.parametrize("delta", [1e-3, 1e-5, 1e-8])
@pytest.mark.parametrize("multiplier", [0.5, 1.0, 3.0, 20.0])
def test_epsilon_of_the_gaussian_is_never_below_the_exact_value_and_at_most_two_hundredths_above(
    multiplier: float, delta: float
) -> None:
    exact = _gaussian_epsilon(multiplier, delta)
    assert exact <= epsilon([Event(multiplier, 1.0, 1)], delta=delta) <= exact + 0.02


def test_releases_to_which_everybody_contributes_compose_as_one() -> None:
    events = [Event(3.0, 1.0, 5), Event(4.0, 1.0, 2), Event(3.0, 1.0, 1)]
    exact = _gaussian_epsilon((6 / 9 + 2 / 16) ** -0.5, 1e-5)
    assert exact <= epsilon(events, delta=1e-5) <= exact + 0.02


@pytest.mark.parametrize(("multiplier", "rate"), [(1.0, 0.1), (0.6, 0.5), (2.0, 0.9)])
def test_epsilon_of_one_sampled_release_agrees_with_numerical_integration(multiplier: float, rate: float) -> None:
    delta = 1e-4
    bound = epsilon([Event(multiplier, rate, 1)], delta=delta)
    # The bound's own delta is below the target, and a slightly smaller epsilon would exceed it.
    assert _sampled_delta(multiplier, rate, bound) <= delta * (1 + 1e-6)
    assert _sampled_delta(multiplier, rate, bound - 0.03) > delta


@pytest.mark.parametrize(("multiplier", "rate", "steps"), [(1.0, 0.25, 60), (0.8, 0.02, 100), (2.5, 1.0, 40)])
def test_the_coarse_grid_moves_the_bound_by_less_than_two_hundredths(multiplier: float, rate: float, steps: int) -> None:
    import dp_accounting
    from dp_accounting.pld import PLDAccountant

    accountant = PLDAccountant()
    gaussian = dp_accounting.GaussianDpEvent(multiplier)
    accountant.compose(gaussian if rate == 1.0 else dp_accounting.PoissonSampledDpEvent(rate, gaussian), steps)
    fine = accountant.get_epsilon(1e-5)
    assert fine - 1e-4 <= epsilon([Event(multiplier, rate, steps)], delta=1e-5) <= fine + 0.02


@pytest.mark.parametrize(("multiplier", "rate", "steps"), [(1.0, 0.25, 60), (5.0, 1.0, 1), (0.7, 0.01, 500)])
def test_the_quoted_bound_is_below_the_renyi_cross_check(multiplier: float, rate: float, steps: int) -> None:
    events = [Event(3.0, 1.0, 1), Event(multiplier, rate, steps)]
    assert 0 < epsilon(events, delta=1e-5) <= rdp_epsilon(events, delta=1e-5)


def test_a_known_value_of_the_field_is_met() -> None:
    """Poisson sampling, rate .01, multiplier 1, 1,000 steps, delta 1e-5: add-or-remove epsilon 1.83."""
    assert epsilon([Event(1.0, 0.01, 1000)], delta=1e-5) == pytest.approx(1.83, abs=0.02)


def test_more_steps_a_higher_rate_and_less_noise_cost_more() -> None:
    def cost(multiplier: float = 1.0, rate: float = 0.2, steps: int = 20) -> float:
        return epsilon([Event(multiplier, rate, steps)], delta=1e-5)

    assert cost(steps=40) > cost() + 0.1
    assert cost(rate=0.4) > cost() + 0.1
    assert cost(multiplier=0.8) > cost() + 0.1
    assert epsilon([Event(1.0, 0.2, 20), Event(3.0, 1.0, 1)], delta=1e-5) > cost() + 0.01
    assert epsilon([Event(1.0, 0.2, 20)], delta=1e-7) > cost()


def test_nothing_released_costs_nothing() -> None:
    assert epsilon([], delta=1e-5) == 0.0
    assert rdp_epsilon([], delta=1e-5) == 0.0


@given(
    st.lists(
        st.tuples(st.sampled_from([0.5, 1.0, 3.0]), st.sampled_from([0.1, 1.0]), st.integers(1, 9)),
        max_size=6,
    )
)
@settings(max_examples=60, deadline=None)
def test_merging_keeps_every_sampled_step_and_the_precision_of_full_releases(
    rows: list[tuple[float, float, int]],
) -> None:
    events = [Event(*row) for row in rows]
    once = merged(events)
    for again in (merged(once), merged(events[::-1])):
        assert [(e.sampling_rate, e.steps) for e in again] == [(e.sampling_rate, e.steps) for e in once]
        multipliers = [event.noise_multiplier for event in once]
        assert [event.noise_multiplier for event in again] == pytest.approx(multipliers, rel=1e-12)
    for multiplier in (0.5, 1.0, 3.0):
        expected = sum(event.steps for event in events if (event.noise_multiplier, event.sampling_rate) == (multiplier, 0.1))
        found = sum(event.steps for event in once if (event.noise_multiplier, event.sampling_rate) == (multiplier, 0.1))
        assert found == expected
    precision = sum(event.steps / event.noise_multiplier**2 for event in events if event.sampling_rate == 1.0)
    full = [event for event in once if event.sampling_rate == 1.0]
    assert sum(event.steps / event.noise_multiplier**2 for event in full) == pytest.approx(precision)


@pytest.mark.parametrize(
    ("target", "rate", "steps", "others"),
    [
        (8.0, 0.25, 60, (Event(3.0, 1.0, 1),)),
        (1.0, 0.05, 100, ()),
        (0.3, 1.0, 4, ()),
        (20.0, 0.5, 2, ()),
        (100.0, 0.25, 20, ()),
    ],
)
def test_calibrated_noise_stays_within_epsilon_and_wastes_little(
    target: float, rate: float, steps: int, others: tuple[Event, ...]
) -> None:
    def events(multiplier: float) -> list[Event]:
        return [*others, Event(multiplier, rate, steps)]

    multiplier = calibrate(events, target_epsilon=target, delta=1e-4, relation="add-or-remove-one")
    assert target - max(0.01, 0.002 * target) <= epsilon(events(multiplier), delta=1e-4) <= target


@pytest.mark.parametrize(
    ("target", "delta", "fixed"), [(0.5, 1e-5, [Event(1.0, 1.0, 1)]), (1e-6, 1e-9, [Event(1.0, 1.0, 100_000)])]
)
def test_calibration_refuses_an_epsilon_that_no_noise_reaches(target: float, delta: float, fixed: list[Event]) -> None:
    with pytest.raises(PrivacyError, match=r"Expected a noise multiplier up to 10000 to reach epsilon="):
        calibrate(
            lambda multiplier: [*fixed, Event(multiplier)], target_epsilon=target, delta=delta, relation="add-or-remove-one"
        )
