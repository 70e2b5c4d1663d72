"""What a user adds to blending, selection and metrics is the same bit by bit whoever else is there, in every precision."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from numpy.typing import NDArray

from client.statistics.blending import blending_vectors
from client.statistics.metrics import bounded_metrics, evaluate
from client.statistics.selection import gain_vectors
from client.store.data import ClientRows
from shared.config import RunConfig
from shared.data.splitting import HISTORIES_SCHEMA
from shared.model.passes import PassShapes
from shared.model.recommender import Recommender, build
from shared.model.state import RecommenderState
from shared.model.statistics import DEFAULT_WEIGHTS, PART_UNITS, Statistics
from shared.privacy.shapes import StatisticShapes
from tests.plans import silo_plan

NUM_ITEMS = 12
CANDIDATES = silo_plan(
    statistics="popularity,pairs,transitions,selection", pairs_noise_multiplier=4.0, transitions_noise_multiplier=4.0
)
COMPARISONS = ("blending", "selection", "metrics", "exact metrics")
User = tuple[list[int], int]
# Two models: in one the transformer is frozen, so that what it makes of histories is remembered.
RANKS = {"trained": {}, "frozen": {"adapter.rank": 0, "adapter.input_rank": 0}}


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def precision(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module", params=sorted(RANKS))
def recommender(request: pytest.FixtureRequest, precision: str, tiny_config: RunConfig, tiny_catalog: Any) -> Recommender:
    changes = {"model.max_history_length": 12, "training.precision": precision, **RANKS[request.param]}
    built = build(tiny_config.with_values(changes), tiny_catalog)
    rng = np.random.default_rng(4)
    dimensions = built.attached.model.content.shape[1] + 2
    statistics = Statistics(
        (DEFAULT_WEIGHTS / PART_UNITS).astype(np.float32),
        rng.normal(size=(NUM_ITEMS, 3)).astype(np.float32),
        rng.normal(size=(NUM_ITEMS, 2)).astype(np.float32),
        rng.normal(size=(dimensions, dimensions)).astype(np.float32),
    )
    prior = rng.normal(size=NUM_ITEMS).astype(np.float32)
    adapter = rng.normal(0, 0.4, built.attached.size).astype(np.float32)
    built.load_state(RecommenderState(prior, adapter, statistics=statistics.to_vector()))
    return built


@pytest.fixture(params=[1, 2])
def threads(request: pytest.FixtureRequest) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


def _compared(name: str, users: list[User], recommender: Recommender, config: RunConfig) -> NDArray[np.float64]:
    """The row of each user, every one a client of its own."""
    recommender._encoded.clear()  # computed by these users and not found from another call
    table = pl.DataFrame(
        {
            "user": [f"u{number}" for number in range(len(users))],
            "train": [train for train, _ in users],
            "validation": [[target] for _, target in users],
            "test": [[target] for _, target in users],
        },
        schema=dict(HISTORIES_SCHEMA),
    )
    rows, several = ClientRows(histories=table, client=np.arange(len(users))), len(users)
    match name:
        case "blending":
            return blending_vectors(rows, recommender, config, num_clients=several)
        case "selection":
            shapes = StatisticShapes.of(config, CANDIDATES, recommender)
            return gain_vectors(rows, recommender, config, shapes, num_clients=several)
        case "metrics":
            return bounded_metrics(rows, recommender, config, target="validation", num_clients=several)
        case _:
            without_intervals = config.with_values({"evaluation.bootstrap_replicates": 0})
            return evaluate(rows, recommender, without_intervals, target="test", num_clients=several)


def _users(seed: int) -> list[User]:
    """Ten with histories of 0 to 14 interactions, in any order."""
    rng = np.random.default_rng(seed)
    return [(rng.integers(0, NUM_ITEMS, size).tolist(), int(rng.integers(0, NUM_ITEMS))) for size in rng.integers(0, 15, 10)]


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("name", COMPARISONS)
@pytest.mark.parametrize("batch_size", [4, 128])
def test_guarantee_a_users_row_is_the_same_bit_by_bit_whoever_else_is_there(
    name: str, batch_size: int, recommender: Recommender, tiny_config: RunConfig
) -> None:
    config, users = tiny_config.with_values({"evaluation.batch_size": batch_size}), _users(batch_size)
    among = _compared(name, users, recommender, config)
    assert among.any()
    alone = np.concatenate([_compared(name, [user], recommender, config) for user in users])
    np.testing.assert_array_equal(alone, among)
    np.testing.assert_array_equal(_compared(name, users[3:8], recommender, config), among[3:8])


@pytest.mark.usefixtures("threads")
def test_guarantee_scores_of_a_history_are_the_same_bit_by_bit_whatever_the_others_are(recommender: Recommender) -> None:
    histories = [np.array(train, dtype=np.int32) for train, _ in _users(0)]
    recommender._encoded.clear()
    scores, parts = recommender.score(histories), recommender.score_parts(histories)
    for row, history in enumerate(histories):
        recommender._encoded.clear()
        np.testing.assert_array_equal(recommender.score([history])[0], scores[row])
        np.testing.assert_array_equal(recommender.score_parts([history])[:, 0], parts[:, row])


@pytest.mark.parametrize("name", COMPARISONS)
@pytest.mark.parametrize("free", ["nothing", "widths", "rows"])
def test_no_user_moves_another_even_where_scores_depend_on_the_shape_of_a_pass(
    name: str, free: str, recommender: Recommender, tiny_config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As rounded products do, by more or less; with shapes that depend on others (negative controls) it is found out."""
    model = recommender.attached.model

    def disturbed(method: str) -> None:
        exact = getattr(model, method)

        def scores(hidden: Any, recent: Any, items: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
            noise = np.random.default_rng(items.shape).normal(size=NUM_ITEMS).astype(np.float32)
            found: torch.Tensor = exact(hidden, recent, items, lengths) + torch.from_numpy(noise)
            return found

        monkeypatch.setattr(model, method, scores)

    disturbed("score_parts")
    disturbed("score_encoded")
    users = _users(0)
    if free == "widths":
        monkeypatch.setattr(PassShapes, "widths", lambda self, lengths: np.full(len(lengths), lengths.max(initial=2)))
    if free == "rows":
        monkeypatch.setattr("shared.data.sequences.RaggedHistories.filled_up", lambda self, rows: self)
    among = _compared(name, users, recommender, tiny_config)
    alone = np.concatenate([_compared(name, [user], recommender, tiny_config) for user in users])
    assert np.array_equal(among, alone) == (free == "nothing")
