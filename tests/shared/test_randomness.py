"""The two sources of randomness: what repeats, what never does. Distributions: `tests/statistical`."""

from __future__ import annotations

import math
import os
from decimal import Decimal, localcontext

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import ConfigError
from shared.randomness import (
    LARGEST_SKELLAM_VARIANCE,
    LARGEST_TABLE_VARIANCE,
    SKELLAM_TOTAL_VARIATION,
    NoiseSource,
    derive,
    replayable_source,
    secret_bytes,
    secret_source,
)

LABELS = st.lists(st.integers(0, 5) | st.sampled_from(["a", "b", "windows"]), max_size=3).map(tuple)


@given(st.integers(0, 3), LABELS, st.integers(0, 3), LABELS)
def test_derive_repeats_for_equal_labels_and_differs_for_others(
    seed: int, labels: tuple[int | str, ...], other_seed: int, other_labels: tuple[int | str, ...]
) -> None:
    same = (seed, labels) == (other_seed, other_labels)
    a, b = derive(seed, *labels).random(4), derive(other_seed, *other_labels).random(4)
    assert np.array_equal(a, b) is same


def test_a_number_and_the_same_digits_as_text_are_different_labels() -> None:
    assert derive(0, 1).random() != derive(0, "1").random()
    assert derive(0, 1, 23).random() != derive(0, 12, 3).random()


def _draws(source: NoiseSource) -> tuple[bytes, ...]:
    return (
        source.gaussian(50, stddev=1.0).tobytes(),
        source.skellam(50, variance=1e6).tobytes(),
        source.bernoulli(200, probability=0.5).tobytes(),
        source.generator().bytes(32),
        source.words32(50).tobytes(),
    )


def test_a_replayable_source_repeats_and_depends_on_every_label() -> None:
    first = _draws(replayable_source(1, 2, 3))
    assert _draws(replayable_source(1, 2, 3)) == first
    for other in (replayable_source(2, 2, 3), replayable_source(1, 3, 3), replayable_source(1, 2, 4)):
        assert not set(_draws(other)) & set(first)
    source = replayable_source(1, 2, 3)
    assert not set(_draws(source)) & set(_draws(source))


def test_a_secret_source_never_repeats_and_ignores_every_seed() -> None:
    np.random.seed(0)
    first = _draws(secret_source())
    np.random.seed(0)
    second = _draws(secret_source())
    assert not set(first) & set(second)
    source = secret_source()
    assert not set(_draws(source)) & set(_draws(source))


@pytest.mark.parametrize(("size", "stddev"), [(0, 1.0), (5, 0.0)])
def test_no_noise_is_exactly_zero(size: int, stddev: float) -> None:
    noise = secret_source().gaussian(size, stddev=stddev)
    assert noise.dtype == np.float32
    np.testing.assert_array_equal(noise, np.zeros(size))


@pytest.mark.parametrize(("probability", "expected"), [(0.0, 0), (1.0, 1000)])
def test_certain_coins_are_certain(probability: float, expected: int) -> None:
    assert secret_source().bernoulli(1000, probability=probability).sum() == expected


def test_extreme_random_bytes_give_finite_noise() -> None:
    """All bits 0 and all bits 1 are the ends of the uniform range, where a logarithm may be infinite."""
    for byte in (b"\x00", b"\xff"):
        source = NoiseSource("secret", lambda size, byte=byte: byte * size)
        assert np.isfinite(source.gaussian(8, stddev=1.0)).all()


def test_coins_may_have_a_probability_each() -> None:
    probability = np.array([0.0, 1.0] * 50)
    np.testing.assert_array_equal(secret_source().bernoulli(100, probability=probability), probability == 1.0)


@pytest.mark.parametrize("size", [0, 1, 33])
def test_words_of_32_bits_take_all_bits_of_four_bytes_each(size: int) -> None:
    stream = bytes((7 * i) % 256 for i in range(4 * size))
    asked: list[int] = []

    def random_bytes(count: int) -> bytes:
        asked.append(count)
        return stream[:count]

    words = NoiseSource("replayable", random_bytes).words32(size)
    assert words.dtype == np.uint32
    assert words.tolist() == [int.from_bytes(stream[4 * i : 4 * i + 4], "little") for i in range(size)]
    assert asked == [4 * size]


@pytest.mark.parametrize("size", [0, 1, 15, 16, 17, 100_000])
def test_secret_bytes_are_as_many_as_asked_for_and_never_the_same(size: int) -> None:
    first, second = secret_bytes(size), secret_bytes(size)
    assert len(first) == len(second) == size
    blocks = [stream[start : start + 16] for stream in (first, second) for start in range(0, size - 15, 16)]
    assert len(set(blocks)) == len(blocks)


def _draws_after_a_fork(source: NoiseSource) -> tuple[bytes, bytes]:
    """What the parent and the child draw; both begin with whatever the source remembers of earlier draws."""
    _draws(source)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:  # nothing of pytest may run here, whatever happens
        try:
            os.write(writer, b"".join(_draws(source)))
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        in_child = pipe.read()
    os.waitpid(child, 0)
    return b"".join(_draws(source)), in_child


