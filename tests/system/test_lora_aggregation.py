"""LoRA across a federation, with real messages: exact aggregation, residuals, clients of different ranks.

The reference computes what every client learned by training it alone, and multiplies its factors entry by entry.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from flwr.app import Message

from client.app import app as client_app
from server import checkpoints
from server.app import server_app
from shared.artifact import load_recommender
from shared.config import RunConfig
from shared.data.catalog import ItemCatalog
from shared.errors import ConfigError, UnsupportedMechanism
from shared.model.recommender import Recommender, resident
from shared.model.state import RecommenderState
from shared.privacy.calibration import plan_of
from shared.protocol.messages import ContributionReply, TrainInstruction
from simulations.engines.cohort import CohortGrid
from simulations.engines.local_grid import InProcessGrid, serve
from tests import rounding, running

PLAIN = {"privacy.epsilon": math.inf, "privacy.delta": 0.0, "adapter.kind": "lora", "training.learning_rate": 0.5}
# Products are added up in float64; what they give is kept in float32, factors that are multiplied and a residual.
ROUNDED = rounding.rounding(sums=3)
USERS = {
    "federation.clients": 0, "privacy.mechanism": "central", "privacy.delta": 0.001, "training.local_steps": 1,
    "server.learning_rate": 2.0,
}  # fmt: skip


class _Watched(CohortGrid):
    """Writes down from where each round started and what each client sent."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.states: list[np.ndarray] = []
        self.updates: list[list[ContributionReply]] = []

    def send_and_receive(self, messages: Any, *, timeout: float | None = None) -> Iterator[Message]:
        asked = list(messages)
        trains = bool(asked) and asked[0].metadata.message_type == "train"
        if trains:
            self.states.append(TrainInstruction.from_message(asked[0]).state.copy())
            self.updates.append([])
        for reply in super().send_and_receive(asked, timeout=timeout):
            if trains:
                self.updates[-1].append(ContributionReply.from_message(reply, in_ring=False))
            yield reply


def _run(folder: Path, config: RunConfig, histories: pl.DataFrame, catalog: ItemCatalog, **changes: Any) -> Any:
    config = running.population(folder, config.with_values(changes), histories, catalog)
    nodes = config.federation.clients or len(histories)
    grid = _Watched(num_nodes=nodes, run_config=config.to_flat())
    serve(server_app(), grid)
    return grid, config


def _states(grid: _Watched, config: RunConfig, folder: Path, recommender: Recommender) -> list[RecommenderState]:
    last = checkpoints.load(folder / "run", config_digest=config.digest()).state
    return [recommender.read_state(vector) for vector in [*grid.states, last]]


def _weights(recommender: Recommender, adapter: np.ndarray, residual: np.ndarray) -> np.ndarray:
    """Every module's product plus residual, one after the other; the oracle."""
    parts, start = [], 0
    for pair in recommender.attached.pairs:
        assert pair.a is not None
        assert pair.b is not None
        a = adapter[pair.a : pair.a + pair.rank * pair.in_features].astype(np.float64).reshape(pair.rank, -1)
        b = adapter[pair.b : pair.b + pair.rank * pair.out_features].astype(np.float64).reshape(-1, pair.rank)
        product = np.einsum("or,ri->oi", b, a).ravel()
        parts.append(product + (residual[start : start + pair.size] if len(residual) else 0.0))
        start += pair.size
    return np.concatenate(parts)


def _events(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "run" / "events.jsonl").read_text().splitlines()
    return [event for event in map(json.loads, lines) if event["event"] == "round"]


