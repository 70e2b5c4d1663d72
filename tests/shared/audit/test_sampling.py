"""Sampling: false alarms and power of both tests, by draws of numpy's own binomial distribution."""

from __future__ import annotations

import numpy as np
import pytest

from shared.audit.sampling import SamplingDesign, power_of_sampling_probe, sampling_probe

DESIGNS = [SamplingDesign(236, 0.12, 4, 1.5, 50), SamplingDesign(20, 0.5, 2, 0.8, 50), SamplingDesign(943, 0.05, 1, 0.0, 50)]


def _sums(design: SamplingDesign, rng: np.random.Generator, *, fixed: bool = False, rate: float | None = None) -> np.ndarray:
    shape, q = (design.readings, design.steps), design.rate if rate is None else rate
    one = rng.random(shape) < q
    others = rng.binomial(design.users - 1, q, size=shape)
    if fixed:
        others = round(design.users * q) - one
    noise = design.noise_multiplier * rng.normal(size=shape)
    return np.asarray((one - others + noise).sum(axis=1))


@pytest.mark.parametrize("design", DESIGNS)
def test_independent_coins_are_seldom_refuted(design: SamplingDesign) -> None:
    """Null: coins. 2,000 repetitions at 5 %: outside 3.3 % to 6.7 % with probability 5e-4 for each test."""
    rng = np.random.default_rng(0)
    found = [sampling_probe(design, _sums(design, rng).tolist()) for _ in range(2000)]
    for p_values in ([one.p_spread for one in found], [one.p_excess for one in found]):
        assert 0.033 < np.mean(np.array(p_values) < 0.05) < 0.067


@pytest.mark.parametrize("design", DESIGNS)
def test_cohorts_of_a_fixed_size_are_found_with_the_power_that_is_stated(design: SamplingDesign) -> None:
    """200 repetitions at 1e-4, the level of one of 250 probes."""
    rng = np.random.default_rng(1)
    found = [sampling_probe(design, _sums(design, rng, fixed=True).tolist()).p_spread < 1e-4 for _ in range(200)]
    power = power_of_sampling_probe(design, level=1e-4)
    assert np.mean(found) == pytest.approx(power, abs=0.12)
    assert power > 0.95 or design.users == 20


def test_a_higher_rate_is_found_and_a_lower_one_is_not_held_against_a_run() -> None:
    rng, design = np.random.default_rng(2), DESIGNS[0]
    high, low = (sampling_probe(design, _sums(design, rng, rate=rate).tolist()) for rate in (0.14, 0.10))
    assert high.p_excess < 1e-6 and high.excess == pytest.approx(0.14 / 0.12, abs=0.03)
    assert low.p_excess > 0.99


def test_the_design_is_the_mean_and_variance_of_what_is_drawn() -> None:
    rng, design = np.random.default_rng(3), SamplingDesign(236, 0.12, 4, 1.5, 40_000)
    sums = _sums(design, rng)
    assert sums.mean() == pytest.approx(design.mean, abs=0.3) and sums.var() == pytest.approx(design.variance, rel=0.04)
    fixed = _sums(design, rng, fixed=True)
    assert fixed.var() == pytest.approx(design.variance_of_a_fixed_size, rel=0.04)
