"""What leaves a client: bounded for every input, as many bytes for every input, with exactly its share of the noise."""

from __future__ import annotations

import math
import os
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from client.contribution import bounded, clipped_updates, encoded
from client.contribution import noised as silos_noised
from shared.privacy.plan import PrivacyPlan
from shared.randomness import NoiseSource, replayable_source
from shared.secagg.encoding import ROUNDING_MARGIN, RingEncoding
from tests.alone import clipped_update, encode, noised, pack
from tests.plans import central_plan, distributed_plan

Z = 5.0  # two-sided false-alarm rate 6e-7 for a normal statistic
SEED = int.from_bytes(os.urandom(4), "little") if os.environ.get("TACIT_FRESH_SEEDS") else 0
ANY_FLOAT32 = st.floats(width=32, allow_nan=True, allow_infinity=True)
SHARES = [0.0, 0.05, 0.9]
# Forty-one values, of which one may be special; nothing but the bound, the scale and the modulus may show.
ODD: dict[str, list[float]] = {
    "zero": [0.0],
    "small": [1e-38],
    "at the bound": [0.5],
    "huge": [3e38],
    "NaN": [math.nan],
    "infinite": [-math.inf],
    "both": [math.inf, math.nan],
}


def _source(label: str) -> NoiseSource:
    return replayable_source(SEED, label)


def _squares(values: NDArray[np.float32]) -> Fraction:
    return sum((Fraction(float(value)) ** 2 for value in values), Fraction(0))


def _centered(packed: NDArray[np.uint8], encoding: RingEncoding) -> list[int]:
    """The integers on the wire, read bit by bit."""
    bits = "".join(f"{octet:08b}"[::-1] for octet in packed.tolist())
    words = [int(bits[at : at + encoding.bits][::-1], 2) for at in range(0, len(bits), encoding.bits)]
    return [word - (1 << encoding.bits) if word >> (encoding.bits - 1) else word for word in words]


@given(
    values=st.lists(ANY_FLOAT32, min_size=1, max_size=30),
    l2_clip_norm=st.floats(1e-6, 1e6),
    share=st.sampled_from(SHARES),
)
def test_a_clipped_update_has_an_l2_norm_within_the_plans_bound_for_every_input(
    values: list[float], l2_clip_norm: float, share: float
) -> None:
    plan = central_plan(clipping_share=share)
    result = clipped_update(np.array(values, dtype=np.float32), plan=plan, l2_clip_norm=l2_clip_norm)
    assert result.dtype == np.float32
    assert result.shape == (len(values) + (share > 0),)
    assert _squares(result) <= (Fraction(plan.l2_bound(l2_clip_norm)) * (1 + Fraction(1, 2**20))) ** 2
    # The bound itself, by the book: C^2 for the update is 1 - share of the whole.
    assert plan.l2_bound(l2_clip_norm) ** 2 * (1 - share) == pytest.approx(l2_clip_norm**2, rel=1e-12)


@given(values=st.lists(st.floats(), min_size=1, max_size=30), l2_bound=st.floats(1e-6, 1e6))
def test_guarantee_a_bounded_vector_has_an_l2_norm_within_its_bound_for_every_input(
    values: list[float], l2_bound: float
) -> None:
    """And one that is within it stays as it is, up to float32."""
    vectors = np.array([values])
    found = bounded(vectors, l2_bound=l2_bound)
    (row,) = found.rows
    assert (row.dtype, found.l2_bound) == (np.float32, l2_bound)
    assert _squares(row) <= (Fraction(l2_bound) * (1 + Fraction(1, 2**20))) ** 2
    with np.errstate(over="ignore"):
        single = vectors.astype(np.float32)[0]
    if not np.isfinite(single).all():
        assert not row.any()
    elif _squares(single) <= Fraction(l2_bound) ** 2 * Fraction(99, 100):
        np.testing.assert_array_equal(row, single)


@given(values=st.lists(ANY_FLOAT32, min_size=1, max_size=30), l2_clip_norm=st.floats(1e-6, 1e6))
def test_the_bit_of_adaptive_clipping_is_positive_when_the_norm_is_within_the_bound_and_negative_otherwise(
    values: list[float], l2_clip_norm: float
) -> None:
    update = np.array(values, dtype=np.float32)
    *clipped, bit = clipped_update(update, plan=central_plan(clipping_share=0.05), l2_clip_norm=l2_clip_norm).tolist()
    if not any(clipped):
        assert bit == 0
        return
    # bit^2 / (bit^2 + C^2) is the share of the squared bound.
    assert bit**2 / (bit**2 + l2_clip_norm**2) == pytest.approx(0.05, rel=1e-5)
    ratio = _squares(update) / Fraction(l2_clip_norm) ** 2
    if abs(ratio - 1) > 1e-9:
        assert (bit > 0) == (ratio < 1)