def test_two_processes_never_draw_the_same_secret_stream() -> None:
    """The negative control is a replayable source, which does repeat itself in a child."""
    in_parent, in_child = _draws_after_a_fork(replayable_source(0, "fork"))
    assert in_parent == in_child
    in_parent, in_child = _draws_after_a_fork(secret_source())
    assert len(in_parent) == len(in_child)
    # Of 400 bytes of skellam noise about a third are random; of 200 of Gaussian noise nearly all.
    assert in_parent[:200] != in_child[:200]
    assert in_parent[200:600] != in_child[200:600]
    assert in_parent[600:] != in_child[600:]


def _magnitude(uniform: int, variance: float, *, sign: bytes = b"\x00") -> int:
    """One Skellam value for a uniform number of 128 bits: the high half is read first, the low one on a tie."""
    halves = iter([uniform >> 64, uniform % 2**64])
    source = NoiseSource("replayable", lambda size: next(halves).to_bytes(8, "little") if size == 8 else sign)
    return int(source.skellam(1, variance=variance)[0])


def _tail(order: int, variance: float) -> int:
    """P(|K| >= order) * 2**128: the number of uniforms for which the magnitude is that large."""
    low, high = 0, 2**128
    while low < high:
        middle = (low + high) // 2
        low, high = (middle + 1, high) if _magnitude(middle, variance) >= order else (low, middle)
    return low


def _exact_pmf(order: int, variance: float) -> Decimal:
    """exp(-v) I_k(v) by its power series, whose terms are all positive."""
    half = Decimal(variance) / 2
    term = half**order / math.factorial(order)
    total = Decimal(0)
    for index in range(1, 10_000):
        total += term
        term = term * half * half / (index * (index + order))
        if term < total * Decimal("1e-60"):
            return total * (-Decimal(variance)).exp()
    raise AssertionError


@pytest.mark.parametrize("variance", [1e-3, 0.5, 7.3, 200.0])
def test_skellam_noise_is_exact_up_to_the_stated_bound(variance: float) -> None:
    with localcontext() as context:
        context.prec = 70
        probabilities = [2 * _exact_pmf(order, variance) for order in range(1, int(14 * math.sqrt(variance)) + 40)]
        exact = Decimal(0)
        for order in range(len(probabilities), 0, -1):
            exact += probabilities[order - 1]
            assert abs(Decimal(_tail(order, variance)) / 2**128 - exact) < Decimal(SKELLAM_TOTAL_VARIATION)


@pytest.mark.parametrize(("variance", "tolerance"), [(1e6, "1e-18"), (1e10, "1e-27")])
def test_skellam_probabilities_are_exact_at_large_variances(variance: float, tolerance: str) -> None:
    """Against the uniform expansion of Bessel functions (DLMF 10.41.3) to second order; the third is the tolerance."""
    with localcontext() as context:
        context.prec = 60
        two_pi = Decimal("6.283185307179586476925286766559005768394338798750211641949889")
        for deviations in (0, 0.5, 2, 4):
            k, v = Decimal(int(deviations * math.sqrt(variance)) or 1), Decimal(variance)
            s = (k * k + v * v).sqrt()
            p = k / s
            series = 1 + (3 - 5 * p**2) / (24 * s) + (81 - 462 * p**2 + 385 * p**4) / (1152 * s**2)
            pmf = (s - v - k * (k / v + s / v).ln()).exp() / (two_pi * s).sqrt() * series
            order = int(k)
            drawn = Decimal(_tail(order, variance) - _tail(order + 1, variance)) / 2**128
            assert abs(drawn / (2 * pmf) - 1) < Decimal(tolerance)


def test_skellam_signs_are_coins_of_their_own() -> None:
    uniform = 2**127
    positive, negative = _magnitude(uniform, 1e4, sign=b"\x00"), _magnitude(uniform, 1e4, sign=b"\xff")
    assert positive == -negative > 0


def test_extreme_random_bytes_give_skellam_noise_within_its_table() -> None:
    """All bits 0 is the rarest value, beyond 10 standard deviations; all bits 1 is zero."""
    assert 10_000 < _magnitude(0, 1e6) < 12_500
    assert _magnitude(2**128 - 1, 1e6) == 0


def test_skellam_noise_beyond_one_table_is_a_sum_of_draws() -> None:
    calls: list[int] = []

    def random_bytes(size: int) -> bytes:
        calls.append(size)
        return b"\x55" * size

    source = NoiseSource("replayable", random_bytes)
    one = source.skellam(8, variance=LARGEST_TABLE_VARIANCE)
    three = source.skellam(8, variance=3 * LARGEST_TABLE_VARIANCE)
    assert len(calls) == 2 + 3 * 2
    np.testing.assert_array_equal(three, 3 * one)


@pytest.mark.parametrize(("size", "variance"), [(0, 1.0), (5, 0.0), (5, 1e-300)])
def test_no_skellam_noise_is_exactly_zero(size: int, variance: float) -> None:
    noise = secret_source().skellam(size, variance=variance)
    assert noise.dtype == np.int64
    np.testing.assert_array_equal(noise, np.zeros(size))


@pytest.mark.parametrize("variance", [-1.0, math.nan, math.inf, 2 * LARGEST_SKELLAM_VARIANCE])
def test_a_skellam_variance_out_of_range_is_refused(variance: float) -> None:
    with pytest.raises(ConfigError, match=r"Expected variance in \[0, 1e\+12\], got variance="):
        secret_source().skellam(3, variance=variance)
