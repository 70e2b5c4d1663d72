"""Ring encodings: exact sums, exact sensitivity, there and back. Distributions: `tests/statistical`."""

from __future__ import annotations

import dataclasses
import math
import os
import random
import subprocess
import sys
import warnings
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from shared.errors import ConfigError, ProtocolViolation, SensitivityError
from shared.randomness import NoiseSource, derive, replayable_source
from shared.secagg.encoding import (
    HEADROOM,
    LARGEST_SENSITIVITY,
    MIN_SENSITIVITY,
    ROUNDING_DRAWS,
    ROUNDING_MARGIN,
    Bounded,
    RingEncoding,
)
from tests.alone import encode, encode_rows
from tests.oracles import hadamard_matrix, ring_sum

GOOD = {"size": 8, "l2_bound": 1.0, "noise_multiplier": 1.0, "num_summands": 1, "seed": 987_654}
ANY_FLOAT = st.floats(width=32) | st.sampled_from([0.0, 1.0, 1e-45, 3.4e38, -3.4e38, np.nan, np.inf, -np.inf])


@st.composite
def encodings(draw: st.DrawFn, *, largest_size: int = 70) -> RingEncoding:
    return RingEncoding.choose(
        size=draw(st.integers(1, largest_size)),
        l2_bound=draw(st.sampled_from([1e-30, 1e-3, 0.1, 1.0, 250.0])),
        noise_multiplier=draw(st.sampled_from([0.0, 0.3, 5.0, 120.0, 300.0])),
        num_summands=draw(st.integers(1, 6)),
        seed=draw(st.integers(0, 3)),
    )


def _vectors(data: st.DataObject, encoding: RingEncoding, count: int) -> list[NDArray[np.float32]]:
    return [data.draw(hnp.arrays(np.float32, encoding.size, elements=ANY_FLOAT)) for _ in range(count)]


def _stacked(data: st.DataObject, encoding: RingEncoding, count: int) -> NDArray[np.float32]:
    return np.array(_vectors(data, encoding, count), dtype=np.float32).reshape(count, encoding.size)


def _centered(ring: NDArray[np.uint32], bits: int) -> list[int]:
    """In whole numbers of Python's own."""
    return [value - 2**bits if value >= 2 ** (bits - 1) else value for value in map(int, ring)]


def _clipped(vector: NDArray[np.float32], bound: float) -> NDArray[np.float64]:
    """Slow and in other words: zeros for what is not finite, else at most the bound."""
    values = [float(value) for value in vector]
    if not all(map(math.isfinite, values)):
        return np.zeros(len(values))
    norm = math.hypot(*values)
    return np.array(values) * min(1.0, bound / norm if norm else 1.0)


@given(encodings(), st.data(), st.sampled_from(["seeded", "up", "down"]))
def test_every_encoding_has_an_integer_norm_within_the_sensitivity(
    encoding: RingEncoding, data: st.DataObject, rounding: str
) -> None:
    """Whatever the vector, and whatever the coins: all up and all down are the extremes of rounding."""
    sources = {
        "seeded": replayable_source(0, "rounding"),
        "up": NoiseSource("replayable", lambda size: b"\xff" * size),
        "down": NoiseSource("replayable", lambda size: b"\x00" * size),
    }
    count = data.draw(st.integers(0, 3))
    rings = encode_rows(encoding, _stacked(data, encoding, count), [sources[rounding]] * count)
    assert rings.shape == (count, encoding.dimension)
    assert rings.dtype == np.uint32
    for ring in rings:
        assert sum(value**2 for value in _centered(ring, encoding.bits)) <= Fraction(encoding.l2_sensitivity) ** 2


