"""Exact aggregation equals the mean of the clients' products; the mean of the tensors does not."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.aggregation import PrefixSum
from server.product_mean import Aggregated, ProductSum, aggregated
from shared.model.low_rank import Pair, prefix_mask
from shared.model.state import RecommenderState
from tests import rounding

# Ranks 4 and 2; the second module is tall, as an item head is.
PAIRS = (Pair("layer", 4, 9, 8, a=0, b=32), Pair("head", 2, 40, 8, a=68, b=84))
SIZE = 164
START = RecommenderState(np.zeros(3, np.float32), np.random.default_rng(9).normal(size=SIZE).astype(np.float32))
WITH_RESIDUAL = RecommenderState(START.log_prior, START.adapter, np.zeros(sum(p.size for p in PAIRS), dtype=np.float32))
# Sums and decompositions are float64; what they give is kept in float32, factors that are multiplied and a residual.
ROUNDED = rounding.rounding(sums=3)
INITIAL = np.random.default_rng(8).normal(size=SIZE).astype(np.float32)


def _updates(clients: int, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.normal(0, 0.7, SIZE).astype(np.float32) for _ in range(clients)]


def _products(vector: np.ndarray) -> list[np.ndarray]:
    """The oracle: both modules cut out of the vector by hand, multiplied entry by entry."""
    v = vector.astype(np.float64)
    layer = np.einsum("or,ri->oi", v[32:68].reshape(9, 4), v[:32].reshape(4, 8))
    head = np.einsum("or,ri->oi", v[84:164].reshape(40, 2), v[68:84].reshape(2, 8))
    return [layer, head]


def _mean_of_products(updates: list[np.ndarray]) -> list[np.ndarray]:
    theirs = [_products(START.adapter.astype(np.float64) + update) for update in updates]
    return [np.mean([client[module] for client in theirs], axis=0) for module in range(2)]


def _exact(updates: list[np.ndarray], *, residual: bool, state: RecommenderState | None = None) -> Aggregated:
    start = state or (WITH_RESIDUAL if residual else START)
    total = ProductSum(PAIRS, start.adapter)
    for update in updates:
        total.add(update)
    return aggregated(total, start, PAIRS, initial=INITIAL, keeps_residual=residual)


def _held(state: RecommenderState) -> list[np.ndarray]:
    """What a state's modules are: product plus residual."""
    parts = np.split(state.residual.astype(np.float64), [72]) if len(state.residual) else [np.zeros(1), np.zeros(1)]
    products = _products(state.adapter)
    return [p + (r.reshape(p.shape) if len(state.residual) else 0.0) for p, r in zip(products, parts, strict=True)]


def _error(found: list[np.ndarray], expected: list[np.ndarray]) -> float:
    """Relative error in the Frobenius norm of all modules together."""
    off = sum(float(np.square(f - e).sum()) for f, e in zip(found, expected, strict=True))
    return float(np.sqrt(off / sum(float(np.square(e).sum()) for e in expected)))


def test_exact_aggregation_equals_the_mean_of_the_clients_products_and_the_naive_mean_does_not() -> None:
    """Ten clients whose updates are about as large as what they started from: the mean of the tensors is off by 14 %."""
    updates = _updates(10)
    expected = _mean_of_products(updates)
    total = PrefixSum(SIZE)
    for update in updates:
        total.add(update)
    naive = _products(START.adapter + total.mean())
    exact = _exact(updates, residual=True)
    assert _error(_held(exact.state), expected) <= ROUNDED
    assert _error(naive, expected) > 0.1
    assert exact.lost <= ROUNDED


