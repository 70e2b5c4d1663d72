"""Trade-off functions against integrals, against one another, and against the accountant."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import integrate, stats

from shared.audit.tradeoff import CurveTradeoff, GaussianTradeoff, epsilon_of, mu_of, total_mu, tradeoff_of
from shared.errors import UnsupportedMechanism
from shared.privacy import accounting
from shared.privacy.events import Event

RIGHT = np.linspace(0.001, 0.999, 57)


def _delta_by_integration(mu: float, epsilon: float) -> float:
    """The hockey stick of two normal densities, over where their ratio exceeds e^epsilon."""
    start = epsilon / mu + mu / 2.0

    def excess(at: float) -> float:
        return float(stats.norm.pdf(at, mu) - math.exp(epsilon) * stats.norm.pdf(at))

    return float(integrate.quad(excess, start, start + 40.0, epsabs=1e-14, limit=200)[0])


@pytest.mark.parametrize("mu", [0.3, 1.0, 1.7, 4.0])
def test_the_epsilon_of_a_distance_is_that_of_two_normal_densities(mu: float) -> None:
    epsilon = epsilon_of(mu, 1e-5)
    assert _delta_by_integration(mu, epsilon) == pytest.approx(1e-5, rel=1e-4)
    assert mu_of(epsilon, 1e-5) == pytest.approx(mu, rel=1e-6)


def test_a_claim_of_nothing_has_no_distance() -> None:
    assert mu_of(0.0, 1e-5) == 0.0 and epsilon_of(0.0, 1e-5) == 0.0


def test_right_and_wrong_guesses_of_a_threshold_test_lie_on_the_gaussian_curve() -> None:
    thresholds = np.linspace(-3.0, 4.0, 29)
    wrong, right = stats.norm.sf(thresholds), stats.norm.sf(thresholds - 1.3)
    assert GaussianTradeoff(1.3).least_wrong(right) == pytest.approx(wrong, rel=1e-9)


def test_lines_of_epsilon_and_delta_never_lie_above_the_curve_that_they_approximate_and_come_close() -> None:
    epsilons = np.concatenate([[0.0], np.geomspace(1e-3, 40.0, 239)])
    deltas = np.array([accounting.delta([Event(1.0 / 1.3)], epsilon=value) for value in epsilons.tolist()])
    exact = GaussianTradeoff(1.3).least_wrong(RIGHT)
    lines = CurveTradeoff(epsilons, deltas).least_wrong(RIGHT)
    assert (lines <= exact + 1e-12).all()
    assert lines == pytest.approx(exact, abs=2e-3)


def test_unsampled_releases_compose_into_one_distance_whatever_their_order() -> None:
    events = [Event(2.0), Event(1.0, steps=3), Event(4.0, mechanism="skellam", l2_sensitivity=1000.0)]
    mu = total_mu(events)
    assert mu == pytest.approx(math.sqrt(0.25 + 3.0 + 1.0 / 16.0))
    assert total_mu(events, "replace-one") == pytest.approx(2.0 * mu)
    found = tradeoff_of(events, noise_scale=2.0)
    assert isinstance(found, GaussianTradeoff) and found.mu == pytest.approx(mu / 2.0)


def test_the_curve_of_sampled_releases_agrees_with_the_accountant_and_is_easier_to_keep_than_without_sampling() -> None:
    events = [Event(1.0, 0.1, 10)]
    assert total_mu(events) is None
    found = tradeoff_of(events)
    assert isinstance(found, CurveTradeoff)
    place = int(np.searchsorted(found.epsilons, 1.0))
    exact = accounting.delta(events, epsilon=float(found.epsilons[place]))
    assert found.deltas[place] == pytest.approx(exact, rel=0.05) and (np.diff(found.deltas) <= 1e-15).all()
    assert (found.least_wrong(RIGHT) >= tradeoff_of([Event(1.0, steps=10)]).least_wrong(RIGHT) - 1e-12).all()
    assert (found.least_wrong(RIGHT) <= RIGHT + 1e-12).all()


def test_samples_of_fixed_size_are_refused_as_the_accountant_refuses_them() -> None:
    with pytest.raises(UnsupportedMechanism, match="fixed size"):
        tradeoff_of([Event(2.0, 0.5, sampling="fixed-size", population=10, sample_cap=5)])
