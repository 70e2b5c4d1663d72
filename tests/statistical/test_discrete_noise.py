"""Statistical tests of integer noise and random rounding, with negative controls: 2/3 and 3/2 of a scale must be rejected.

The replayable source makes them repeat exactly; set TACIT_FRESH_SEEDS=1 for seeds from the system. Exactness of the
probabilities themselves: `tests/shared/test_randomness.py`.
"""

from __future__ import annotations

import dataclasses
import math
import os

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from client.contribution import in_the_ring
from client.statistics.sparse import SparseRows
from server.aggregation import RingSum
from shared.randomness import LARGEST_SKELLAM_VARIANCE, NoiseSource, replayable_source, secret_source
from shared.secagg.encoding import ROUNDING_DRAWS, ROUNDING_MARGIN, RingEncoding
from tests.alone import encode
from tests.oracles import hadamard_matrix, ring_sum
from tests.plans import distributed_plan

N = 40_000
Z = 5.0  # two-sided false-alarm rate 6e-7 for a normal statistic
ALARM = 6e-7


def _source(label: str) -> NoiseSource:
    seed = int.from_bytes(os.urandom(4), "little") if os.environ.get("TACIT_FRESH_SEEDS") else 0
    return replayable_source(seed, label)


def _variance_is(sample: NDArray[np.integer], variance: float) -> bool:
    """The sum of squares over the variance has mean n and variance n (2 + 1/v): the fourth cumulant is v."""
    total = np.square(sample.astype(np.float64)).sum() / variance
    return bool(abs(total - sample.size) < Z * math.sqrt(sample.size * (2 + 1 / variance)))


def _has_pmf(sample: NDArray[np.integer], variance: float) -> bool:
    """G-test against scipy's probabilities; cells with fewer than 10 expected are pooled into the two tails."""
    edge = 0
    while sample.size * stats.skellam.sf(edge, variance / 2, variance / 2) >= 10:
        edge += 1
    values = np.arange(-edge, edge + 1)
    expected = stats.skellam.pmf(values, variance / 2, variance / 2) * sample.size
    expected[[0, -1]] = stats.skellam.sf(edge - 1, variance / 2, variance / 2) * sample.size
    observed = np.bincount(np.clip(sample, -edge, edge) + edge, minlength=len(values))
    g = stats.power_divergence(observed, expected * (sample.size / expected.sum()), lambda_="log-likelihood")
    return bool(g.pvalue > ALARM)


def _is_normal(sample: NDArray[np.integer], variance: float) -> bool:
    return bool(stats.kstest(sample / math.sqrt(variance), "norm").pvalue > ALARM)


@pytest.mark.parametrize("secret", [False, True], ids=["replayable", "secret"])
@pytest.mark.parametrize("variance", [0.5, 30.0, 1e6, 5.6e9])
def test_skellam_noise_has_the_variance_that_was_asked_for(variance: float, secret: bool) -> None:
    """Null: the variance. n = 40,000; false alarms 6e-7; a scale wrong by 6 % is found with power > .99."""
    source = secret_source() if secret else _source(f"variance {variance}")
    sample = source.skellam(N, variance=variance)
    assert _variance_is(sample, variance)
    for wrong in (2 / 3, 3 / 2, 1.06, 1 / 1.06):
        assert not _variance_is(sample, variance * wrong**2)
    assert abs(sample.mean()) < Z * math.sqrt(variance / N)


@pytest.mark.parametrize("variance", [0.05, 0.5, 4.0, 60.0])
def test_skellam_noise_has_the_probabilities_of_a_difference_of_poissons(variance: float) -> None:
    """Null: scipy's Skellam probabilities, G-test without a fitted parameter. n = 40,000; false alarms 6e-7.

    Negative controls: 2/3 and 3/2 of the scale and, where it differs by enough to be seen, a rounded Gaussian of the same
    variance (power > .99).
    """
    sample = _source(f"pmf {variance}").skellam(N, variance=variance)
    assert _has_pmf(sample, variance)
    assert not _has_pmf(sample, variance * (2 / 3) ** 2)
    assert not _has_pmf(sample, variance * (3 / 2) ** 2)
    if variance < 1:
        rounded = np.rint(np.random.default_rng(0).normal(scale=math.sqrt(variance), size=N)).astype(np.int64)
        assert not _has_pmf(rounded, variance)