@given(clients=st.integers(1, 12), seed=st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_with_a_residual_the_state_equals_the_mean_of_products_for_any_number_of_clients(clients: int, seed: int) -> None:
    updates = _updates(clients, seed)
    exact = _exact(updates, residual=True)
    assert _error(_held(exact.state), _mean_of_products(updates)) <= ROUNDED
    assert exact.state.adapter.dtype == exact.state.residual.dtype == np.float32


@given(clients=st.integers(1, 12), seed=st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_a_stack_is_the_best_of_its_rank_and_loses_the_share_that_it_states(clients: int, seed: int) -> None:
    updates = _updates(clients, seed)
    expected = _mean_of_products(updates)
    exact = _exact(updates, residual=False)
    assert len(exact.state.residual) == 0
    assert _error(_held(exact.state), expected) == pytest.approx(exact.lost, abs=ROUNDED)
    assert exact.cut == exact.lost
    best = []
    for matrix, rank in zip(expected, (4, 2), strict=True):
        u, values, v = np.linalg.svd(matrix, full_matrices=False)
        best.append((u[:, :rank] * values[:rank]) @ v[:rank])
    for found, wanted in zip(_held(exact.state), best, strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-4)


def test_a_stack_is_exact_where_the_rank_allows() -> None:
    """One client, or clients that moved B alone from the same A, have a mean of the adapter's rank."""
    (one,) = _updates(1)
    same_a = []
    for update in _updates(5):
        update[:32] = update[68:84] = 0.0
        same_a.append(update)
    for updates in ([one], same_a):
        exact = _exact(updates, residual=False)
        assert exact.lost <= ROUNDED
        assert _error(_held(exact.state), _mean_of_products(updates)) <= ROUNDED


def test_a_residual_adds_up_over_rounds() -> None:
    """Each round's mean of products replaces the last one's product; what was cut before stays."""
    state, expected = WITH_RESIDUAL, [np.zeros((9, 8)), np.zeros((40, 8))]
    for round_number in range(4):
        updates = _updates(3, seed=round_number)
        theirs = [_products(state.adapter.astype(np.float64) + update) for update in updates]
        mean = [np.mean([client[module] for client in theirs], axis=0) for module in range(2)]
        kept = [held - product for held, product in zip(_held(state), _products(state.adapter), strict=True)]
        expected = [m + k for m, k in zip(mean, kept, strict=True)]
        state = _exact(updates, residual=True, state=state).state
        assert _error(_held(state), expected) <= ROUNDED
    assert np.abs(state.residual).max() > 0.1


def test_a_direction_that_holds_nothing_starts_again_as_lora_starts() -> None:
    """With A and B both at zero neither would ever get a gradient."""
    update = -START.adapter
    update[0], update[32] = 1.0 - START.adapter[0], 2.0 - START.adapter[32]  # rank one in the layer, nothing in the head
    exact = _exact([update], residual=False)
    b, a = PAIRS[0].factors(exact.state.adapter)
    initial_b, initial_a = PAIRS[0].factors(INITIAL)
    np.testing.assert_allclose(_products(exact.state.adapter)[0][0, 0] + b[0, 1:] @ -a[1:, 0], 2.0, rtol=ROUNDED)
    np.testing.assert_array_equal(a[1:], initial_a[1:])
    np.testing.assert_array_equal(b[:, 1:], initial_b[:, 1:])


def test_a_client_with_a_prefix_of_the_rank_leaves_the_rest_as_it_was() -> None:
    held = prefix_mask(PAIRS, SIZE, 1)
    small, large = (update * mask for update, mask in zip(_updates(2), (held, 1.0), strict=True))
    exact = _exact([small.astype(np.float32), large.astype(np.float32)], residual=True)
    expected = [(a + b) / 2 for a, b in zip(_products(START.adapter + small), _products(START.adapter + large), strict=True)]
    assert _error(_held(exact.state), expected) <= ROUNDED
    # Nobody trained: nothing of the tail is lost.
    nothing = _exact([np.zeros(SIZE, np.float32)] * 3, residual=False)
    assert _error(_held(nothing.state), _products(START.adapter)) <= ROUNDED


def test_the_mean_of_products_holds_more_noise_times_noise_than_the_product_of_means() -> None:
    """n = 16 silos, factors of noise alone (stddev 1, rank 4): the mean of products is sqrt(16) times as large.

    A norm over 72 entries of sums of 4 x 16 terms: two standard deviations are 15 %, the seed is fixed.
    """
    clients, start = 16, RecommenderState(START.log_prior, np.zeros(SIZE, np.float32))
    rng = np.random.default_rng(1)
    ratios = []
    for _ in range(20):
        noise = [rng.normal(size=SIZE).astype(np.float32) for _ in range(clients)]
        total = ProductSum(PAIRS, start.adapter)
        for update in noise:
            total.add(update)
        of_products = np.linalg.norm(total.means()[0].dense())
        ratios.append(of_products / np.linalg.norm(_products(np.mean(noise, axis=0))[0]))
    assert np.mean(ratios) == pytest.approx(4.0, rel=0.15)
