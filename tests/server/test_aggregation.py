"""Aggregation: mean and modular sum against plain arithmetic, server optimizers against their formulas, the clip norm."""

from __future__ import annotations

import dataclasses
import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from server.aggregation import (
    FloatSum,
    PrefixSum,
    RingSum,
    ServerOptimizer,
    next_clip_norm,
    popularity_prior,
    raised_counts,
)
from shared.config import ServerSection
from shared.errors import ProtocolViolation
from shared.secagg.encoding import RingEncoding
from tests import rounding
from tests.plans import central_plan


def _float_sum(updates: list[np.ndarray]) -> FloatSum:
    total = FloatSum(len(updates[0]))
    for update in updates:
        total.add(update)
    assert total.count == len(updates)
    return total


@given(clients=st.integers(1, 6), size=st.integers(1, 20), scale=st.floats(1e-6, 1e6), seed=st.integers(0, 99))
@settings(max_examples=50, deadline=None)
def test_the_mean_of_a_sum_equals_the_plain_mean(clients: int, size: int, scale: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    updates = [(scale * rng.normal(size=size)).astype(np.float32) for _ in range(clients)]
    expected = [sum(float(update[i]) for update in updates) / clients for i in range(size)]
    mean = _float_sum(updates).mean()
    assert mean.dtype == np.float32
    rounding.assert_close(mean, expected, within=rounding.rounding())  # float64, rounded once


def test_floats_are_summed_in_float64() -> None:
    updates = [np.array([value], dtype=np.float32) for value in (1e8, 1.0, -1e8, 1.0)]
    assert _float_sum(updates).mean()[0] == 0.5


@pytest.mark.parametrize("kind", [FloatSum, PrefixSum])
def test_with_a_bound_the_order_of_contributions_changes_no_bit(kind: type[FloatSum] | type[PrefixSum]) -> None:
    rng = np.random.default_rng(0)
    updates = [(rng.normal(size=50) * 10.0 ** rng.uniform(-12, 0, 50)).astype(np.float32) for _ in range(100)]
    bound = max(float(np.linalg.norm(update)) for update in updates)

    def mean(order: list[int], **bounded: float) -> np.ndarray:
        total = kind(50, **bounded)
        for place in order:
            total.add(updates[place])
        return total._total.copy() if isinstance(total, PrefixSum) else total.total.copy()

    orders = [list(rng.permutation(100)) for _ in range(20)]
    sums = [mean(order, l2_bound=bound) for order in orders]
    assert all((one == sums[0]).all() for one in sums)
    np.testing.assert_allclose(sums[0], np.sum(updates, axis=0, dtype=np.float64), rtol=0, atol=1e-11 * bound)
    # Without one the last bits follow the order, so that the test above says something.
    assert any((mean(order) != mean(orders[0])).any() for order in orders)


def _steps(config: ServerSection, start: list[float], updates: list[list[float]]) -> list[np.ndarray]:
    optimizer = ServerOptimizer(np.array(start, dtype=np.float32), config)
    path = []
    for update in updates:
        optimizer.step(np.array(update, dtype=np.float32))
        path.append(optimizer.adapter)
    return path


START, UPDATES = [1.0, -2.0], [[0.5, 0.0], [-0.25, 1.0], [0.125, -1.0]]


def test_server_sgd_with_learning_rate_one_adds_the_mean_update() -> None:
    path = _steps(ServerSection(learning_rate=1.0), START, UPDATES)
    np.testing.assert_allclose(path[0], [1.5, -2.0])
    np.testing.assert_allclose(path[2], [1.375, -2.0])


def test_server_momentum_follows_its_formula() -> None:
    path = _steps(ServerSection(learning_rate=0.5, momentum=0.9), START, UPDATES)
    position, velocity = np.array(START), np.zeros(2)
    for update, found in zip(UPDATES, path, strict=True):
        velocity = 0.9 * velocity + np.array(update)
        position = position + 0.5 * velocity
        rounding.assert_close(found, position, within=rounding.rounding(sums=2 * len(UPDATES)))


def test_server_adam_follows_its_formula() -> None:
    path = _steps(ServerSection(optimizer="adam", learning_rate=0.1), START, UPDATES)
    position, first, second = np.array(START), np.zeros(2), np.zeros(2)
    for step, (update, found) in enumerate(zip(UPDATES, path, strict=True), start=1):
        gradient = -np.array(update)
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        position = position - 0.1 * (first / (1 - 0.9**step)) / (np.sqrt(second / (1 - 0.999**step)) + 1e-8)
        rounding.assert_close(found, position, within=rounding.rounding(sums=6 * len(UPDATES)))


@pytest.mark.parametrize(
    "config",
    [ServerSection(learning_rate=1.0, momentum=0.9), ServerSection(optimizer="adam", learning_rate=0.1)],
    ids=["momentum", "adam"],
)
def test_server_optimizer_restored_from_its_state_goes_on_exactly_as_before(config: ServerSection) -> None:
    whole = _steps(config, START, UPDATES)[-1]
    first = ServerOptimizer(np.array(START, dtype=np.float32), config)
    for update in UPDATES[:2]:
        first.step(np.array(update, dtype=np.float32))
    second = ServerOptimizer(np.zeros(2, dtype=np.float32), config)
    second.load(first.adapter, first.state())
    second.step(np.array(UPDATES[2], dtype=np.float32))
    np.testing.assert_array_equal(second.adapter, whole)


def test_server_optimizer_does_not_change_the_array_it_started_from() -> None:
    start = np.ones(2, dtype=np.float32)
    optimizer = ServerOptimizer(start, ServerSection(learning_rate=1.0))
    optimizer.step(np.ones(2, dtype=np.float32))
    taken = optimizer.adapter
    taken[:] = 7
    np.testing.assert_array_equal(start, [1, 1])
    np.testing.assert_array_equal(optimizer.adapter, [2, 2])


def test_popularity_prior_is_the_log_share_of_the_summed_counts() -> None:
    counts = [np.array([3, 1, 0], dtype=np.float32), np.array([1, 3, 2], dtype=np.float32)]
    prior = popularity_prior(np.sum(counts, axis=0), noise_stddev=0.0)
    assert prior.dtype == np.float32
    rounding.assert_close(np.exp(prior), [0.4, 0.4, 0.2], within=rounding.rounding(sums=2))


def test_popularity_prior_keeps_counts_above_the_noise_and_lowers_those_below_it() -> None:
    shares = np.exp(popularity_prior(np.array([80.0, 40.0, 0.0, -2.0, -8.0]), noise_stddev=2.0).astype(np.float64))
    by_hand = np.array([80.0, 40.0, *(2.0 * math.log1p(math.exp(ratio)) for ratio in (0.0, -1.0, -4.0))])
    rounding.assert_close(shares, by_hand / by_hand.sum(), within=rounding.rounding(sums=2, length=5))


def test_popularity_prior_keeps_the_order_of_noised_counts() -> None:
    noised = np.linspace(-6.0, 30.0, 200)
    assert (np.diff(popularity_prior(noised, noise_stddev=1.0)) > 0).all()


@pytest.mark.parametrize("noise_stddev", [1e-300, 1e-3, 1.0, 1e3])
def test_popularity_prior_is_finite_however_low_a_count_is(noise_stddev: float) -> None:
    prior = popularity_prior(np.array([5.0, 0.0, -1e6]), noise_stddev=noise_stddev)
    assert np.isfinite(prior).all()
    assert prior[2] < prior[1] < prior[0]


def test_counts_below_the_noise_are_raised_to_it() -> None:
    np.testing.assert_array_equal(raised_counts(np.array([6.0, 1.0, -5.0]), noise_stddev=2.0), [6.0, 2.0, 2.0])


def test_popularity_prior_without_noise_keeps_items_possible_that_nobody_has() -> None:
    prior = popularity_prior(np.array([1.0, 0.0]), noise_stddev=0.0)
    assert np.isfinite(prior).all()
    assert prior[1] < prior[0]


ENCODING = RingEncoding.choose(size=5, l2_bound=0.5, noise_multiplier=2.0, num_summands=10, seed=0)


@given(st.lists(st.lists(st.integers(0, 2**ENCODING.bits - 1), min_size=8, max_size=8), max_size=6), st.randoms())
def test_the_modular_sum_of_packed_contributions_is_that_of_whole_numbers_in_any_order(
    contributions: list[list[int]], order: random.Random
) -> None:
    packed = [ENCODING.pack(np.array(ring, dtype=np.uint32)) for ring in contributions]
    expected = [sum(column) % 2**ENCODING.bits for column in zip(*contributions, strict=True)] or [0] * 8
    order.shuffle(packed)
    for form in (packed, [ENCODING.unpack(contribution) for contribution in packed]):
        total = RingSum(ENCODING)
        for contribution in form:
            total.add(contribution)
        assert total.total.dtype == np.uint32
        assert total.total.tolist() == expected
        assert total.count == len(contributions)


@pytest.mark.parametrize(
    "wrong", [np.zeros(3, np.uint8), np.zeros(ENCODING.packed_bytes, np.float32), np.zeros(7, np.uint32)]
)
def test_the_modular_sum_refuses_what_is_not_packed(wrong: np.ndarray) -> None:
    total = RingSum(ENCODING)
    total.add(np.ones(8, dtype=np.uint32))
    with pytest.raises(ProtocolViolation, match=f"Expected a masked update of {ENCODING.packed_bytes} bytes, got shape="):
        total.add(wrong)
    assert (total.total.tolist(), total.count) == ([1] * 8, 1)


@pytest.mark.parametrize("bits", [20, 32])
def test_the_modular_sum_of_many_vectors_of_the_largest_element_is_exact(bits: int) -> None:
    encoding = dataclasses.replace(ENCODING, bits=bits)
    total = RingSum(encoding)
    for _ in range(9_999):
        total.add(np.full(8, 2**bits - 1, dtype=np.uint32))
    assert total.total.tolist() == [(-9_999) % 2**bits] * 8


def _next(norm: float, bits_sum: float, *, quantile: float = 0.5, start: float = 1.0) -> float:
    return next_clip_norm(norm, bits_sum=bits_sum, bit=0.2, expected_cohort=50.0, quantile=quantile, start=start)


@pytest.mark.parametrize("quantile", [0.1, 0.5, 0.9])
def test_the_clip_norm_stays_where_the_quantile_of_the_norms_is_within_it(quantile: float) -> None:
    within = 50 * quantile
    assert _next(0.7, 0.2 * (within - (50 - within)), quantile=quantile) == pytest.approx(0.7, rel=1e-12)


def test_the_clip_norm_falls_when_more_norms_are_within_it_and_grows_when_fewer_are() -> None:
    # By the formula: C exp(-0.2 (share within - quantile)).
    assert _next(1.0, 0.2 * 50) == pytest.approx(math.exp(-0.2 * (1.0 - 0.5)))
    assert _next(1.0, -0.2 * 50) == pytest.approx(math.exp(-0.2 * (0.0 - 0.5)))
    assert _next(1.0, 0.2 * 10, quantile=0.9) == pytest.approx(math.exp(-0.2 * (0.6 - 0.9)))
    moved = [_next(1.0, 0.2 * surplus) for surplus in range(-50, 51, 10)]
    assert moved == sorted(moved, reverse=True)
    assert len(set(moved)) == len(moved)


@given(
    norm=st.floats(1e-3, 1e3),
    bits=st.floats(-1e12, 1e12),
    quantile=st.floats(0.01, 0.99),
    start=st.sampled_from([0.1, 1.0, 7.0]),
)
def test_noise_cannot_carry_the_clip_norm_away(norm: float, bits: float, quantile: float, start: float) -> None:
    inside = min(max(norm, start / 100), start * 100)
    moved = _next(inside, bits, quantile=quantile, start=start)
    assert start / 100 <= moved <= start * 100
    # One round moves it by at most 22 %, however large the noise was.
    assert math.exp(-0.2) * (1 - 1e-12) <= moved / inside <= math.exp(0.2) * (1 + 1e-12)


def test_a_thousand_rounds_of_noise_alone_end_at_a_factor_of_a_hundred() -> None:
    for sign, edge in ((1, 0.01), (-1, 100.0)):
        norm = 1.0
        for _ in range(1000):
            norm = _next(norm, sign * 1e9)
        assert norm == pytest.approx(edge)


@pytest.mark.parametrize("quantile", [0.3, 0.5, 0.8])
@pytest.mark.parametrize("start", [0.05, 40.0])
def test_the_clip_norm_converges_to_the_quantile_of_the_norms_under_the_plans_noise(quantile: float, start: float) -> None:
    """Null: after 150 rounds the share of norms within C, averaged over 50 rounds, is within .03 of the quantile.

    Norms are log-normal around 1; 300 users, noise of multiplier 1.25 with 5 % of the budget: .009 of a share a round, so an
    average is off by less than .01 (the seed is fixed). Negative controls: the start, which is over .1 away, and the other
    quantile.
    """
    plan = central_plan(clipping_share=0.05)
    rng, norm, shares = np.random.default_rng(1), start, []
    for _ in range(200):
        bit = plan.clipping_bit(norm)
        bits = np.where(rng.lognormal(0.0, 0.7, size=300) <= norm, bit, -bit).sum()
        noised = bits + rng.normal(0, plan.noise_multiplier * plan.l2_bound(norm))
        norm = next_clip_norm(norm, bits_sum=noised, bit=bit, expected_cohort=300, quantile=quantile, start=start)
        shares.append(stats.norm.cdf(math.log(norm) / 0.7))
    assert np.mean(shares[150:]) == pytest.approx(quantile, abs=0.03)
    assert abs(stats.norm.cdf(math.log(start) / 0.7) - quantile) > 0.1
    assert abs(np.mean(shares[150:]) - (1.1 - quantile)) > 0.03
