"""Statistical tests of noise and sampling, with negative controls: 2/3 and 3/2 of a scale must be rejected.

The replayable source makes them repeat exactly; set TACIT_FRESH_SEEDS=1 for seeds from the system.
"""

from __future__ import annotations

import math
import os

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray
from scipy import stats

from shared.randomness import NoiseSource, replayable_source, secret_bytes, secret_source
from tests.alone import count_items, noised
from tests.plans import silo_plan

N = 40_000
Z = 5.0  # two-sided false-alarm rate 6e-7 for a normal statistic


def _source(label: str) -> NoiseSource:
    seed = int.from_bytes(os.urandom(4), "little") if os.environ.get("TACIT_FRESH_SEEDS") else 0
    return replayable_source(seed, label)


def _variance_is(sample: NDArray[np.floating], stddev: float) -> bool:
    """n * mean(x^2) / stddev^2 is chi-squared with n degrees: for large n normal, mean n, variance 2n."""
    statistic = (np.square(sample.astype(np.float64)).sum() / stddev**2 - sample.size) / math.sqrt(2 * sample.size)
    return bool(abs(statistic) < Z)


def _is_normal(sample: NDArray[np.floating], stddev: float) -> bool:
    return bool(stats.kstest(sample.astype(np.float64) / stddev, "norm").pvalue > 6e-7)


@pytest.mark.parametrize("secret", [False, True], ids=["replayable", "secret"])
@pytest.mark.parametrize("stddev", [0.01, 1.0, 300.0])
def test_noise_has_the_standard_deviation_that_was_asked_for(stddev: float, secret: bool) -> None:
    """Null: N(0, stddev^2). n = 40,000; false alarms 6e-7; a scale wrong by 4 % is found with power > .99."""
    source = secret_source() if secret else _source(f"variance {stddev}")
    sample = source.gaussian(N, stddev=stddev)
    assert _variance_is(sample, stddev)
    assert not _variance_is(sample, stddev * 2 / 3)
    assert not _variance_is(sample, stddev * 3 / 2)
    assert not _variance_is(sample, stddev * 1.04)
    assert abs(sample.mean()) < Z * stddev / math.sqrt(N)


@pytest.mark.parametrize("source", [_source("normality"), secret_source()], ids=["replayable", "secret"])
def test_noise_is_normal(source: NoiseSource) -> None:
    """Null: N(0, 1), Kolmogorov-Smirnov with no fitted parameter. n = 40,000; false alarms 6e-7.

    Negative controls: 2/3 and 3/2 of the scale, and a Laplace distribution (power > .99).
    """
    sample = source.gaussian(N, stddev=1.0)
    assert _is_normal(sample, 1.0)
    assert not _is_normal(sample, 2 / 3)
    assert not _is_normal(sample, 3 / 2)
    laplace = np.random.default_rng(0).laplace(scale=math.sqrt(0.5), size=N)
    assert not _is_normal(laplace, 1.0)
    # The tails, where a mean of few bounded samples would be cut off: 18.6 are expected beyond 3.5.
    assert 3 <= (np.abs(sample) > 3.5).sum() <= 45


@pytest.mark.parametrize("source", [_source("independence"), secret_source()], ids=["replayable", "secret"])
def test_noise_of_neighboring_values_and_of_two_draws_is_independent(source: NoiseSource) -> None:
    """Null: correlation 0 of values and of squares, each normal with stddev 1/sqrt(n), n = 40,000.

    False alarms 6e-7 each. Negative controls: a draw plus half of the other, and one sample with other signs.
    """
    a, b = source.gaussian(N, stddev=1.0), source.gaussian(N, stddev=1.0)

    def independent(x: NDArray[np.floating], y: NDArray[np.floating]) -> bool:
        pairs = [(x, y), (np.square(x), np.square(y))]
        return all(abs(np.corrcoef(u, v)[0, 1]) < Z / math.sqrt(len(u)) for u, v in pairs)

    assert independent(a, b)
    for lag in (1, 2, 4, N // 2):
        assert independent(a[lag:], a[:-lag])
    assert not independent(a, b + 0.5 * a)
    signs = np.where(source.bernoulli(N, probability=0.5), 1.0, -1.0)
    assert not independent(a, a * signs)


@pytest.mark.parametrize("probability", [0.01, 0.25, 0.9])
def test_a_user_is_drawn_with_the_probability_of_the_plan(probability: float) -> None:
    """Null: Binomial(n, p). n = 40,000; false alarms 6e-7. Negative controls: 2/3 and 3/2 of the rate."""
    drawn = int(_source(f"coins {probability}").bernoulli(N, probability=probability).sum())

    def accepted(rate: float) -> bool:
        return bool(stats.binomtest(drawn, N, min(rate, 1.0)).pvalue > 6e-7)

    assert accepted(probability)
    assert not accepted(probability * 2 / 3)
    assert not accepted(probability * 3 / 2)


def test_secret_bytes_are_uniform() -> None:
    """Null: each of 1,600,000 bytes is uniform on 256 values; chi-squared with 255 degrees, false alarms 6e-7.

    A byte with a probability wrong by 20 % is found with power > .99; the negative control is just that.
    """
    counts = np.bincount(np.frombuffer(secret_bytes(1_600_000), dtype=np.uint8), minlength=256)
    assert stats.chisquare(counts).pvalue > 6e-7
    counts[0] += counts.sum() // 1280
    assert stats.chisquare(counts, np.full(256, counts.sum() / 256)).pvalue < 6e-7


def test_the_popularity_count_carries_the_noise_of_the_plan() -> None:
    """Null: count minus the exact count is N(0, multiplier^2) in each of 20,000 items.

    False alarms 6e-7; negative controls 2/3 and 3/2.
    """
    histories = pl.Series([[0, 1, 2, 3], [5]], dtype=pl.List(pl.Int32))
    plan = silo_plan(popularity_noise_multiplier=3.0)
    exact = count_items(histories, num_items=20_000)
    counts = noised(exact, stddev=plan.release_stddev(plan.release("popularity")), source=_source("popularity")).astype(
        np.float64
    )
    counts[:4] -= 0.5
    counts[5] -= 1.0
    assert _variance_is(counts, 3.0)
    assert _is_normal(counts, 3.0)
    for wrong in (2.0, 4.5):
        assert not _variance_is(counts, wrong)
        assert not _is_normal(counts, wrong)
