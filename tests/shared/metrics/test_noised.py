"""Released metrics: the arithmetic by hand, and what is withheld."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.metrics.noised import NoisedMetrics, noised_metrics

WITHHELD = NoisedMetrics(None, None, None, None)


def _sums(hr: float, ndcg: float, users: float) -> np.ndarray:
    """Sums as clients contribute them: each over the square root of 3."""
    return np.array([hr, ndcg, users]) / math.sqrt(3)


def test_metrics_are_the_sums_over_the_noised_count() -> None:
    metrics = noised_metrics(_sums(30.0, 12.0, 200.0), noise_stddev=5.0)
    assert metrics.hr == pytest.approx(0.15)
    assert metrics.ndcg == pytest.approx(0.06)
    assert metrics.users == pytest.approx(200.0)
    # Noise of stddev 5 in a third's root is 5 sqrt(3) in the sum; 95 % of a normal lie within 1.96; the count is noised too.
    assert metrics.noise_half_width == pytest.approx(1.96 * 5 * math.sqrt(3) / 200 * math.sqrt(1 + 0.15**2))


def test_the_interval_of_the_noise_covers_what_the_noise_does_to_a_metric_nineteen_times_in_twenty() -> None:
    """Null: coverage .95 of 20,000 releases of HR 0, where the count's own noise does not matter; z-test.

    False alarms 6e-7. Negative controls: half-widths of 2/3 and 3/2.
    """
    rng = np.random.default_rng(3)
    truth = _sums(0.0, 0.0, 20_000.0)
    # Clamping at 0 hides the negative side, so the noise is taken in absolute value: |Z| <= 1.96 has probability .95.
    released = [noised_metrics(truth + np.abs(rng.normal(0, 5, size=3)), noise_stddev=5.0) for _ in range(20_000)]

    def covers(factor: float) -> bool:
        inside = sum(metrics.hr <= factor * metrics.noise_half_width for metrics in released)  # type: ignore[operator]
        return abs(inside - 0.95 * 20_000) < 5 * math.sqrt(20_000 * 0.95 * 0.05)

    assert covers(1.0)
    assert not covers(2 / 3)
    assert not covers(3 / 2)


def test_metrics_that_noise_carried_out_of_their_range_are_put_back() -> None:
    metrics = noised_metrics(_sums(250.0, -3.0, 200.0), noise_stddev=5.0)
    assert (metrics.hr, metrics.ndcg) == (1.0, 0.0)


@pytest.mark.parametrize(("users", "released"), [(19.99, False), (20.01, True), (-500.0, False), (0.0, False)])
def test_metrics_of_fewer_than_twenty_users_are_withheld_whatever_the_noise(users: float, released: bool) -> None:
    for stddev in (0.0, 0.1):
        metrics = noised_metrics(_sums(1.0, 1.0, users), noise_stddev=stddev)
        assert (metrics != WITHHELD) is released


@pytest.mark.parametrize(("deviations", "released"), [(4.99, False), (5.01, True)])
def test_metrics_are_withheld_when_the_count_is_below_five_standard_deviations_of_its_noise(
    deviations: float, released: bool
) -> None:
    stddev = 40.0  # in the contributions' unit, as the count is that is compared with it
    metrics = noised_metrics(np.array([1.0, 1.0, deviations * stddev]), noise_stddev=stddev)
    assert (metrics != WITHHELD) is released


@pytest.mark.parametrize("users", [math.nan, math.inf * -1])
def test_a_count_that_is_no_number_is_withheld(users: float) -> None:
    assert noised_metrics(np.array([1.0, 1.0, users]), noise_stddev=5.0) == WITHHELD


@given(st.lists(st.floats(-1e6, 1e6), min_size=3, max_size=3), st.floats(0, 1e4))
def test_whatever_is_released_is_within_its_range(sums: list[float], stddev: float) -> None:
    metrics = noised_metrics(np.array(sums), noise_stddev=stddev)
    if metrics == WITHHELD:
        return
    assert 0 <= metrics.hr <= 1  # type: ignore[operator]
    assert 0 <= metrics.ndcg <= 1  # type: ignore[operator]
    assert metrics.users >= 20  # type: ignore[operator]
    assert 0 <= metrics.noise_half_width <= 1.96 / 5 + 1e-9  # type: ignore[operator]


@pytest.mark.parametrize("truth", [0.1, 0.5, 0.7])
def test_the_half_width_counts_the_noise_of_the_count_too(truth: float) -> None:
    """Null: 95 % of intervals hold the exact rate. n = 20,000, so the share is within .006 (4 standard deviations)."""
    rng, sums, inside = np.random.default_rng(0), np.array([200 * truth, 0.0, 200.0]) / math.sqrt(3), 0
    for _ in range(20_000):
        metrics = noised_metrics(sums + rng.normal(0, 5, 3), noise_stddev=5.0)
        inside += abs(metrics.hr - truth) <= metrics.noise_half_width  # type: ignore[operator]
    assert abs(inside / 20_000 - 0.95) < 0.012  # the ratio is normal to first order only
