"""Blending and selection: what one user's validation item says is bounded, whatever the history and the state."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from client.statistics.blending import blending_vectors
from client.statistics.selection import gain_vectors
from client.store.data import ClientRows
from shared.config import RunConfig
from shared.data.splitting import HISTORIES_SCHEMA
from shared.model.recommender import Recommender, build
from shared.model.state import RecommenderState
from shared.model.statistics import DEFAULT_WEIGHTS, NUM_WEIGHTS, PART_UNITS, Statistics
from shared.privacy.releases import BLENDING_BOUND, HESSIAN_SCALE
from shared.privacy.shapes import StatisticShapes
from tests.oracles import metrics_of_user
from tests.plans import silo_plan

NUM_ITEMS, K = 12, 3
ROOM = 2.0**-40
CANDIDATES = silo_plan(
    statistics="popularity,pairs,transitions,selection", pairs_noise_multiplier=4.0, transitions_noise_multiplier=4.0
)

ITEMS = st.one_of(
    st.lists(st.integers(0, NUM_ITEMS - 1), max_size=12),
    st.integers(0, NUM_ITEMS - 1).map(lambda item: [item] * 1000),
    st.permutations(range(NUM_ITEMS)),
    st.lists(st.integers(-5, 10**9), max_size=3),
)
TARGET = st.one_of(st.lists(st.integers(0, NUM_ITEMS - 1), min_size=1, max_size=2), st.just([]), st.just([NUM_ITEMS]))
USER = st.tuples(ITEMS, TARGET)
User = tuple[list[int], list[int]]
FAULTS = {
    "sound": lambda values: values,
    "not a number": lambda values: np.full_like(values, np.nan),
    "one is not a number": lambda values: np.where(np.arange(values.size).reshape(values.shape) == 3, np.nan, values),
    "infinite": lambda values: np.full_like(values, np.inf),
    "minus infinity": lambda values: np.full_like(values, -np.inf),
    "large": lambda values: values * np.float32(100),
    "huge": lambda values: values * np.float32(1e37),
    "zero": lambda values: np.zeros_like(values),
}


@pytest.fixture(scope="module")
def recommender(tiny_config: RunConfig, tiny_catalog: Any) -> Recommender:
    return build(tiny_config, tiny_catalog)


def _load(recommender: Recommender, fault: str = "sound") -> None:
    """A state whose five scores all say something; a fault is in prior, factors and transition."""
    rng = np.random.default_rng(4)
    dimensions = recommender.attached.model.content.shape[1] + 2
    broken = FAULTS[fault]
    statistics = Statistics(
        (DEFAULT_WEIGHTS / PART_UNITS).astype(np.float32),
        broken(rng.normal(size=(NUM_ITEMS, 3)).astype(np.float32)),
        broken(rng.normal(size=(NUM_ITEMS, 2)).astype(np.float32)),
        broken(rng.normal(size=(dimensions, dimensions)).astype(np.float32)),
    )
    prior = broken(rng.normal(size=NUM_ITEMS).astype(np.float32))
    adapter = rng.normal(0, 0.4, recommender.attached.size).astype(np.float32)
    recommender.load_state(RecommenderState(prior, adapter, statistics=statistics.to_vector()))


def _rows(users: list[User], silos: list[int] | None = None) -> ClientRows:
    table = pl.DataFrame(
        {
            "user": [f"u{number}" for number in range(len(users))],
            "train": [train for train, _ in users],
            "validation": [target for _, target in users],
            "test": [[0] for _ in users],
        },
        schema=dict(HISTORIES_SCHEMA),
    )
    return ClientRows(histories=table, client=np.array(silos or [0] * len(users), dtype=np.int64))


def _each(users: list[User]) -> ClientRows:
    """Every user a client."""
    return _rows(users, list(range(len(users))))


class Comparison:
    """One of the two statistics, with what its arguments are."""

    def __init__(self, name: str, recommender: Recommender, config: RunConfig) -> None:
        self.name, self.recommender, self.config = name, recommender, config

    def __call__(self, rows: ClientRows, *, num_clients: int) -> NDArray[np.float64]:
        if self.name == "blending":
            return blending_vectors(rows, self.recommender, self.config, num_clients=num_clients)
        shapes = StatisticShapes.of(self.config, CANDIDATES, self.recommender)
        return gain_vectors(rows, self.recommender, self.config, shapes, num_clients=num_clients)


@pytest.fixture(scope="module", params=["blending", "selection"])
def comparison(request: pytest.FixtureRequest, recommender: Recommender, tiny_config: RunConfig) -> Comparison:
    return Comparison(request.param, recommender, tiny_config)


@settings(max_examples=60)
@given(st.lists(USER, max_size=4), st.sampled_from(sorted(FAULTS)))
@example([([0, 1], [2])], "not a number")
@example([(list(range(NUM_ITEMS)), [5])], "minus infinity")
@example([([0, 1], [2]), ([3], [4]), ([5, 5], [6])], "large")
@pytest.mark.filterwarnings("ignore:.*:RuntimeWarning")
def test_guarantee_the_l2_norm_of_a_users_row_is_at_most_1_whatever_the_history_and_the_state(
    comparison: Comparison, users: list[User], fault: str
) -> None:
    _load(comparison.recommender, fault)
    found = comparison(_each(users), num_clients=len(users))
    assert np.isfinite(found).all()
    for row, (train, target) in zip(found, users, strict=True):
        assert math.sqrt(math.fsum(row**2)) <= 1 + ROOM
        if not target or not all(item in range(NUM_ITEMS) for item in [*train, *target]):
            assert not row.any()


@settings(max_examples=40)
@given(st.lists(USER, min_size=1, max_size=4), st.randoms(use_true_random=False))
def test_a_users_row_depends_on_its_own_history_alone_and_on_no_order(
    comparison: Comparison, users: list[User], random: Any
) -> None:
    """Scores are float32 products of batches, so that the last bits may differ; a rank among twelve items does not here."""
    _load(comparison.recommender)
    order = list(range(len(users)))
    random.shuffle(order)
    among = comparison(_each(users), num_clients=len(users))
    shuffled = comparison(_each([users[number] for number in order]), num_clients=len(users))
    np.testing.assert_allclose(shuffled, among[order], atol=1e-5)
    for number, user in enumerate(users):
        np.testing.assert_allclose(comparison(_each([user]), num_clients=1)[0], among[number], atol=1e-5)


@settings(max_examples=40)
@given(st.lists(st.tuples(USER, st.integers(0, 2)), max_size=5))
def test_the_rows_of_silos_are_the_sums_of_those_of_their_users(
    comparison: Comparison, users: list[tuple[User, int]]
) -> None:
    _load(comparison.recommender)
    histories, silos = [user for user, _ in users], [silo for _, silo in users]
    each = comparison(_each(histories), num_clients=len(users))
    found = comparison(_rows(histories, silos), num_clients=3)
    for silo in range(3):
        np.testing.assert_allclose(found[silo], each[np.array(silos, dtype=int) == silo].sum(axis=0), atol=1e-6)


@pytest.mark.parametrize("batch_size", [1, 2, 100])
def test_gradient_and_hessian_are_the_derivatives_of_the_loss(
    recommender: Recommender, tiny_config: RunConfig, batch_size: int
) -> None:
    """Against finite differences of -log softmax over the items not yet seen, in float64."""
    _load(recommender)
    config = tiny_config.with_values({"evaluation.batch_size": batch_size})
    users: list[User] = [([0, 1, 2], [3]), ([4], [4]), ([5, 6, 7, 8, 9, 10, 11], [0]), ([1, 1, 1], [2])]
    found = blending_vectors(_each(users), recommender, config, num_clients=len(users))
    first, second = np.triu_indices(NUM_WEIGHTS)
    for row, (train, (target,)) in zip(found, users, strict=True):
        parts = recommender.score_parts([np.array(train, dtype=np.int32)])[:, 0].astype(np.float64) / PART_UNITS[:, None]
        # The weights of the step are those that the recommender scores with.
        scored = recommender.score([np.array(train, dtype=np.int32)])[0]
        np.testing.assert_allclose(DEFAULT_WEIGHTS @ parts, scored, rtol=1e-4, atol=1e-4)
        unseen = [item for item in range(NUM_ITEMS) if item not in train or item == target]

        def loss(weights: NDArray[np.float64], parts: Any = parts, unseen: Any = unseen, target: int = target) -> float:
            scores = weights @ parts
            return float(np.log(np.exp(scores[unseen] - scores[target]).sum()))

        step, at = 1e-3, DEFAULT_WEIGHTS.astype(np.float64)
        units = np.eye(NUM_WEIGHTS) * step
        gradient = np.array([loss(at - one) - loss(at + one) for one in units]) / (2 * step)
        signs = ((1, 1, 1), (1, -1, -1), (-1, 1, -1), (-1, -1, 1))
        corners = [
            sum(sign * loss(at + left * units[a] + right * units[b]) for left, right, sign in signs)
            for a, b in zip(first, second, strict=True)
        ]
        hessian = np.array(corners) / (4 * step**2)
        exact = np.concatenate([gradient, HESSIAN_SCALE * hessian])
        exact /= max(float(np.linalg.norm(exact)), BLENDING_BOUND)
        # Central differences of a step of 1e-3 are off by its square times the next derivatives, which are of order 10.
        np.testing.assert_allclose(row, exact, atol=1e-3)
        assert np.abs(exact).max() > 0.02


def test_gains_are_differences_of_ndcg_found_by_sorted_lists(recommender: Recommender, tiny_config: RunConfig) -> None:
    _load(recommender)
    shapes = StatisticShapes.of(tiny_config, CANDIDATES, recommender)
    assert shapes.candidates == ("untrained", "weighted", "pairs", "transitions", "statistics", "trained")
    users: list[User] = [
        ([number % NUM_ITEMS, (5 * number + 1) % NUM_ITEMS], [(number + 2) % NUM_ITEMS]) for number in range(12)
    ]
    found = gain_vectors(_each(users), recommender, tiny_config, shapes, num_clients=len(users))
    weights = np.array(recommender.attached.model.weights)
    model = tiny_config.model
    candidates = [
        np.array([model.text_similarity_weight, model.popularity_weight, 0.0, 0.0, 0.0]),
        np.array([*weights[:2], 0.0, 0.0, 0.0]),
        np.array([*weights[:3], 0.0, 0.0]),
        np.array([*weights[:2], 0.0, weights[3], 0.0]),
        np.array([*weights[:4], 0.0]),
        weights,
    ]
    for row, (train, target) in zip(found, users, strict=True):
        parts = recommender.score_parts([np.array(train, dtype=np.int32)])[:, 0].astype(np.float64)
        ndcg = [metrics_of_user((own @ parts).tolist(), train, target, K)[f"ndcg@{K}"] for own in candidates]
        np.testing.assert_allclose(row, (np.array(ndcg[1:]) - ndcg[0]) / math.sqrt(5), atol=1e-9)
    assert np.abs(found).max() > 0.1


@pytest.mark.parametrize("rounds", [0, 3])
def test_candidates_are_what_the_plan_can_release(recommender: Recommender, tiny_config: RunConfig, rounds: int) -> None:
    """Without training there is no adapter to compare, and one difference less is a user's vector."""
    _load(recommender)
    shapes = StatisticShapes.of(tiny_config, replace(CANDIDATES, rounds=rounds), recommender)
    assert shapes.sizes["selection"] == len(shapes.candidates) - 1 == (5 if rounds else 4)
    found = gain_vectors(_each([([0], [1])]), recommender, tiny_config, shapes, num_clients=1)
    assert found.shape == (1, shapes.sizes["selection"])