@pytest.mark.parametrize("variance", [1e6, 5.6e9, 3e10])
def test_skellam_noise_of_many_steps_is_normal(variance: float) -> None:
    """Null: N(0, variance), Kolmogorov-Smirnov: a step is 1e-3 of a standard deviation or less.

    False alarms 6e-7. Negative controls: 2/3 and 3/2 of the scale, and a Laplace distribution (power > .99).
    """
    sample = _source(f"normality {variance}").skellam(N, variance=variance)
    assert _is_normal(sample, variance)
    assert not _is_normal(sample, variance * (2 / 3) ** 2)
    assert not _is_normal(sample, variance * (3 / 2) ** 2)
    assert not _is_normal(np.random.default_rng(0).laplace(scale=math.sqrt(variance / 2), size=N), variance)
    # The tails, where a short table would cut off: 18.6 are expected beyond 3.5.
    assert 3 <= (np.abs(sample) > 3.5 * math.sqrt(variance)).sum() <= 45


def test_skellam_values_and_their_signs_are_independent() -> None:
    """Null: correlation 0 of values and of squares, each normal with stddev 1/sqrt(n), n = 40,000.

    False alarms 6e-7 each. Negative controls: a draw plus half of the other, and one draw with other signs.
    """
    source = _source("independence")
    a, b = (source.skellam(N, variance=1e4).astype(np.float64) for _ in range(2))

    def independent(x: NDArray[np.floating], y: NDArray[np.floating]) -> bool:
        pairs = [(x, y), (np.square(x), np.square(y)), (np.sign(x), np.abs(y))]
        return all(abs(np.corrcoef(u, v)[0, 1]) < Z / math.sqrt(len(u)) for u, v in pairs)

    assert independent(a, b)
    for lag in (1, 2, 8, N // 2):
        assert independent(a[lag:], a[:-lag])
    assert abs(np.corrcoef(np.sign(a), np.abs(a))[0, 1]) < Z / math.sqrt(N)
    assert not independent(a, b + 0.5 * a)
    assert not independent(a, a * np.where(source.bernoulli(N, probability=0.5), 1.0, -1.0))


@pytest.mark.parametrize("shares", [3, 50])
def test_shares_of_skellam_noise_add_up_to_the_whole(shares: int) -> None:
    """Null: the sum of n shares of variance v/n has the probabilities of variance v = 4; G-test and variance.

    False alarms 6e-7 each. Negative controls: each share with the whole variance, one share too few of three, one too many.
    """
    source = _source(f"shares {shares}")
    total = sum(source.skellam(N, variance=4.0 / shares) for _ in range(shares))
    assert _has_pmf(total, 4.0)
    assert _variance_is(total, 4.0)
    forgotten = total + sum(source.skellam(N, variance=4.0 - 4.0 / shares) for _ in range(shares))
    assert not _variance_is(forgotten, 4.0)
    for wrong in (total + source.skellam(N, variance=4.0 / 3), source.skellam(N, variance=4.0 * 2 / 3)):
        assert not _variance_is(wrong, 4.0)
        assert not _has_pmf(wrong, 4.0)


def test_noise_shares_of_all_clients_give_the_decoded_sum_the_noise_of_the_plan() -> None:
    """Null: N(0, (multiplier * C * (1 + margin))^2) in every coordinate of a sum of 20 encodings and shares. n = 40,000.

    False alarms 6e-7. Rounding adds 20/12 of a step to a variance of 5e9. Negative controls: 2/3 and 3/2, a whole
    share from every client, and no noise.
    """
    encoding = RingEncoding.choose(size=N, l2_bound=0.5, noise_multiplier=3.0, num_summands=20, seed=7)
    source = _source("plan")
    update = np.random.default_rng(0).normal(size=N).astype(np.float32)
    update *= 0.4 / np.linalg.norm(update)
    parts = []
    for _ in range(20):
        parts += [encode(encoding, update, source), encoding.noise(source, share=1 / 20)]
    stddev = 3.0 * 0.5 * (1 + ROUNDING_MARGIN)

    def accepted(error: NDArray[np.float64], stddev: float) -> bool:
        statistic = (np.square(error / stddev).sum() - N) / math.sqrt(2 * N)
        return bool(abs(statistic) < Z) and bool(stats.kstest(error / stddev, "norm").pvalue > ALARM)

    error = encoding.decode(ring_sum(parts, encoding.bits)) - 20 * update
    assert accepted(error, stddev)
    assert not accepted(error, stddev * 2 / 3)
    assert not accepted(error, stddev * 3 / 2)
    whole = ring_sum([encoding.noise(source) for _ in range(20)], encoding.bits)
    assert not accepted(encoding.decode(whole), stddev)
    assert not accepted(encoding.decode(ring_sum(parts[::2], encoding.bits)) - 20 * update, stddev)


@pytest.mark.parametrize("sparse", [True, False])
@pytest.mark.parametrize("secret", [True, False], ids=["secret", "replayable"])
@pytest.mark.parametrize("together", [True, False], ids=["one draw", "a draw each"])
@pytest.mark.parametrize("answers", [5, 7])
def test_guarantee_shares_that_are_drawn_as_their_sum_have_the_probabilities_of_shares_that_are_drawn_one_by_one(
    answers: int, together: bool, secret: bool, sparse: bool
) -> None:
    """Null: Skellam of variance answers / 5 times the plan's 4 in each of 40,000 integers; G-test and variance.

    False alarms 6e-7 each. Negative controls: one answer's share more or less, the plan's noise whoever answered (of seven),
    and 2/3 and 3/2 of the scale.
    """
    plan = distributed_plan(minimum_survivors=5, statistics="popularity,pairs", pairs_noise_multiplier=0.001766)
    encoding = plan.release_encoding(plan.release("pairs"), N, sparse=True)
    shared = secret_source() if secret else _source(f"together {answers} {sparse}")
    own = [secret_source() if secret else _source(f"apart {sparse} {client}") for client in range(answers)]
    vectors = SparseRows.empty(N, answers) if sparse else np.zeros((answers, N))
    total = RingSum(encoding)
    for reply in in_the_ring(vectors, encoding, plan=plan, sources=[shared] * answers if together else own):
        total.add(reply.values)
    assert total.count == answers
    half = 1 << (encoding.bits - 1)
    sample = (total.total.astype(np.int64) + half) % (1 << encoding.bits) - half
    share = encoding.noise_variance / 5
    assert 3.9 < encoding.noise_variance < 4.1
    wrong = [share * (answers - 1), share * (answers + 1), *(share * answers * scale**2 for scale in (2 / 3, 3 / 2))]
    wrong += [encoding.noise_variance] if answers == 7 else []
    for accepted in (_has_pmf, _variance_is):
        assert accepted(sample, share * answers)
        assert not any(accepted(sample, other) for other in wrong)


def test_shares_whose_sum_is_beyond_the_largest_noise_are_drawn_in_parts_that_add_up_to_it() -> None:
    """Null: normal of the whole variance, which one draw is refused; false alarms 6e-7, negative controls 2/3 and 3/2."""
    encoding = RingEncoding.choose(size=N, l2_bound=1.0, noise_multiplier=790.0, num_summands=4, seed=0, rotated=False)
    variance = 3 * encoding.noise_variance
    assert encoding.noise_variance < LARGEST_SKELLAM_VARIANCE < variance
    ring = encoding.noise(_source("in parts"), shares=3).astype(np.int64)
    half = 1 << (encoding.bits - 1)
    sample = (ring + half) % (1 << encoding.bits) - half
    assert _is_normal(sample, variance)
    assert not _is_normal(sample, variance * (2 / 3) ** 2)
    assert not _is_normal(sample, variance * (3 / 2) ** 2)


def _rotation(encoding: RingEncoding) -> NDArray[np.float64]:
    """The matrix that `encode` applies, from one made elsewhere and the signs that decoding a unit vector shows."""
    first = np.zeros(encoding.dimension, dtype=np.uint32)
    first[0] = 1
    return hadamard_matrix(encoding.dimension) / math.sqrt(encoding.dimension) * np.sign(encoding.decode(first))


def test_encoding_is_unbiased() -> None:
    """Null: rounding has mean zero in each of 64 rotated coordinates, variance at most 1/4, over n = 4,000 encodings.

    64 two-sided alarms of 6e-7. A bias of 1/10 of a step is found with power > .99. Negative controls: rounding
    down, to nearest and towards zero.
    """
    encoding = RingEncoding.choose(size=64, l2_bound=1.0, noise_multiplier=50.0, num_summands=4_000, seed=3)
    source = _source("unbiased")
    update = np.random.default_rng(1).normal(size=64).astype(np.float32)
    update *= 0.9 / np.linalg.norm(update)
    rotation = _rotation(encoding)
    exact = rotation @ update * encoding.scale

    def unbiased(mean: NDArray[np.float64]) -> bool:
        return bool((np.abs(mean - exact) < Z * 0.5 / math.sqrt(4_000)).all())

    total = ring_sum((encode(encoding, update, source) for _ in range(4_000)), encoding.bits)
    assert unbiased(rotation @ encoding.decode(total) * encoding.scale / 4_000)
    for wrong in (np.floor, np.rint, np.trunc):
        assert not unbiased(wrong(exact))


def test_rounding_in_a_ring_that_is_just_fine_enough_stays_within_bounds_more_often_than_not() -> None:
    """Null, to be rejected: a draw is within the bound with probability 1/2 or less. 400 encodings at the bound.

    Under it fewer than 500 draws in all have a probability below 1e-20; about 412 are expected, and 500 at a probability
    of .8 (power > .99 for .9 and more). Negative control: steps eight times as coarse, where no draw is within the bound.
    """
    dimension = 4_096
    # The largest noise that 20 bits still take: bisection on the public choice.
    low, high = 1.0, 100.0
    while high - low > 1e-3:
        middle = (low + high) / 2
        chosen = RingEncoding.choose(size=dimension, l2_bound=1.0, noise_multiplier=middle, num_summands=1, seed=0)
        low, high = (middle, high) if chosen.bits == 20 else (low, middle)
    encoding = RingEncoding.choose(size=dimension, l2_bound=1.0, noise_multiplier=low, num_summands=1, seed=0)
    update = np.random.default_rng(2).normal(size=dimension).astype(np.float32)
    inner, draws = _source("redraws"), 0

    def counted(size: int) -> bytes:
        nonlocal draws
        draws += 1
        return inner._random_bytes(size)

    source = NoiseSource("replayable", counted)
    for _ in range(400):
        encode(encoding, update, source)
    assert 400 <= draws < 500
    coarse = dataclasses.replace(encoding, scale=encoding.scale / 8)
    draws = 0
    encode(coarse, update, source)
    assert draws == ROUNDING_DRAWS


@pytest.mark.parametrize("stddev", [1.0, 3.7, 80.0])
def test_a_rounded_gaussian_has_the_probabilities_of_the_cells_that_it_is_rounded_to(stddev: float) -> None:
    """Null: differences of the normal distribution function, G-test without a fitted parameter. n = 40,000.

    False alarms 6e-7; negative controls 2/3 and 3/2 of the scale, and a shift by half a step (power > .99 for small scales).
    """
    sample = _source(f"rounded {stddev}").rounded_gaussian(N, stddev=stddev)

    def has_cells(scale: float, shift: float = 0.0) -> bool:
        edge = max(1, int(3 * scale))
        bounds = np.concatenate([[-np.inf], np.arange(-edge, edge + 1) + 0.5 + shift, [np.inf]])
        expected = np.diff(stats.norm.cdf(bounds, scale=scale)) * N
        observed = np.bincount(np.clip(sample, -edge, edge + 1) + edge, minlength=len(expected))
        return bool(stats.power_divergence(observed, expected, lambda_="log-likelihood").pvalue > ALARM)

    assert has_cells(stddev)
    assert not has_cells(stddev * 2 / 3)
    assert not has_cells(stddev * 3 / 2)
    if stddev < 10:
        assert not has_cells(stddev, shift=0.5)


@pytest.mark.parametrize("stddev", [1e3, 16384.0])
def test_a_rounded_gaussian_of_many_steps_is_normal(stddev: float) -> None:
    """Null: N(0, stddev^2), Kolmogorov-Smirnov; false alarms 6e-7; negative controls 2/3 and 3/2 of the scale."""
    sample = _source(f"rounded normality {stddev}").rounded_gaussian(N, stddev=stddev)
    assert _is_normal(sample, stddev**2)
    assert not _is_normal(sample, (stddev * 2 / 3) ** 2)
    assert not _is_normal(sample, (stddev * 3 / 2) ** 2)
    assert 3 <= (np.abs(sample) > 3.5 * stddev).sum() <= 45
