"""Clients of different ranks: each trains a prefix of every pair of factors, alone or in one batch with others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from flwr.app import Context, Message, RecordDict
from scipy import stats

from client.app import app
from client.batch import ClientBatch
from client.training.dp_sgd import TrainingTask, train
from shared.config import RunConfig
from shared.errors import ConfigError
from shared.model.recommender import Recommender, build, resident
from shared.model.state import RecommenderState
from shared.privacy.calibration import plan_of
from shared.protocol.messages import ContributionReply, TrainInstruction
from shared.randomness import replayable_source, secret_source
from simulations.engines.local_grid import InProcessGrid
from tests import rounding, running
from tests.plans import plain_plan, silo_plan

PRIOR = np.zeros(12, dtype=np.float32)


@pytest.fixture(scope="module", params=["lora", "ffa"])
def recommender(request: pytest.FixtureRequest, tiny_config: RunConfig, tiny_catalog: Any) -> Recommender:
    return build(tiny_config.with_values({"adapter.kind": request.param}), tiny_catalog)


@pytest.fixture
def state(recommender: Recommender) -> RecommenderState:
    """Away from zero everywhere, in the tails too."""
    noise = np.random.default_rng(2).normal(0, 0.2, recommender.attached.size).astype(np.float32)
    return RecommenderState(PRIOR, recommender.initial_adapter + noise)


def _task(state: RecommenderState, histories: pl.DataFrame, rank: int | None, **changes: Any) -> TrainingTask:
    values: dict[str, Any] = {"expected_batch_size": 4.5, "learning_rate": 0.1, "source": replayable_source(3, "test")}
    return TrainingTask(state, histories["train"], largest_rank=rank, **{**values, **changes})


def _cut_by_hand(recommender: Recommender, adapter: np.ndarray, rank: int) -> np.ndarray:
    """The oracle: tensor by tensor, by its name."""
    parts, start = [], 0
    for name, parameter in recommender.attached.trained:
        part = adapter[start : start + parameter.numel()].reshape(parameter.shape).copy()
        start += parameter.numel()
        if "lora_A" in name:
            part[rank:] = 0
        else:
            part[:, rank:] = 0
        parts.append(part.ravel())
    return np.concatenate(parts)


@pytest.mark.parametrize("rank", [1, 2])
def test_a_small_client_learns_what_a_model_of_its_own_small_rank_would(
    rank: int, tiny_config: RunConfig, tiny_catalog: Any, tiny_histories: pl.DataFrame, recommender: Recommender, state: Any
) -> None:
    """The reference is a model that was built with the smaller rank and has the prefix of every factor, frozen ones too."""
    kind = "ffa" if len({name.split(".")[-3] for name, _ in recommender.attached.trained}) == 1 else "lora"
    ranks = {f"adapter.{key}": rank for key in ("rank", "head_rank", "input_rank", "output_rank")}
    small = build(tiny_config.with_values({"adapter.kind": kind, **ranks}), tiny_catalog)
    recommender.load_state(state)
    for large_layer, small_layer in zip(_layers(recommender), _layers(small), strict=True):
        for factor, cut in (("lora_A", np.s_[:rank]), ("lora_B", np.s_[:, :rank])):
            whole = getattr(large_layer, factor)["default"].weight.detach()
            getattr(small_layer, factor)["default"].weight.data.copy_(whole[cut])
    start = RecommenderState(PRIOR, small.attached.to_vector())
    plan = plain_plan(sampling_rate=0.8, steps_per_round=4, rounds=1)
    config = tiny_config.training.model_copy(update={"random_windows": False})
    (reference,) = train([_task(start, tiny_histories, None)], small, plan, config)
    (found,) = train([_task(state, tiny_histories, rank)], recommender, plan, config)
    held = recommender.attached.prefix(rank)
    assert np.linalg.norm(reference) > 1e-3
    rounding.assert_close(found[held], reference, within=rounding.of_gradients(recommender))
    assert not found[~held].any()


def _layers(recommender: Recommender) -> list[Any]:
    return [module for _, module in sorted(recommender.attached.model.named_modules()) if hasattr(module, "lora_variant")]


@pytest.mark.parametrize("gradients", ["closed-form", "opacus"])
@pytest.mark.parametrize("noise", [0.0, 1.0])
def test_clients_of_different_ranks_in_one_batch_learn_what_each_learns_alone(
    noise: float,
    gradients: str,
    tiny_config: RunConfig,
    tiny_histories: pl.DataFrame,
    recommender: Recommender,
    state: RecommenderState,
) -> None:
    plan = silo_plan(noise_multiplier=noise, sampling_rate=0.8, steps_per_round=3, rounds=1)
    config = tiny_config.training.model_copy(update={"gradients": gradients, "weight_decay": 0.1})
    tasks = [
        _task(state, tiny_histories[place : place + 6], rank, source=replayable_source(3, place))
        for place, rank in enumerate([1, None, 2, 1])
    ]
    together = train(tasks, recommender, plan, config)
    for place, task in enumerate(tasks):
        fresh = replace(task, source=replayable_source(3, place))
        (alone,) = train([fresh], recommender, plan, config)
        rounding.assert_close(together[place], alone, within=rounding.of_gradients(recommender))
        held = recommender.attached.prefix(task.largest_rank)
        assert not together[place][~held].any()
        assert np.count_nonzero(together[place][held]) > 0.9 * held.sum() or not noise


def test_gradients_are_cut_to_the_prefix_before_they_are_clipped(
    tiny_config: RunConfig, tiny_catalog: Any, tiny_histories: pl.DataFrame
) -> None:
    """With A frozen B's tail has a gradient of its own; cut after clipping, the update would be shorter than the bound."""
    recommender = build(tiny_config.with_values({"adapter.kind": "ffa"}), tiny_catalog)
    state = RecommenderState(PRIOR, recommender.initial_adapter)
    plan = silo_plan(noise_multiplier=1e-9, sampling_rate=1.0, steps_per_round=1, rounds=1, l2_clip_norm=1e-3)
    task = _task(state, tiny_histories[8:], 1, expected_batch_size=1.0, learning_rate=1.0, source=secret_source())
    (result,) = train([task], recommender, plan, tiny_config.training)
    assert np.linalg.norm(result) == pytest.approx(1e-3, rel=1e-3)