def test_a_norm_of_exactly_the_bound_counts_as_within_and_the_next_one_does_not() -> None:
    plan = central_plan(clipping_share=0.2)
    within = clipped_update(np.array([3, -4], dtype=np.float32), plan=plan, l2_clip_norm=5.0)
    np.testing.assert_array_equal(within, np.array([3, -4, 2.5], dtype=np.float32))
    above = clipped_update(
        np.array([3, np.nextafter(np.float32(-4), np.float32(-5))], dtype=np.float32), plan=plan, l2_clip_norm=5.0
    )
    assert above[-1] == -2.5


@pytest.mark.parametrize("odd", ["NaN", "infinite", "both"])
@pytest.mark.parametrize("share", SHARES)
def test_an_update_that_is_not_finite_becomes_the_contribution_of_a_user_without_data(odd: str, share: float) -> None:
    update = np.array([*ODD[odd], 0.25], dtype=np.float32)
    assert not clipped_update(update, plan=central_plan(clipping_share=share), l2_clip_norm=1.0).any()


@given(
    values=st.lists(ANY_FLOAT32, min_size=4, max_size=4),
    l2_clip_norm=st.floats(1e-3, 1e3),
    share=st.sampled_from([*SHARES, 0.2]),
)
def test_taking_out_a_users_data_moves_a_contribution_by_at_most_the_bound_that_is_accounted(
    values: list[float], l2_clip_norm: float, share: float
) -> None:
    """Zero-out: the user answers still, without data. Add-or-remove: the contribution is gone, at the same distance."""
    plan = central_plan(clipping_share=share)
    with_data, without = (
        clipped_update(np.array(update, dtype=np.float32), plan=plan, l2_clip_norm=l2_clip_norm)
        for update in (values, [0.0] * 4)
    )
    accounted = (Fraction(plan.l2_bound(l2_clip_norm)) * (1 + Fraction(1, 2**20))) ** 2
    for gone in (without, np.zeros_like(without)):
        distance = sum((Fraction(float(a)) - Fraction(float(b))) ** 2 for a, b in zip(with_data, gone, strict=True))
        assert distance <= accounted


PLANS: dict[str, PrivacyPlan] = {
    "central": central_plan(),
    "distributed": distributed_plan(minimum_survivors=80, colluding_clients=10),
    "distributed, adaptive": distributed_plan(clipping_share=0.05),
}