@given(encodings(), st.data())
def test_a_row_is_what_its_vector_and_its_source_give_whatever_it_is_encoded_with(
    encoding: RingEncoding, data: st.DataObject
) -> None:
    """Alone, among others, and in another order."""
    count = data.draw(st.integers(1, 5))
    vectors = _stacked(data, encoding, count)
    rings = encode_rows(encoding, vectors, [replayable_source(0, row) for row in range(count)])
    for row in range(count):
        np.testing.assert_array_equal(rings[row], encode(encoding, vectors[row], replayable_source(0, row)))
    order = data.draw(st.permutations(range(count)))
    again = encode_rows(encoding, vectors[order], [replayable_source(0, row) for row in order])
    np.testing.assert_array_equal(again, rings[order])


def test_rows_that_share_a_source_draw_from_it_one_after_the_other() -> None:
    encoding = RingEncoding.choose(**GOOD)  # type: ignore[arg-type]
    vectors = np.random.default_rng(0).normal(size=(6, 8)).astype(np.float32)
    together, one_by_one = replayable_source(0), replayable_source(0)
    rings = encode_rows(encoding, vectors, [together] * 6)
    np.testing.assert_array_equal(rings, [encode(encoding, vector, one_by_one) for vector in vectors])


def _exactly(encoding: RingEncoding, vector: NDArray[np.float32], words: Callable[[], list[int]]) -> list[Fraction]:
    """What is rounded down, x + u in each coordinate, drawn again while the whole numbers' norm is beyond the sensitivity.

    In fractions, with a matrix made elsewhere and a root of 60 digits.
    """
    dimension = encoding.dimension
    octets = b"".join(
        int(word).to_bytes(8, "little")
        for word in derive(encoding.seed, "rotation").bit_generator.random_raw(-(-dimension // 64))
    )
    signs = [-1 if octets[i // 8] >> (7 - i % 8) & 1 else 1 for i in range(dimension)]
    values = [sign * Fraction(float(value)) for sign, value in zip(signs, vector, strict=False)]
    root = Fraction(math.isqrt(dimension * 10**120), 10**60)
    matrix = hadamard_matrix(dimension)[:, : len(values)].tolist()
    rotated = [sum(sign * value for sign, value in zip(row, values, strict=True)) for row in matrix]
    for _ in range(ROUNDING_DRAWS):
        raised = [
            value * Fraction(encoding.scale) / root + Fraction(word, 2**32)
            for value, word in zip(rotated, words(), strict=True)
        ]
        if sum(math.floor(value) ** 2 for value in raised) <= Fraction(encoding.l2_sensitivity) ** 2:
            return raised
    raise AssertionError


@given(
    st.sampled_from([1, 3, 8, 16, 25, 60]),
    st.sampled_from([(1e-3, 0.0), (0.1, 5.0), (250.0, 120.0)]),
    st.integers(0, 2**32),
    st.sampled_from([1e-3, 0.5, 0.999]),
)
def test_an_encoding_is_what_exact_arithmetic_makes_of_the_same_random_bytes(
    size: int, kind: tuple[float, float], seed: int, share: float
) -> None:
    """For vectors within the bound, which clipping leaves alone. Within a millionth of a tie either neighbor is right."""
    bound, noise = kind
    encoding = RingEncoding.choose(size=size, l2_bound=bound, noise_multiplier=noise, num_summands=3, seed=seed % 5)
    vectors = np.random.default_rng(seed).normal(size=(3, size))
    vectors = (vectors * share * bound / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    rings = encode_rows(
        encoding, vectors, [NoiseSource("replayable", random.Random(seed + row).randbytes) for row in range(3)]
    )
    for row, (ring, vector) in enumerate(zip(rings, vectors, strict=True)):
        stream = random.Random(seed + row)

        def words(stream: random.Random = stream) -> list[int]:
            octets = stream.randbytes(4 * encoding.dimension)
            return [int.from_bytes(octets[at : at + 4], "little") for at in range(0, len(octets), 4)]

        for drawn, exact in zip(_centered(ring, encoding.bits), _exactly(encoding, vector, words), strict=True):
            assert math.floor(exact - Fraction(1, 10**6)) <= drawn <= math.floor(exact + Fraction(1, 10**6))


def test_rounding_goes_up_for_exactly_the_fractions_share_of_the_random_words() -> None:
    """16 coordinates in whole 4,096ths of a step, for which all that is computed is exact: the first word that goes up."""
    chosen = RingEncoding.choose(size=16, l2_bound=1.0, noise_multiplier=0.0, num_summands=1, seed=3)
    encoding = dataclasses.replace(chosen, scale=1024.0)
    vector = (np.random.default_rng(0).integers(-150_000, 150_000, size=16) / 2**20).astype(np.float32)

    def rounded(word: int) -> list[int]:
        source = NoiseSource("replayable", lambda size: word.to_bytes(4, "little") * (size // 4))
        return _centered(encode(encoding, vector, source), encoding.bits)

    down = rounded(0)
    exact = _exactly(encoding, vector, lambda: [0] * 16)
    assert down == [math.floor(value) for value in exact]
    fractions = [value - whole for value, whole in zip(exact, down, strict=True)]
    assert len(set(fractions)) >= 12
    for coordinate, fraction in enumerate(fractions):
        if fraction:
            first_up = int(2**32 * (1 - fraction))
            assert rounded(first_up - 1)[coordinate] == down[coordinate]
            assert rounded(first_up)[coordinate] == down[coordinate] + 1
        else:
            assert rounded(2**32 - 1)[coordinate] == down[coordinate]


@given(st.integers(1, 2**31), st.sampled_from([1e-300, 1e-30, 0.1, 0.5, 1.0, 250.0, 1e300]))
def test_no_sum_of_a_rotation_exceeds_what_a_double_counts_exactly_nor_is_the_grid_coarser_than_float32(
    size: int, bound: float
) -> None:
    """Sums are at most the L1 norm, sqrt(D) times the L2 norm of what was clipped, and half a unit for each coordinate."""
    encoding = RingEncoding(size, bound, 1.0, 1, seed=0, bits=20, scale=1.0)
    squared_l1 = encoding.dimension * (Fraction(bound) * (1 + Fraction(1, 2**22)) * Fraction(encoding._grid)) ** 2
    assert squared_l1 <= (2**53 - Fraction(encoding.dimension, 2)) ** 2
    moved = math.sqrt(encoding.dimension) / 2 / encoding._grid
    assert moved <= max(bound * encoding.dimension * 2.0**-51, math.sqrt(encoding.dimension) * 2.0**-150)


def test_a_vector_is_encoded_as_the_nearest_point_of_the_grid() -> None:
    """A value of 2**-54 beside 1/2 would put coordinates just below a whole number, or not, by the order of a sum."""
    chosen = RingEncoding.choose(size=16, l2_bound=1.0, noise_multiplier=0.0, num_summands=1, seed=3)
    encoding = dataclasses.replace(chosen, scale=1024.0)
    vector = np.zeros(16, dtype=np.float32)
    vector[:2] = [0.5, 2.0**-54]
    ring = encode(encoding, vector, NoiseSource("replayable", lambda size: b"\x00" * size))
    assert set(map(abs, _centered(ring, encoding.bits))) == {128}


_DIGESTS = """
import hashlib, numpy as np
from client.contribution import bounded
from shared.randomness import replayable_source
from shared.secagg.encoding import RingEncoding
for size in (4_096, 110_144):
    encoding = RingEncoding.choose(size=size, l2_bound=0.1, noise_multiplier=5.0, num_summands=9, seed=0)
    vectors = np.random.default_rng(0).normal(size=(2, size)).astype(np.float32)
    rings = encoding.encode_rows(bounded(vectors, l2_bound=0.1), [replayable_source(row) for row in range(2)])
    print(hashlib.sha256(rings.tobytes() + encoding.decode(rings[0]).tobytes()).hexdigest())
"""


def test_encoding_and_decoding_do_not_depend_on_a_librarys_threads() -> None:
    outputs = set()
    for threads in ("1", "2", "3"):
        environment = os.environ | {"OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads}
        run = subprocess.run([sys.executable, "-c", _DIGESTS], env=environment, capture_output=True, text=True, check=True)
        outputs.add(run.stdout)
    assert len(outputs) == 1
    assert len(outputs.pop().split()) == 2


def test_encoding_says_nothing_about_any_value() -> None:
    """Signaling NaN and what is beyond float32, in either type: zeros, as infinity is."""
    encoding = RingEncoding.choose(**GOOD)  # type: ignore[arg-type]
    single = np.zeros((2, 8), dtype=np.float32)
    single.view(np.uint32)[0, 3] = 0x7F800001
    double = np.zeros((2, 8))
    double.view(np.uint64)[0, 3] = 0x7FF0000000000001
    double[1, 2] = 1e300
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for vectors in (single, double):
            assert not encode_rows(encoding, vectors, [replayable_source(0)] * 2).any()


FALSE = [1.01, 1.2, 1.3, 1e3, 1e30, math.nan, math.inf]


@pytest.mark.parametrize("longer", FALSE)
@pytest.mark.parametrize("size", [1, 8, 1_000, 40_000])
def test_guarantee_a_vector_that_is_longer_than_it_says_is_within_the_sensitivity_exactly(size: int, longer: float) -> None:
    """What is much longer counts as zero; a hundredth may be lost by rounding. The row beside it is what it is alone."""
    encoding = RingEncoding.choose(size=size, l2_bound=0.5, noise_multiplier=30.0, num_summands=3, seed=1)
    honest = np.random.default_rng(0).normal(size=size)
    honest = (honest / np.linalg.norm(honest) * 0.49).astype(np.float32)
    vectors = Bounded(np.stack([honest * np.float32(longer / 0.98), honest]), 0.5)
    forged, beside = encoding.encode_rows(vectors, [replayable_source(0), replayable_source(1)])
    assert sum(value**2 for value in _centered(forged, encoding.bits)) <= Fraction(encoding.l2_sensitivity) ** 2
    assert longer == 1.01 or not forged.any()
    np.testing.assert_array_equal(beside, encode(encoding, honest, replayable_source(1)))


def test_a_vector_whose_square_64_bits_do_not_hold_counts_as_zero() -> None:
    """Eight coordinates just below 2**31: their squares add up to a negative number of 64 bits."""
    encoding = RingEncoding.choose(size=8, l2_bound=0.5, noise_multiplier=30.0, num_summands=3, seed=1)
    rows = np.zeros((1, 8), np.float32)
    rows[0, 0] = (2.0**31 - 1e5) * math.sqrt(8) / encoding.scale
    assert not encoding.encode_rows(Bounded(rows, 0.5), [replayable_source(0)]).any()


def test_vectors_of_a_wider_bound_or_another_type_are_refused() -> None:
    encoding = RingEncoding.choose(**GOOD)  # type: ignore[arg-type]
    rows = np.zeros((1, 8), np.float32)
    double: Any = rows.astype(np.float64)
    for vectors in (Bounded(rows, math.nextafter(1.0, 2.0)), Bounded(rows, math.nan), Bounded(double, 1.0)):
        with pytest.raises(SensitivityError, match="Expected float32 vectors bounded by 1, got l2_bound="):
            encoding.encode_rows(vectors, [replayable_source(0)])
        with pytest.raises(SensitivityError, match="Expected float32 vectors bounded by 1"):
            encoding.encode_sparse(vectors)
    assert not encoding.encode_rows(Bounded(rows, 0.5), [replayable_source(0)]).any()


@pytest.mark.parametrize(("dimension", "whole"), [(1_024, 31), (16_384, 500)])
def test_an_encoding_that_no_draw_brings_within_the_sensitivity_is_rounded_towards_zero(dimension: int, whole: int) -> None:
    """Equal rotated coordinates, a fifth of a step above a whole number: all up their norm is beyond the sensitivity.

    The squared norms are on either side of 2**31.
    """
    chosen = RingEncoding.choose(size=dimension, l2_bound=1.0, noise_multiplier=0.0, num_summands=1, seed=5)
    encoding = dataclasses.replace(chosen, scale=(whole + 0.2) * math.sqrt(dimension))
    assert encoding.l2_sensitivity < (whole + 1) * math.sqrt(dimension)
    flat = encoding.decode(np.ones(dimension, dtype=np.uint32))
    vector = (flat / np.linalg.norm(flat) * 2.0).astype(np.float32)
    draws = 0

    def always_up(size: int) -> bytes:
        nonlocal draws
        draws += 1
        return b"\xff" * size

    def always_down(size: int) -> bytes:
        return b"\x00" * size

    # Rows of one source would draw together at first.
    stubborn, upwards, easy = (NoiseSource("replayable", words) for words in (always_up, always_up, always_down))
    rings = encode_rows(encoding, np.array([vector, -vector, -vector]), [stubborn, upwards, easy])
    np.testing.assert_array_equal(rings[0], np.full(dimension, whole, dtype=np.uint32))
    # Upwards is towards zero for the others' values, and within the bound; downwards never is.
    np.testing.assert_array_equal(rings[1:], np.full((2, dimension), 2**encoding.bits - whole, dtype=np.uint32))
    assert draws == ROUNDING_DRAWS + 1


@pytest.mark.parametrize("size", [3, 2_000, 40_000])
def test_rows_that_share_a_source_are_rounded_by_words_of_their_own(size: int) -> None:
    """As if one row after the other drew; at half of the bound no draw is repeated."""
    encoding = RingEncoding.choose(size=size, l2_bound=1.0, noise_multiplier=3.0, num_summands=100, seed=1)
    vectors = np.random.default_rng(0).normal(size=(5, size))
    vectors /= 2.0 * np.linalg.norm(vectors, axis=1, keepdims=True)
    one = replayable_source(4)
    apart = np.array([encode(encoding, vector, one) for vector in vectors])
    np.testing.assert_array_equal(encode_rows(encoding, vectors, [replayable_source(4)] * 5), apart)


@given(encodings(largest_size=32), st.data())
def test_the_decoded_sum_is_the_sum_of_the_clipped_vectors_up_to_rounding(
    encoding: RingEncoding, data: st.DataObject
) -> None:
    """Up to 32 dimensions not even equal vectors at the bound leave the ring: HEADROOM / sqrt(D) > 1."""
    vectors = _vectors(data, encoding, encoding.num_summands)
    rng = replayable_source(0, "rounding")
    decoded = encoding.decode(ring_sum([encode(encoding, vector, rng) for vector in vectors], encoding.bits))
    expected = sum(_clipped(vector, encoding.l2_bound) for vector in vectors)
    # A step a coordinate and vector, and float32's rounding of what was clipped.
    allowed = len(vectors) * (math.sqrt(encoding.dimension) / encoding.scale + encoding.l2_bound * 1e-6 + 1e-44)
    assert decoded.shape == (encoding.size,)
    assert np.linalg.norm(decoded - expected) <= allowed


def test_the_sum_of_equal_vectors_at_the_bound_stays_in_the_ring() -> None:
    encoding = RingEncoding.choose(size=20_000, l2_bound=0.1, noise_multiplier=0.0, num_summands=300, seed=1)
    vector = np.zeros(20_000, dtype=np.float32)
    vector[:3] = [3.0, -4.0, 12.0]
    ring = encode(encoding, vector, replayable_source(0, "rounding"))
    decoded = encoding.decode(ring_sum([ring] * 300, encoding.bits))
    np.testing.assert_allclose(decoded[:3], 300 * 0.1 * vector[:3] / 13.0, atol=0.002)


@given(encodings(), st.data())
def test_a_masked_sum_is_the_plain_sum_in_every_order(encoding: RingEncoding, data: st.DataObject) -> None:
    """The oracle adds up whole numbers of Python's own; masks are uniform in the ring and cancel in pairs."""
    count = data.draw(st.integers(1, 5))
    rng, csprng = replayable_source(0, "rounding"), np.random.default_rng(data.draw(st.integers(0, 9)))
    plain = [
        encoding.add(encode(encoding, v, rng), encoding.noise(rng, share=1e-6)) for v in _vectors(data, encoding, count)
    ]
    masked = list(plain)
    modulus = 2**encoding.bits
    for i in range(count):
        for j in range(i):
            mask = csprng.integers(0, modulus, size=encoding.dimension, dtype=np.uint64).astype(np.uint32)
            masked[i] = encoding.add(masked[i], mask)
            masked[j] = encoding.add(masked[j], ((modulus - mask.astype(np.uint64)) % modulus).astype(np.uint32))
    expected = [sum(int(ring[d]) for ring in plain) % modulus for d in range(encoding.dimension)]
    random.Random(0).shuffle(masked)
    one_by_one = masked[0]
    for ring in masked[1:]:
        one_by_one = encoding.add(one_by_one, ring)
    assert one_by_one.tolist() == expected


@given(encodings(), st.integers(20, 32), st.integers(0, 2**32))
def test_packing_has_the_stated_size_and_comes_back(encoding: RingEncoding, bits: int, seed: int) -> None:
    """The oracle is one long whole number."""
    encoding = dataclasses.replace(encoding, bits=bits)
    ring = np.random.default_rng(seed).integers(0, 2**bits, size=encoding.dimension, dtype=np.uint64).astype(np.uint32)
    ring[:2] = [0, 2**bits - 1]
    packed = encoding.pack(ring)
    assert packed.dtype == np.uint8
    assert packed.shape == (encoding.packed_bytes,) == (bits * encoding.dimension // 8,)
    assert int.from_bytes(packed.tobytes(), "little") == sum(int(value) << (bits * i) for i, value in enumerate(ring))
    unpacked = encoding.unpack(packed)
    assert unpacked.dtype == np.uint32
    np.testing.assert_array_equal(unpacked, ring)


def test_an_update_of_131072_parameters_takes_327680_bytes() -> None:
    encoding = RingEncoding.choose(size=131_072, l2_bound=0.1, noise_multiplier=5.0, num_summands=100, seed=0)
    assert encoding.bits == 20
    assert len(encoding.pack(np.zeros(131_072, dtype=np.uint32))) == 327_680


@pytest.mark.parametrize(
    "packed", [np.zeros(19, np.uint8), np.zeros(21, np.uint8), np.zeros((20, 1), np.uint8), np.zeros(20)]
)
def test_a_packed_update_of_another_shape_or_type_is_refused(packed: np.ndarray) -> None:
    encoding = RingEncoding.choose(size=8, l2_bound=1.0, noise_multiplier=1.0, num_summands=1, seed=0)
    with pytest.raises(ProtocolViolation, match=r"Expected a masked update of 20 bytes, got shape=\(.*\), dtype="):
        encoding.unpack(packed)


@pytest.mark.parametrize("shape", [(4,), (6,), (5, 1), ()])
def test_a_vector_of_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    encoding = RingEncoding.choose(size=5, l2_bound=1.0, noise_multiplier=1.0, num_summands=1, seed=0)
    with pytest.raises(SensitivityError, match=r"Expected a vector of 5 values, got shape=\("):
        encoding.encode_rows(Bounded(np.zeros((1, *shape), np.float32), 1.0), [replayable_source(0)])


def test_rows_without_a_source_each_are_refused() -> None:
    encoding = RingEncoding.choose(size=5, l2_bound=1.0, noise_multiplier=1.0, num_summands=1, seed=0)
    for count in (0, 1, 3):
        with pytest.raises(SensitivityError, match=f"Expected a source for each of 2 vectors, got sources={count}"):
            encode_rows(encoding, np.zeros((2, 5), np.float32), [replayable_source(0)] * count)
    with pytest.raises(SensitivityError, match=r"Expected a vector of 5 values, got shape=\(6,\)"):
        encode_rows(encoding, np.zeros((2, 6), np.float32), [replayable_source(0)] * 2)


@given(
    st.integers(1, 300_000),
    st.floats(1e-6, 1e6),
    st.floats(0.0, 60.0),
    st.integers(1, 20_000),
)
def test_the_chosen_ring_is_the_smallest_that_is_fine_enough_and_has_the_headroom(
    size: int, bound: float, noise: float, summands: int
) -> None:
    encoding = RingEncoding.choose(size=size, l2_bound=bound, noise_multiplier=noise, num_summands=summands, seed=0)
    dimension = encoding.dimension
    assert dimension >= max(size, 8)
    assert dimension <= (1.25 if size > 102 else 1.42) * max(size, 12)
    assert dimension % 8 == 0
    sensitivity = encoding.l2_sensitivity
    assert sensitivity >= MIN_SENSITIVITY
    assert dimension <= (sensitivity / 80) ** 4  # what the accountant relies on
    assert sensitivity == pytest.approx(encoding.scale * bound * (1 + ROUNDING_MARGIN), rel=1e-12)
    # The coordinate's standard deviation if all send the same, with noise and rounding, in steps.
    steps = math.hypot(
        summands * encoding.scale * bound / math.sqrt(dimension), noise * sensitivity, math.sqrt(summands) / 2
    )
    assert HEADROOM * steps <= 2 ** (encoding.bits - 1) * (1 + 1e-9)

    def fine_enough(norm: float) -> bool:
        rounded = norm**2 + dimension / 4 + math.sqrt(2 * math.log(2)) * (norm + math.sqrt(dimension) / 2)
        sensitivity = norm * (1 + ROUNDING_MARGIN)
        return sensitivity >= 1_000 and rounded <= sensitivity**2

    assert fine_enough(encoding.scale * bound)
    if encoding.bits > 20:  # the next smaller ring has room for about half the scale
        half, quarter = ((2 ** (encoding.bits - power) / HEADROOM) ** 2 - summands / 4 for power in (1, 2))
        assert not fine_enough(encoding.scale * bound * math.sqrt(quarter / half))


def test_the_ring_grows_until_the_sensitivity_has_the_steps_that_the_accounting_relies_on() -> None:
    """In 8 dimensions rounding alone would be content with 748 steps, which is what 20 bits leave at this noise."""
    coarse, fine = (
        RingEncoding.choose(size=8, l2_bound=1.0, noise_multiplier=noise, num_summands=1, seed=0) for noise in (70.0, 100.0)
    )
    assert (coarse.bits, fine.bits) == (20, 21)
    assert coarse.l2_sensitivity >= MIN_SENSITIVITY
    assert MIN_SENSITIVITY <= fine.l2_sensitivity < 2 * 749


def test_the_sensitivity_of_the_largest_ring_leaves_its_square_and_32_binary_places_room_in_64_bits() -> None:
    encoding = RingEncoding.choose(size=2**40, l2_bound=0.1, noise_multiplier=0.0, num_summands=1, seed=0)
    assert 2**29 < encoding.l2_sensitivity <= LARGEST_SENSITIVITY * (1 + 1e-12)
    assert (LARGEST_SENSITIVITY + math.sqrt(encoding.dimension)) ** 2 < 2**63
    assert LARGEST_SENSITIVITY * 2**32 < 2**63


def test_whole_numbers_enter_the_ring_modulo_its_size() -> None:
    encoding = RingEncoding.choose(**GOOD)  # type: ignore[arg-type]
    integers = np.array([0, 1, -1, 2**19, -(2**19), 2**20, -(2**40) - 3, 2**40 + 3])
    assert encoding.to_ring(integers).tolist() == [int(value) % 2**20 for value in integers]


def test_the_noise_is_a_share_of_the_multiplier_times_the_sensitivity() -> None:
    encoding = RingEncoding.choose(size=100, l2_bound=0.1, noise_multiplier=2.5, num_summands=40, seed=0)
    assert encoding.noise_variance == (2.5 * encoding.l2_sensitivity) ** 2
    drawn = _centered(encoding.noise(replayable_source(4), share=0.25), encoding.bits)
    assert drawn == replayable_source(4).skellam(128, variance=encoding.noise_variance / 4).tolist()


def test_no_noise_is_exactly_zero() -> None:
    encoding = RingEncoding.choose(size=100, l2_bound=0.1, noise_multiplier=0.0, num_summands=40, seed=0)
    np.testing.assert_array_equal(encoding.noise(replayable_source(0)), np.zeros(128, dtype=np.uint32))


@pytest.mark.parametrize("share", [0.0, -0.1, 1.5, math.nan])
def test_a_share_of_the_noise_out_of_range_is_refused(share: float) -> None:
    encoding = RingEncoding.choose(size=8, l2_bound=1.0, noise_multiplier=1.0, num_summands=1, seed=0)
    with pytest.raises(ConfigError, match=r"Expected share in \(0, 1\], got share="):
        encoding.noise(replayable_source(0), share=share)


@pytest.mark.parametrize(
    ("name", "value"),
    [("size", 0), ("num_summands", 0), ("noise_multiplier", -1.0), ("noise_multiplier", math.inf)]
    + [("l2_bound", value) for value in (0.0, -1.0, math.inf, math.nan)],
)
def test_a_ring_of_impossible_constants_is_refused(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"Expected {name} >.*, got {name}={value}") as caught:
        RingEncoding.choose(**(GOOD | {name: value}))  # type: ignore[arg-type]
    assert "987654" not in str(caught.value)


@pytest.mark.parametrize(("name", "value"), [("noise_multiplier", 1e4), ("size", 2**40), ("num_summands", 2**62)])
def test_a_sum_that_no_ring_holds_is_refused_with_what_to_do(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"fits a ring of 32 bits.*{name}={value}.*Use a smaller adapter") as caught:
        RingEncoding.choose(**(GOOD | {name: value}))  # type: ignore[arg-type]
    assert "987654" not in str(caught.value)


def test_equal_constants_give_equal_rings_and_another_seed_another_rotation() -> None:
    encoding = RingEncoding.choose(**GOOD)  # type: ignore[arg-type]
    again = RingEncoding.choose(**GOOD)  # type: ignore[arg-type]
    other = RingEncoding.choose(**(GOOD | {"seed": 1}))  # type: ignore[arg-type]
    vector = np.arange(8, dtype=np.float32)
    rings = [encode(e, vector, replayable_source(0)).tolist() for e in (encoding, again, other)]
    assert again == encoding
    assert rings[0] == rings[1] != rings[2]


def test_the_public_signs_never_change() -> None:
    """Clients and server of different versions must rotate alike: the first row of the rotation, known by heart."""
    encoding = RingEncoding.choose(size=16, l2_bound=1.0, noise_multiplier=1.0, num_summands=1, seed=0)
    first = np.zeros(16, dtype=np.uint32)
    first[0] = 1
    signs = "".join("+" if value > 0 else "-" for value in encoding.decode(first))
    assert signs == "----+--+--+---+-"


def test_the_rotation_spreads_a_single_coordinate_over_all() -> None:
    encoding = RingEncoding.choose(size=1_000, l2_bound=1.0, noise_multiplier=0.0, num_summands=1, seed=0)
    vector = np.zeros(1_000, dtype=np.float32)
    vector[7] = 100.0
    magnitudes = np.abs(_centered(encode(encoding, vector, replayable_source(0)), encoding.bits))
    expected = encoding.scale / math.sqrt(1_024)
    assert np.all(np.abs(magnitudes - expected) <= 1)