def test_noise_is_in_every_coordinate_that_a_small_silo_has_and_nothing_is_in_the_others(
    tiny_config: RunConfig, recommender: Recommender
) -> None:
    """Null: the update of a silo without users is Gaussian with the plan's standard deviation over the divisor.

    About 800 coordinates a draw, 20 draws of the system's noise; Kolmogorov-Smirnov at 1e-6. Negative controls: 2/3 and 3/2.
    """
    start = RecommenderState(PRIOR, np.zeros(recommender.attached.size, dtype=np.float32))  # no rounding of a difference
    plan = silo_plan(noise_multiplier=2.0, sampling_rate=0.5, steps_per_round=1, rounds=1)
    nobody = pl.DataFrame({"train": []}, schema={"train": pl.List(pl.Int32)})
    held = recommender.attached.prefix(1)
    tasks = [_task(start, nobody, 1, source=secret_source()) for _ in range(20)]
    updates = train(tasks, recommender, plan, tiny_config.training)
    assert not updates[:, ~held].any()
    stddev = plan.noise_stddev / 4.5 * 0.1
    drawn = updates[:, held].ravel() / stddev
    assert (drawn != 0).all()
    assert stats.kstest(drawn, "norm").pvalue > 1e-6
    for wrong in (2 / 3, 3 / 2):
        assert stats.kstest(drawn * wrong, "norm").pvalue < 1e-6


def test_what_is_cut_is_the_prefix_of_every_tensor_by_name(recommender: Recommender) -> None:
    ones = np.ones(recommender.attached.size, dtype=np.float32)
    for rank in (1, 2, 3):
        np.testing.assert_array_equal(recommender.attached.prefix(rank), _cut_by_hand(recommender, ones, rank) > 0)


def _context(folder: Path, config: RunConfig, partition: int, **node: Any) -> Context:
    node_config = {"partition-id": partition, "population": str(folder / "population"), **node}
    return Context(run_id=1, node_id=1, node_config=node_config, state=RecordDict(), run_config=config.to_flat())


def test_the_rank_of_a_client_is_the_runs_in_turn_and_no_more_than_its_device_allows(
    tmp_path: Path, tiny_config: RunConfig, tiny_histories: pl.DataFrame, tiny_catalog: Any
) -> None:
    config = running.population(tmp_path, tiny_config, tiny_histories, tiny_catalog, **{"adapter.client_ranks": "8,4"})
    batch = ClientBatch.of(_context(tmp_path, config, 0))
    assert replace(batch, partitions=np.array([0, 1, 2, 5])).largest_ranks() == [8, 4, 8, 4]
    assert ClientBatch.of(_context(tmp_path, config, 0, rank=2)).largest_ranks() == [2]
    assert ClientBatch.of(_context(tmp_path, config, 1, rank=6)).largest_ranks() == [4]
    plain = config.with_values({"adapter.client_ranks": ""})
    assert ClientBatch.of(_context(tmp_path, plain, 0)).largest_ranks() == [None]
    assert ClientBatch.of(_context(tmp_path, plain, 0, rank=3)).largest_ranks() == [3]


@pytest.mark.parametrize("rank", [0, -1, 2.0, "4", True])
def test_a_device_rank_that_is_no_positive_whole_number_is_refused(
    rank: Any, tmp_path: Path, tiny_config: RunConfig, tiny_histories: pl.DataFrame, tiny_catalog: Any
) -> None:
    config = running.population(tmp_path, tiny_config, tiny_histories, tiny_catalog)
    with pytest.raises(ConfigError, match=r"Expected rank to be a whole number >= 1 in the node's configuration, got rank="):
        ClientBatch.of(_context(tmp_path, config, 0, rank=rank))


class _SmallDevices(InProcessGrid):
    """Nodes whose owners started them with a largest rank of 1."""

    def context_of(self, partition: int, node_config: Mapping[str, bool | int | float | str] | None = None) -> Context:
        return super().context_of(partition, {**(node_config or {}), "rank": 1})


@pytest.mark.parametrize("kind", [_SmallDevices, InProcessGrid])
def test_a_device_with_a_rank_of_its_own_sends_that_prefix_and_says_so(
    kind: type[InProcessGrid], tmp_path: Path, tiny_config: RunConfig, tiny_histories: pl.DataFrame, tiny_catalog: Any
) -> None:
    config = running.population(tmp_path, tiny_config, tiny_histories, tiny_catalog)
    grid = kind(app, num_nodes=3, run_config=config.to_flat())
    recommender = resident(config, tiny_catalog)
    plan = plan_of(config, num_users=9, num_clients=3)
    state = RecommenderState(PRIOR, recommender.initial_adapter).to_vector()
    content = TrainInstruction("digest", 1, plan, plan.l2_clip_norm, state).to_record()
    (node, *_) = grid.get_node_ids()
    (message,) = grid.send_and_receive([Message(content, dst_node_id=node, message_type="train", group_id="1")])
    reply = ContributionReply.from_message(message, in_ring=False)
    limited = kind is _SmallDevices
    assert reply.rank == (1 if limited else None)
    assert len(reply.values) == recommender.attached.prefix(reply.rank).sum()
    assert (len(reply.values) < recommender.attached.size) == limited