@pytest.mark.parametrize("name", PLANS)
def test_the_packed_size_depends_on_the_encoding_alone(name: str) -> None:
    plan = PLANS[name]
    encoding = plan.update_encoding(41, l2_clip_norm=0.5)
    for odd, values in ODD.items():
        update = np.full(41, 0.01, dtype=np.float32)
        update[: len(values)] = values
        contribution = clipped_update(update, plan=plan, l2_clip_norm=0.5)
        packed = pack(contribution, encoding, plan=plan, source=_source(f"size {name} {odd}"))
        # 41 or 42 values are padded to 48.
        assert (packed.dtype, packed.shape) == (np.dtype(np.uint8), (48 * encoding.bits // 8,))


@given(
    values=st.lists(ANY_FLOAT32, min_size=12, max_size=12),
    kind=st.sampled_from(["train", "adaptive", "popularity"]),
    seed=st.integers(0, 2**32),
)
def test_the_integers_of_one_contribution_have_an_l2_norm_within_the_sensitivity_for_every_input(
    values: list[float], kind: str, seed: int
) -> None:
    plan = central_plan(clipping_share=0.05 if kind == "adaptive" else 0.0)
    vector = np.array([values], dtype=np.float32)
    if kind == "popularity":  # what comes there is bounded by its count, but the wire must not rely on it
        encoding = plan.release_encoding(plan.release("popularity"), 12)
        within = bounded(vector, l2_bound=encoding.l2_bound)
    else:
        encoding = plan.update_encoding(12, l2_clip_norm=0.5)
        within = clipped_updates(vector, plan=plan, l2_clip_norm=0.5)
    assert within.l2_bound == encoding.l2_bound
    (ring,) = encoded(within, encoding, plan=plan, sources=[replayable_source(seed, "rounding")])
    packed = encoding.pack(ring)
    norm_squared = sum(value * value for value in _centered(packed, encoding))
    assert norm_squared <= Fraction(encoding.l2_sensitivity) ** 2
    bound = encoding.scale * encoding.l2_bound * (1 + ROUNDING_MARGIN)
    assert math.sqrt(norm_squared) <= bound * (1 + 1e-12)


def _difference(plan: PrivacyPlan, *, size: int = 40_000) -> tuple[NDArray[np.float64], RingEncoding]:
    """What was packed, minus the same vector scaled and rotated without noise: noise, and a rounding below 1 step each."""
    encoding = plan.update_encoding(size, l2_clip_norm=plan.l2_clip_norm)
    update = np.random.default_rng(1).normal(size=size).astype(np.float32)
    contribution = clipped_update(update, plan=plan, l2_clip_norm=plan.l2_clip_norm)
    packed = pack(contribution, encoding, plan=plan, source=_source(f"noise {plan.mechanism} {plan.noise_share}"))
    clean = encode(encoding, contribution, _source("another rounding")).astype(np.int64)
    half = 1 << (encoding.bits - 1)
    moved = (encoding.unpack(packed).astype(np.int64) - clean + half) % (1 << encoding.bits) - half
    return moved.astype(np.float64), encoding


def _variance_is(sample: NDArray[np.floating[Any]], variance: float) -> bool:
    """Skellam's sum of squares over its variance v has mean n and variance n (2 + 1/v)."""
    total = float(np.square(sample).sum() / variance)
    return abs(total - sample.size) < Z * math.sqrt(sample.size * (2 + 1 / variance))


@pytest.mark.parametrize(("survivors", "colluding"), [(80, 0), (80, 10), (2, 1), (1, 0)])
def test_a_contribution_carries_its_share_of_the_noise_under_distributed(survivors: int, colluding: int) -> None:
    """Null: variance (multiplier * sensitivity)^2 / (survivors - colluding) in each of 65,536 integers.

    False alarms 6e-7; a scale wrong by 3 % is found with power > .99. Negative controls: 2/3, 3/2, a share that counts the
    colluding clients' noise, and the whole noise instead of a share.
    """
    plan = distributed_plan(minimum_survivors=survivors, colluding_clients=colluding)
    moved, encoding = _difference(plan)
    whole = (1.25 * encoding.scale * 0.5 * (1 + ROUNDING_MARGIN)) ** 2
    expected = whole / (survivors - colluding)
    assert _variance_is(moved, expected)
    assert abs(moved.mean()) < Z * math.sqrt(expected / moved.size)
    for wrong in (2 / 3, 3 / 2):
        assert not _variance_is(moved, expected * wrong**2)
    if colluding:
        assert not _variance_is(moved, whole / survivors)
    if survivors - colluding > 1:
        assert not _variance_is(moved, whole)


@pytest.mark.parametrize("mechanism", ["central", "dp-ftrl-central"])
def test_a_contribution_carries_no_noise_where_the_server_adds_it(mechanism: str) -> None:
    moved, encoding = _difference(central_plan(mechanism=mechanism))
    assert np.abs(moved).max() <= 1  # two roundings of the same number
    assert encoding.noise_variance > 1e6


def test_two_contributions_of_the_same_vector_carry_independent_noise() -> None:
    """Null: correlation 0 of two clients' noise, normal with stddev 1/sqrt(n), n = 65,536.

    False alarms 6e-7. Negative control: one source used twice.
    """
    plan = distributed_plan()
    encoding = plan.update_encoding(40_000, l2_clip_norm=0.5)
    nothing = np.zeros(40_000, dtype=np.float32)

    def noise(label: str) -> NDArray[np.float64]:
        ring = encoding.unpack(pack(nothing, encoding, plan=plan, source=_source(label))).astype(np.float64)
        return np.where(ring >= 1 << (encoding.bits - 1), ring - (1 << encoding.bits), ring)

    def independent(a: NDArray[np.float64], b: NDArray[np.float64]) -> bool:
        return bool(abs(np.corrcoef(a, b)[0, 1]) < Z / math.sqrt(len(a)))

    assert independent(noise("first"), noise("second"))
    assert not independent(noise("first"), noise("first"))


def test_a_silos_contribution_is_its_sum_plus_noise_of_the_whole_standard_deviation() -> None:
    """Null: N(0, stddev^2) in each of 40,000 values. False alarms 6e-7. Negative controls: 2/3 and 3/2."""
    sums = np.random.default_rng(2).normal(0, 30, size=40_000)
    result = noised(sums, stddev=3.0, source=_source("silo"))
    assert result.dtype == np.float32
    moved = result - sums

    def stddev_is(stddev: float) -> bool:
        return bool(abs(np.square(moved).sum() / stddev**2 - moved.size) < Z * math.sqrt(2 * moved.size))

    assert stddev_is(3.0)
    assert not stddev_is(3.0 * 2 / 3)
    assert not stddev_is(3.0 * 3 / 2)
    assert abs(np.corrcoef(moved, sums)[0, 1]) < Z / math.sqrt(moved.size)


def test_silos_that_answer_together_each_draw_noise_of_their_own() -> None:
    """From the source of each, in its place: what a silo draws alone it draws beside others."""
    sums = np.zeros((3, 50))
    together = silos_noised(sums, stddev=3.0, sources=[_source(f"silo {place}") for place in range(3)])
    for place, row in enumerate(together):
        np.testing.assert_array_equal(row, noised(sums[place], stddev=3.0, source=_source(f"silo {place}")))
    assert np.unique(together).size == together.size


def test_a_silos_contribution_without_noise_is_its_sum() -> None:
    result = noised(np.array([1.5, -2.0]), stddev=0.0, source=_source("none"))
    np.testing.assert_array_equal(result, np.array([1.5, -2.0], dtype=np.float32))
