"""The probes of the noise: how often they are wrong, and what they find."""

from __future__ import annotations

import numpy as np
import pytest

from shared.audit.noise_probe import MORE_IS_UNEXPLAINED, noise_probe, power_of_noise_probe, shared_noise


def _p_values(stddev: float, *, samples: int = 1000, repetitions: int = 400, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.array([noise_probe(rng.normal(size=samples, scale=stddev)).p_less for _ in range(repetitions)])


def test_claimed_noise_is_called_too_small_no_more_often_than_the_level() -> None:
    """Null: the claimed noise, 400 repetitions at 1 %; P[Bin(400, .01) > 11] = 0.1 %.

    Negative controls: noise times 2/3 and 0.9 is found each time but once in a thousand.
    """
    assert (_p_values(1.0) < 0.01).sum() <= 11
    assert (_p_values(2.0 / 3.0) < 0.01).all()
    assert (_p_values(0.9) < 0.05).sum() >= 396
    assert power_of_noise_probe(1000, ratio=0.9, level=0.05) == pytest.approx(0.999, abs=0.002)


def test_more_noise_than_claimed_is_unexplained_and_a_little_rounding_is_not() -> None:
    """Null: noise times 1.02; negative control: times 3/2, each time."""
    rng = np.random.default_rng(1)
    slightly = [noise_probe(rng.normal(size=2000, scale=1.02)).p_more for _ in range(100)]
    assert min(slightly) > 1e-4
    assert all(noise_probe(rng.normal(size=2000, scale=1.5)).p_more < 1e-6 for _ in range(100))
    assert MORE_IS_UNEXPLAINED == 1.05


def test_the_interval_covers_and_no_noise_has_ratio_0() -> None:
    rng = np.random.default_rng(2)
    found = [noise_probe(rng.normal(size=300)) for _ in range(200)]
    assert sum(not one.low <= 1.0 <= one.high for one in found) <= 22
    silent = noise_probe(np.zeros(50))
    assert (silent.ratio, silent.p_less, silent.p_more) == (0.0, 0.0, 1.0)
    assert power_of_noise_probe(50, ratio=0.0, level=0.01) == 1.0 and power_of_noise_probe(0, ratio=0.5, level=0.01) == 0.0


def test_independent_noise_is_not_called_shared_and_shared_noise_is() -> None:
    """Null: independent, 400 repetitions at 1 %. Negative controls: the same noise, and half of its variance in common."""
    rng = np.random.default_rng(3)
    p_values = [shared_noise(*rng.normal(size=(2, 200))).p_value for _ in range(400)]
    assert sum(p < 0.01 for p in p_values) <= 11
    for _ in range(50):
        one, other, common = rng.normal(size=(3, 200))
        assert shared_noise(one, one).p_value < 1e-12
        assert shared_noise(one + common, other + common).p_value < 1e-6
        assert shared_noise(one, -one).p_value < 1e-12
    assert shared_noise(np.zeros(10), np.zeros(10)).correlation == 0.0
