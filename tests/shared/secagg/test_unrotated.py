"""Encodings without a rotation: exact sensitivity, sums that are right to a step each, and few values that stay few."""

from __future__ import annotations

import math
import os
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from client.contribution import bounded
from shared.errors import ConfigError
from shared.randomness import replayable_source
from shared.secagg.encoding import MIN_SENSITIVITY, ROUNDING_MARGIN, Bounded, RingEncoding
from tests.alone import encode, encode_rows
from tests.oracles import ring_sum

SEED = int.from_bytes(os.urandom(4), "little") if os.environ.get("TACIT_FRESH_SEEDS") else 0
Z = 5.0  # two-sided false-alarm rate 6e-7 for a normal statistic
ANY_FLOAT = st.floats(width=32, allow_nan=True, allow_infinity=True)


def _encoding(size: int, **changes: Any) -> RingEncoding:
    settings = {"l2_bound": 1.0, "noise_multiplier": 3.0, "num_summands": 50, "seed": 0, "rotated": False}
    return RingEncoding.choose(size=size, **{**settings, **changes})


def _centered(ring: NDArray[np.uint32], encoding: RingEncoding) -> list[int]:
    half = 1 << (encoding.bits - 1)
    return [(int(value) + half) % (1 << encoding.bits) - half for value in ring]


def _encoded(vector: NDArray[Any], encoding: RingEncoding) -> NDArray[np.uint32]:
    return encode(encoding, vector, replayable_source(SEED, "unused"))


def _vectors(size: int, number: int, *, longest: float = 1.0, seed: int = 0) -> NDArray[np.float32]:
    """Directions of all lengths up to `longest`, the longest among them."""
    rng = np.random.default_rng([SEED, seed])
    drawn = rng.normal(size=(number, size))
    lengths = longest * np.linspace(1.0, 0.0, number)[:, None]
    return (drawn / np.linalg.norm(drawn, axis=1, keepdims=True) * lengths * (1 - 2**-20)).astype(np.float32)


@settings(max_examples=200)
@given(st.lists(ANY_FLOAT, min_size=1, max_size=20), st.sampled_from([1e-6, 0.3, 1.0, 1e6]))
def test_guarantee_an_encoded_vector_is_an_integer_vector_of_l2_norm_within_the_sensitivity_exactly(
    values: list[float], l2_bound: float
) -> None:
    encoding = _encoding(len(values), l2_bound=l2_bound)
    integers = _centered(_encoded(np.array(values, dtype=np.float32), encoding), encoding)
    assert sum(value**2 for value in integers) <= Fraction(encoding.l2_sensitivity) ** 2
    if not np.isfinite(np.array(values, dtype=np.float32)).all():
        assert integers == [0] * encoding.dimension


@settings(max_examples=100)
@given(st.integers(1, 300), st.floats(0.1, 1e6), st.integers(0, 1000))
def test_a_long_vector_is_within_the_sensitivity_too(size: int, length: float, seed: int) -> None:
    encoding = _encoding(size)
    for vector in _vectors(size, 5, longest=length, seed=seed):
        integers = _centered(_encoded(vector, encoding), encoding)
        assert sum(value**2 for value in integers) <= Fraction(encoding.l2_sensitivity) ** 2


def test_many_equal_values_at_the_bound_are_not_rounded_beyond_it() -> None:
    """Rounded to the nearest, 4,733 values of 14.5 steps would be half a step longer each, and their norm by 3 %."""
    for size in range(4700, 4800, 11):
        encoding = _encoding(size)
        integers = _centered(_encoded(np.full(size, size**-0.5), encoding), encoding)
        assert 0.9 * encoding.scale < math.sqrt(sum(value**2 for value in integers)) <= encoding.l2_sensitivity


@pytest.mark.parametrize(("size", "number"), [(1, 50), (7, 3), (8, 50), (100, 50), (5000, 20)])
def test_a_decoded_sum_is_within_a_step_a_summand_of_the_sum(size: int, number: int) -> None:
    """Rounding is towards zero, by less than a step each; no vector is clipped here. Equal ones do not wrap around."""
    encoding = _encoding(size)
    for vectors in (_vectors(size, number), np.repeat(_vectors(size, 1), number, axis=0)):
        ring = ring_sum(encode_rows(encoding, vectors, [replayable_source(SEED, "unused")] * number), encoding.bits)
        exact = vectors.astype(np.float64).sum(axis=0)
        off = np.abs(encoding.decode(ring) - exact) * encoding.scale
        assert off.max() < number * (1 + 1e-9)
        assert encoding.decode(ring).shape == (size,)


def test_a_sum_of_one_coordinate_at_the_bound_by_all_and_seven_standard_deviations_of_noise_fits_the_ring() -> None:
    """The worst case without a rotation; with one more than the room for noise it would wrap around."""
    encoding = _encoding(3)
    ring = ring_sum([_encoded(np.array([1.0, 0.0, 0.0]), encoding)] * encoding.num_summands, encoding.bits)
    noise = math.floor(6.9 * math.sqrt(encoding.noise_variance))
    for sign in (1, -1):
        noised = encoding.add(ring, encoding.to_ring(np.full(encoding.dimension, sign * noise, dtype=np.int64)))
        expected = np.array([50.0, 0.0, 0.0]) + sign * noise / encoding.scale
        np.testing.assert_allclose(encoding.decode(noised), expected, atol=51 / encoding.scale)


