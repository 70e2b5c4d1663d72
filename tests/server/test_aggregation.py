"""Aggregation: the mean against plain numpy, server optimizers against their formulas, the prior by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.aggregation import ServerOptimizer, mean_update, popularity_prior
from shared.config import ServerSection


@given(clients=st.integers(1, 6), size=st.integers(1, 20), scale=st.floats(1e-6, 1e6), seed=st.integers(0, 99))
@settings(max_examples=50, deadline=None)
def test_mean_update_equals_the_plain_mean(clients: int, size: int, scale: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    updates = [(scale * rng.normal(size=size)).astype(np.float32) for _ in range(clients)]
    expected = [sum(float(update[i]) for update in updates) / clients for i in range(size)]
    mean = mean_update(updates)
    assert mean.dtype == np.float32
    np.testing.assert_allclose(mean, expected, rtol=1e-6, atol=scale * 1e-7)


def test_mean_update_sums_in_float64() -> None:
    updates = [np.array([value], dtype=np.float32) for value in (1e8, 1.0, -1e8, 1.0)]
    assert mean_update(updates)[0] == 0.5


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
        np.testing.assert_allclose(found, position, rtol=1e-6)


def test_server_adam_follows_its_formula() -> None:
    path = _steps(ServerSection(optimizer="adam", learning_rate=0.1), START, UPDATES)
    position, first, second = np.array(START), np.zeros(2), np.zeros(2)
    for step, (update, found) in enumerate(zip(UPDATES, path, strict=True), start=1):
        gradient = -np.array(update)
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        position = position - 0.1 * (first / (1 - 0.9**step)) / (np.sqrt(second / (1 - 0.999**step)) + 1e-8)
        np.testing.assert_allclose(found, position, rtol=1e-5)


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
    np.testing.assert_allclose(np.exp(prior), [0.4, 0.4, 0.2], rtol=1e-6)


def test_popularity_prior_raises_counts_below_the_noise_to_it() -> None:
    prior = popularity_prior(np.array([6.0, 1.0, -5.0]), noise_stddev=2.0)
    np.testing.assert_allclose(np.exp(prior), [0.6, 0.2, 0.2], rtol=1e-6)


def test_popularity_prior_without_noise_keeps_items_possible_that_nobody_has() -> None:
    prior = popularity_prior(np.array([1.0, 0.0]), noise_stddev=0.0)
    assert np.isfinite(prior).all()
    assert prior[1] < prior[0]
