"""Banded noise over time: its covariance, and what is left of it in prefix sums."""

from __future__ import annotations

import math
import os

import numpy as np
import pytest
from numpy.typing import NDArray

from shared.privacy.correlated_noise import BandedNoise, column_norm
from shared.randomness import NoiseSource, replayable_source

STEPS, N = 12, 20_000
Z = 5.5  # two-sided false-alarm rate 4e-8 for one normal statistic, 3e-6 for the 78 of one matrix


def _source(label: str) -> NoiseSource:
    seed = int.from_bytes(os.urandom(4), "little") if os.environ.get("TACIT_FRESH_SEEDS") else 0
    return replayable_source(seed, label)


def _matrix(steps: int, bands: int) -> NDArray[np.float64]:
    """C, entry by entry."""
    return np.array(
        [
            [math.comb(2 * (i - j), i - j) / 4 ** (i - j) if 0 <= i - j < bands else 0.0 for j in range(steps)]
            for i in range(steps)
        ]
    )


def _drawn(bands: int, stddev: float, *, steps: int = STEPS, size: int = N) -> NDArray[np.float64]:
    noise = BandedNoise(size, bands=bands, stddev=stddev, source=_source(f"banded {bands} {stddev}"))
    return np.array([noise.next() for _ in range(steps)], dtype=np.float64)


def _has_covariance(sample: NDArray[np.float64], bands: int, stddev: float) -> bool:
    """Whether the columns of a sample (steps, n) are N(0, stddev^2 (C^T C)^-1).

    Then C times the sample over stddev is white: each mean square is 1 with variance 2 / n, each mean product of two steps
    is 0 with variance 1 / n.
    """
    white = _matrix(len(sample), bands) @ sample / stddev
    n = sample.shape[1]
    products = white @ white.T / n
    squares = (np.diag(products) - 1) / math.sqrt(2 / n)
    crosses = products[np.triu_indices(len(sample), 1)] * math.sqrt(n)
    return bool(np.abs(squares).max() < Z and np.abs(crosses).max() < Z)


@pytest.mark.parametrize("bands", [1, 3, 12])
@pytest.mark.parametrize("stddev", [0.01, 30.0])
def test_noise_over_time_has_the_covariance_of_the_plan(bands: int, stddev: float) -> None:
    """Null: N(0, stddev^2 (C^T C)^-1) over 12 steps, in each of n = 20,000 coordinates, nothing fitted.

    78 statistics, false alarms 3e-6 in all; a scale wrong by 4 % and a correlation of .06 between two steps are found with
    power > .99. Negative controls: 2/3, 3/2 and 1.04 of the noise, one band more or less, independent noise.
    """
    sample = _drawn(bands, stddev)
    assert _has_covariance(sample, bands, stddev)
    assert not _has_covariance(sample, bands, stddev * 2 / 3)
    assert not _has_covariance(sample, bands, stddev * 3 / 2)
    assert not _has_covariance(sample, bands, stddev * 1.04)
    if bands < STEPS:
        assert not _has_covariance(sample, bands + 1, stddev)
    if bands > 1:
        assert not _has_covariance(sample, bands - 1, stddev)
        assert not _has_covariance(_drawn(1, stddev), bands, stddev)


def test_coordinates_are_independent_of_one_another() -> None:
    """Null: correlation 0 of neighboring coordinates in every step, normal with stddev 1/sqrt(n), n = 20,000.

    12 statistics, false alarms 5e-7. Negative control: each coordinate plus half of its neighbor.
    """
    sample = _drawn(4, 1.0)

    def independent(rows: NDArray[np.float64]) -> bool:
        return all(abs(np.corrcoef(row[1:], row[:-1])[0, 1]) < Z / math.sqrt(N) for row in rows)

    assert independent(sample)
    assert not independent(sample + 0.5 * np.roll(sample, 1, axis=1))


def test_prefix_sums_carry_less_error_than_independent_noise_of_equal_epsilon() -> None:
    """200 steps, participations 20 apart (10 of them), the same Gaussian multiplier 1 for all of a user's participations.

    Null: the mean square error over steps and n = 400 coordinates is trace(B B^T) stddev^2 / steps. Its relative standard
    deviation is below sqrt(2 / n) = 7 %, since the errors of one coordinate are at most wholly dependent; within 30 % false
    alarms are below 1e-4. Negative controls: 2/3 and 3/2 of the noise (4/9 and 9/4 of the square).
    """
    steps, separation, n = 200, 20, 400
    sums = np.tril(np.ones((steps, steps)))

    def measured(bands: int, scale: float = 1.0) -> tuple[float, float]:
        stddev = math.sqrt(steps / separation) * column_norm(bands, steps)
        errors = np.cumsum(_drawn(bands, stddev * scale, steps=steps, size=n), axis=0)
        left = sums @ np.linalg.inv(_matrix(steps, bands))
        return float(np.square(errors).mean()), float(np.square(left).sum() / steps * stddev**2)

    def accepted(pair: tuple[float, float]) -> bool:
        return abs(pair[0] / pair[1] - 1) < 0.3

    independent, correlated = measured(1), measured(separation)
    assert accepted(independent)
    assert accepted(correlated)
    assert not accepted(measured(separation, 2 / 3))
    assert not accepted(measured(separation, 3 / 2))
    assert math.sqrt(correlated[0]) < 0.5 * math.sqrt(independent[0])