@settings(max_examples=200)
@given(st.integers(0, 2**32 - 1), st.integers(1, 400), st.floats(1e-3, 50.0), st.data())
def test_few_values_are_encoded_as_the_whole_vector_is(seed: int, size: int, length: float, data: st.DataObject) -> None:
    encoding = _encoding(size)
    rng = np.random.default_rng(seed)
    places = np.sort(rng.choice(size, size=data.draw(st.integers(0, min(size, 30))), replace=False))
    values = rng.normal(size=len(places))
    values *= length / max(float(np.linalg.norm(values)), 1e-9)
    whole = np.zeros(size)
    whole[places] = values
    encoded = _encoded(whole, encoding)
    np.testing.assert_array_equal(encoding.encode_sparse(bounded(values[np.newaxis], l2_bound=1.0)), encoded[places])
    assert not np.delete(encoded, places).any()


@given(st.lists(ANY_FLOAT, max_size=20))
def test_guarantee_few_values_are_integers_of_l2_norm_within_the_sensitivity_exactly(values: list[float]) -> None:
    encoding = _encoding(100)
    ring = encoding.encode_sparse(bounded(np.array(values, dtype=np.float64)[np.newaxis], l2_bound=1.0))
    integers = _centered(ring, encoding)
    assert sum(value**2 for value in integers) <= Fraction(encoding.l2_sensitivity) ** 2


@pytest.mark.parametrize("longer", [1.01, 1.2, 1.3, 1e3, 1e30, math.nan, math.inf])
@pytest.mark.parametrize("size", [1, 7, 5_000])
def test_guarantee_a_vector_that_is_longer_than_it_says_is_within_the_sensitivity_without_a_rotation_too(
    size: int, longer: float
) -> None:
    encoding = _encoding(size)
    honest = _vectors(size, 1)
    forged = Bounded(honest * np.float32(longer), 1.0)
    (ring,), few = encoding.encode_rows(forged, [replayable_source(SEED)]), encoding.encode_sparse(forged)
    np.testing.assert_array_equal(ring[:size], few)
    assert sum(value**2 for value in _centered(ring, encoding)) <= Fraction(encoding.l2_sensitivity) ** 2
    assert longer == 1.01 or not ring.any()
    assert encoding.encode_rows(Bounded(honest, 1.0), [replayable_source(SEED)]).any()


def test_rounding_towards_zero_draws_nothing() -> None:
    """Time and randomness tell nothing of the values: a source that was used gives the same numbers as a fresh one."""
    encoding, source = _encoding(64), replayable_source(SEED, "a")
    encode_rows(encoding, _vectors(64, 4), [source] * 4)
    np.testing.assert_array_equal(encoding.noise(source), encoding.noise(replayable_source(SEED, "a")))


@pytest.mark.parametrize("share", [1.0, 0.2])
def test_the_noise_of_an_encoding_without_a_rotation_has_the_variance_of_the_plan(share: float) -> None:
    """Null: variance share * (multiplier * sensitivity)^2 in each of 16,384 whole numbers, whose sum of squares is nearly
    normal (Skellam noise of so many steps has next to no excess kurtosis).

    False alarms 6e-7; a scale wrong by 3 % is found with power > .6. Negative controls: 2/3 and 3/2 of the scale.
    """
    encoding = _encoding(16_384)
    noise = np.array(_centered(encoding.noise(replayable_source(SEED, "noise", share), share=share), encoding))

    def is_of(stddev: float) -> bool:
        excess = np.square(noise / stddev).sum() - noise.size
        return bool(abs(excess) < Z * math.sqrt(2 * noise.size))

    promised = 3.0 * encoding.l2_sensitivity * math.sqrt(share)
    assert is_of(promised)
    assert not is_of(promised * 2 / 3)
    assert not is_of(promised * 3 / 2)
    assert encoding.noise_stddev == pytest.approx(3.0 * (1 + ROUNDING_MARGIN), rel=1e-12)


@pytest.mark.parametrize("num_summands", [1, 1000, 1_000_000])
@pytest.mark.parametrize("noise_multiplier", [0.0, 0.5, 20.0])
@pytest.mark.parametrize("size", [1000, 400_000])
def test_steps_are_fine_enough_for_the_noise_in_every_ring(size: int, noise_multiplier: float, num_summands: int) -> None:
    encoding = _encoding(size, noise_multiplier=noise_multiplier, num_summands=num_summands)
    assert encoding.l2_sensitivity >= MIN_SENSITIVITY
    assert encoding.dimension <= (encoding.l2_sensitivity / 80) ** 4  # what the accountant relies on
    room = num_summands * encoding.l2_bound * encoding.scale + 7 * math.sqrt(encoding.noise_variance)
    assert room <= 2 ** (encoding.bits - 1) * (1 + 1e-9)


def test_a_sum_that_fits_no_ring_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"Expected a sum that fits a ring of 32 bits .* got size=10, .*num_summands=100000000"
    ):
        _encoding(10, num_summands=100_000_000)


@pytest.mark.parametrize("size", [1, 8, 13, 1000])
def test_ring_vectors_without_a_rotation_are_packed_and_unpacked_unchanged(size: int) -> None:
    encoding = _encoding(size)
    rng = np.random.default_rng(SEED)
    ring = rng.integers(0, 1 << encoding.bits, size=encoding.dimension).astype(np.uint32)
    packed = encoding.pack(ring)
    assert packed.shape == (encoding.packed_bytes,)
    np.testing.assert_array_equal(encoding.unpack(packed), ring)