@pytest.mark.parametrize("extra", [{}, {"adapter.item_rank": 2}], ids=["plain", "item factors"])
def test_with_residual_the_servers_weights_are_the_mean_of_the_clients_and_with_mean_they_are_not(
    extra: dict[str, Any], tmp_path: Path, tiny_config: RunConfig, tiny_histories: pl.DataFrame, tiny_catalog: ItemCatalog
) -> None:
    errors = {}
    for aggregation in ("residual", "stack", "mean"):
        folder = tmp_path / aggregation
        folder.mkdir()
        changes = {**PLAIN, **extra, "adapter.aggregation": aggregation}
        grid, config = _run(folder, tiny_config, tiny_histories, tiny_catalog, **changes)
        recommender = resident(config, tiny_catalog)
        states = _states(grid, config, folder, recommender)
        off = []
        for before, after, replies in zip(states, states[1:], grid.updates, strict=False):
            theirs = [
                _weights(recommender, before.adapter.astype(np.float64) + reply.values, before.residual) for reply in replies
            ]
            expected = np.mean(theirs, axis=0)
            found = _weights(recommender, after.adapter, after.residual)
            off.append(np.linalg.norm(found - expected) / np.linalg.norm(expected))
        errors[aggregation] = off
        for event, error in zip(_events(folder), off, strict=True):
            if aggregation == "stack":
                assert event["aggregation_error"] == pytest.approx(error, rel=1e-3, abs=ROUNDED)
            if aggregation == "residual":
                assert event["aggregation_error"] <= ROUNDED
                assert event["aggregation_cut"] > 1e-4
            assert ("aggregation_error" in event) == (aggregation != "mean")
    assert max(errors["residual"]) <= ROUNDED
    assert errors["mean"][0] > 0.02
    assert min(errors["mean"]) > 1e-4
    assert min(errors["stack"]) > 1e-4


@pytest.mark.parametrize("aggregation", ["stack", "residual"])
def test_clients_one_by_one_and_all_at_once_come_to_the_same_weights(
    aggregation: str, tmp_path: Path, tiny_config: RunConfig, tiny_histories: pl.DataFrame, tiny_catalog: ItemCatalog
) -> None:
    changes = {**PLAIN, "adapter.aggregation": aggregation, "training.learning_rate": 0.2, "adapter.client_ranks": "2,1"}
    found = []
    for kind in (CohortGrid, InProcessGrid):
        folder = tmp_path / kind.__name__
        folder.mkdir()
        config = running.population(folder, tiny_config, tiny_histories, tiny_catalog, **changes)
        given = {"num_nodes": 3, "run_config": config.to_flat()}
        serve(server_app(), kind(**given) if kind is CohortGrid else kind(client_app, **given))
        recommender = resident(config, tiny_catalog)
        state = recommender.read_state(checkpoints.load(folder / "run", config_digest=config.digest()).state)
        found.append(_weights(recommender, state.adapter, state.residual))
    one, other = found
    assert np.linalg.norm(one - other) <= rounding.of_gradients(recommender) * np.linalg.norm(one)


@pytest.mark.parametrize("aggregation", ["stack", "residual"])
def test_a_resumed_run_with_exact_aggregation_ends_bit_for_bit_like_an_uninterrupted_one(
    aggregation: str, tmp_path: Path, tiny_config: RunConfig, tiny_histories: pl.DataFrame, tiny_catalog: ItemCatalog
) -> None:
    changes = {**PLAIN, "adapter.aggregation": aggregation, "federation.rounds": 4}
    (tmp_path / "whole").mkdir()
    (tmp_path / "halves").mkdir()
    _, config = _run(tmp_path / "whole", tiny_config, tiny_histories, tiny_catalog, **changes)
    whole = checkpoints.load(tmp_path / "whole" / "run", config_digest=config.digest())

    class Stops(CohortGrid):
        def send_and_receive(self, messages: Any, *, timeout: float | None = None) -> Iterator[Message]:
            asked = list(messages)
            if (asked[0].metadata.message_type, asked[0].metadata.group_id) == ("train", "3"):
                raise KeyboardInterrupt
            yield from super().send_and_receive(asked, timeout=timeout)

    folder = tmp_path / "halves"
    own = running.population(folder, tiny_config, tiny_histories, tiny_catalog, **changes)
    with pytest.raises(KeyboardInterrupt):
        serve(server_app(), Stops(num_nodes=3, run_config=own.to_flat()))
    resumed = own.with_values({"run.resume": True})
    serve(server_app(), CohortGrid(num_nodes=3, run_config=resumed.to_flat()))
    halves = checkpoints.load(folder / "run", config_digest=own.digest())
    np.testing.assert_array_equal(halves.state, whole.state)


@pytest.mark.parametrize("frozen", [False, True], ids=["transformer trained", "transformer frozen"])
def test_a_released_residual_is_part_of_what_is_recommended_from(
    frozen: bool, tmp_path: Path, tiny_config: RunConfig, tiny_histories: pl.DataFrame, tiny_catalog: ItemCatalog
) -> None:
    """Negative control: the scores without it differ."""
    changes = {**PLAIN, "adapter.aggregation": "residual", "adapter.rank": 0 if frozen else 2, "adapter.input_rank": 0}
    _, config = _run(tmp_path, tiny_config, tiny_histories, tiny_catalog, **changes)
    run = tmp_path / "run"
    (run / "population").symlink_to(tmp_path / "population")
    histories = [np.array([1, 5, 2]), np.array([0]), np.array([7, 7, 3, 11])]
    loaded = load_recommender(run)
    recommender = resident(config, tiny_catalog)
    state = recommender.read_state(checkpoints.load(run, config_digest=config.digest()).state)
    recommender.load_state(state)
    rounding.assert_close(loaded.score(histories), recommender.score(histories), within=rounding.of_scores(recommender))
    assert "residual.safetensors" in json.loads((run / "adapter" / "manifest.json").read_text())["files"]
    recommender.load_state(RecommenderState(state.log_prior, state.adapter))
    assert np.abs(loaded.score(histories) - recommender.score(histories)).max() > 1e-3


REFUSED = {
    "ffa": ({**PLAIN, "adapter.kind": "ffa"}, ConfigError, "Expected adapter.aggregation=mean with adapter.kind=ffa"),
    "momentum": ({**PLAIN, "server.momentum": 0.5}, ConfigError, "Expected server.optimizer=sgd, server.learning_rate=1"),
    "server rate": ({**PLAIN, "server.learning_rate": 0.5}, ConfigError, "Expected server.optimizer=sgd"),
    "adam": ({**PLAIN, "server.optimizer": "adam"}, ConfigError, "Expected server.optimizer=sgd"),
    "dp-ftrl": (
        {"adapter.kind": "lora", "privacy.mechanism": "dp-ftrl-silo", "privacy.min_separation": 2},
        UnsupportedMechanism, "Its noise is taken back step by step in the same coordinates",
    ),
    **{
        mechanism: (
            {**USERS, "adapter.kind": "lora", "server.learning_rate": 1.0, "privacy.mechanism": mechanism},
            UnsupportedMechanism, "The server may use nothing but the sum of the clients' updates",
        )
        for mechanism in ("central", "dp-ftrl-central", "distributed")
    },
}  # fmt: skip


@pytest.mark.parametrize("aggregation", ["stack", "residual"])
@pytest.mark.parametrize("name", REFUSED)
def test_exact_aggregation_is_refused_before_anything_runs_where_it_cannot_be(
    name: str, aggregation: str, tiny_config: RunConfig
) -> None:
    changes, error, message = REFUSED[name]
    with pytest.raises(error, match=message):
        config = tiny_config.with_values({**changes, "adapter.aggregation": aggregation})
        plan_of(config, num_users=9)


def test_silos_that_noise_every_step_may_have_their_products_averaged(
    tmp_path: Path, tiny_config: RunConfig, tiny_histories: pl.DataFrame, tiny_catalog: ItemCatalog
) -> None:
    changes = {"adapter.kind": "lora", "adapter.aggregation": "residual", "training.learning_rate": 0.01}
    grid, config = _run(tmp_path, tiny_config, tiny_histories, tiny_catalog, **changes)
    assert config.is_private
    assert len(grid.updates) == 2
    assert max(event["aggregation_error"] for event in _events(tmp_path)) <= ROUNDED


RANKED: dict[str, dict[str, Any]] = {
    "no privacy": {**PLAIN, "training.optimizer": "sgd", "training.learning_rate": 0.1},
    "no privacy, Adam with decay": {
        **PLAIN, "training.optimizer": "adam", "training.weight_decay": 0.1, "training.learning_rate": 0.02,
    },
    "ffa": {**PLAIN, "adapter.kind": "ffa", "training.learning_rate": 0.1},
    "dp-sgd": {},
    "dp-sgd by Opacus": {"training.gradients": "opacus"},
    "dp-sgd, both factors": {"adapter.kind": "lora"},
    "dp-ftrl-silo": {"privacy.mechanism": "dp-ftrl-silo", "privacy.min_separation": 2},
}  # fmt: skip


@pytest.mark.parametrize("name", RANKED)
def test_each_coordinate_moves_by_the_mean_over_the_clients_that_have_it(
    name: str, tmp_path: Path, tiny_config: RunConfig, tiny_histories: pl.DataFrame, tiny_catalog: ItemCatalog
) -> None:
    """Three clients of ranks 3, 1, 1: what only the first has moves by its own update, and nobody sends more than it has."""
    changes = {**RANKED[name], "adapter.client_ranks": "3,1,1"}
    grid, config = _run(tmp_path, tiny_config, tiny_histories, tiny_catalog, **changes)
    recommender = resident(config, tiny_catalog)
    attached = recommender.attached
    states = _states(grid, config, tmp_path, recommender)
    first = attached.prefix(1)
    assert 0 < first.sum() < attached.size
    for before, after, replies in zip(states, states[1:], grid.updates, strict=False):
        assert sorted((reply.rank, len(reply.values)) for reply in replies) == [
            (1, first.sum()), (1, first.sum()), (3, attached.size)
        ]  # fmt: skip
        expected = np.zeros(attached.size)
        for reply in replies:
            held = attached.prefix(reply.rank)
            part = np.zeros(attached.size)
            part[held] = reply.values
            expected += part / np.where(first, 3.0, 1.0)
            assert np.abs(reply.values).max() > 0
        # A float32 adapter is moved: its last digit is that of the largest weight, not of the update.
        rounding.assert_close(after.adapter, before.adapter + expected, within=rounding.rounding(sums=4))


def test_across_devices_the_divisor_of_each_coordinate_is_the_number_expected_to_have_it(
    tmp_path: Path, tiny_config: RunConfig, tiny_histories: pl.DataFrame, tiny_catalog: ItemCatalog
) -> None:
    """Nine users, a third of them with the whole rank, a different third in each of three runs.

    B starts at zero, so what one learns in the tail does not depend on the others' ranks: the mean of the three runs'
    tails is the tail of a run in which all have the whole rank. Noise is 1 % of it, and nothing is clipped.
    """
    changes = {**USERS, "federation.rounds": 1, "training.learning_rate": 2.0, "privacy.epsilon": 1e9}
    changes["privacy.l2_clip_norm"] = 4.0
    found = {}
    for ranks in ("", "3,1,1", "1,3,1", "1,1,3", "1,1"):
        folder = tmp_path / (ranks or "all")
        folder.mkdir()
        own = {**changes, "adapter.client_ranks": ranks}
        config = running.population(folder, tiny_config, tiny_histories, tiny_catalog, **own)
        serve(server_app(), CohortGrid(num_nodes=9, run_config=config.to_flat()))
        recommender = resident(config, tiny_catalog)
        state = recommender.read_state(checkpoints.load(folder / "run", config_digest=config.digest()).state)
        found[ranks] = (state.adapter - recommender.initial_adapter).astype(np.float64)
    tail = ~recommender.attached.prefix(1)
    thirds = np.mean([found[ranks] for ranks in ("3,1,1", "1,3,1", "1,1,3")], axis=0)
    assert np.linalg.norm(thirds[tail] - found[""][tail]) <= 0.03 * np.linalg.norm(found[""][tail])
    # Nobody has it: nothing but noise is in the sum, and none of that is let into the state.
    assert not found["1,1"][tail].any()
    assert found["1,1"][~tail].any()
