"""The simulator measures the server's states on the data that it made: exact, complete, and out of the protocol's reach."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from shared.config import RunConfig
from shared.data.catalog import ItemCatalog
from shared.errors import CheckpointError, TacitError
from shared.metrics import EvaluationSums
from shared.model.recommender import build
from shared.model.state import RecommenderState
from simulations.evaluation import Evaluator
from simulations.rounds import measured_rounds


def _state(config: RunConfig, catalog: ItemCatalog, seed: int = 0) -> RecommenderState:
    adapter = build(config, catalog).initial_adapter
    drawn = np.random.default_rng(seed)
    prior = np.log(drawn.dirichlet(np.ones(catalog.num_items))).astype(np.float32)
    return RecommenderState(prior, (adapter + drawn.normal(0, 0.3, len(adapter))).astype(np.float32))


@pytest.fixture
def evaluator(tmp_path: Path, tiny_config: RunConfig, tiny_histories: pl.DataFrame, tiny_catalog: ItemCatalog) -> Evaluator:
    return Evaluator(tiny_config.with_values({"evaluation.every_rounds": 2}), tiny_catalog, tiny_histories, tmp_path)


def test_a_round_is_measured_as_a_loop_over_users_would(
    evaluator: Evaluator, tmp_path: Path, tiny_config: RunConfig, tiny_histories: pl.DataFrame, tiny_catalog: ItemCatalog
) -> None:
    state = _state(tiny_config, tiny_catalog)
    evaluator.round_finished(state, 2)
    recommender = build(tiny_config, tiny_catalog)
    recommender.load_state(state)
    hits, losses = [], []
    for train, validation, _ in tiny_histories.select("train", "validation", "test").iter_rows():
        (scores,) = recommender.score([np.array(train, dtype=np.int32)])
        candidates = [item for item in range(12) if item not in train or item in validation]
        rank = sum(scores[item] > scores[validation[0]] for item in candidates) + 1
        hits.append(rank <= tiny_config.evaluation.k)
        (before,) = recommender.score([np.array(train[:-1], dtype=np.int32)])
        exact = before.astype(np.float64)
        losses.append(math.log(np.exp(exact).sum()) - exact[train[-1]])
    row = evaluator.rounds[2]
    assert row["validation"]["hr@3"] == pytest.approx(np.mean(hits))
    assert row["training_loss"] == pytest.approx(np.mean(losses), rel=1e-5)
    assert measured_rounds(tmp_path) == evaluator.rounds


def test_validation_is_measured_in_the_rounds_that_the_configuration_names_and_the_loss_in_all(
    evaluator: Evaluator, tiny_config: RunConfig, tiny_catalog: ItemCatalog
) -> None:
    for round_number in (1, 2):
        evaluator.round_finished(_state(tiny_config, tiny_catalog), round_number)
    assert [evaluator.rounds[number]["validation"] is None for number in (1, 2)] == [True, False]
    assert all(evaluator.rounds[number]["training_loss"] > 0 for number in (1, 2))


def test_what_is_released_is_measured_on_both_targets(
    evaluator: Evaluator, tmp_path: Path, tiny_config: RunConfig, tiny_catalog: ItemCatalog
) -> None:
    evaluator.round_finished(_state(tiny_config, tiny_catalog, seed=1), 2)
    first = np.load(tmp_path / "evaluation" / "validation.npy")
    evaluator.released(_state(tiny_config, tiny_catalog, seed=1), 2)
    np.testing.assert_array_equal(np.load(tmp_path / "evaluation" / "validation.npy"), first)
    evaluator.released(_state(tiny_config, tiny_catalog, seed=2), 1)  # another round than the last validated one
    assert not np.array_equal(np.load(tmp_path / "evaluation" / "validation.npy"), first)
    sums = EvaluationSums.from_vector(np.load(tmp_path / "evaluation" / "test.npy"), 12, 20, k=3)
    assert sums.num_users == 9


def test_a_state_that_diverged_ends_the_run_with_the_reason(
    evaluator: Evaluator, tiny_config: RunConfig, tiny_catalog: ItemCatalog, tmp_path: Path
) -> None:
    state = _state(tiny_config, tiny_catalog)
    broken = RecommenderState(state.log_prior, np.full_like(state.adapter, 1e30))
    with pytest.raises(TacitError, match=r"The model has diverged; use a lower learning rate\."):
        evaluator.round_finished(broken, 2)
    assert not (tmp_path / "evaluation").exists()


def test_histories_too_short_for_a_loss_have_none(
    tmp_path: Path, tiny_config: RunConfig, tiny_histories: pl.DataFrame, tiny_catalog: ItemCatalog
) -> None:
    short = tiny_histories.with_columns(pl.col("train").list.head(1))
    evaluator = Evaluator(tiny_config, tiny_catalog, short, tmp_path)
    evaluator.round_finished(_state(tiny_config, tiny_catalog), 1)
    assert evaluator.rounds[1]["training_loss"] is None


def test_what_an_interrupted_run_measured_is_kept_and_a_damaged_line_is_an_error(
    evaluator: Evaluator, tmp_path: Path, tiny_config: RunConfig, tiny_histories: pl.DataFrame, tiny_catalog: ItemCatalog
) -> None:
    for round_number in (1, 2):
        evaluator.round_finished(_state(tiny_config, tiny_catalog), round_number)
    path = tmp_path / "evaluation" / "rounds.jsonl"
    whole = path.read_text(encoding="utf-8")
    resumed = Evaluator(tiny_config, tiny_catalog, tiny_histories, tmp_path)
    resumed.round_finished(_state(tiny_config, tiny_catalog), 3)
    assert sorted(measured_rounds(tmp_path)) == [1, 2, 3]
    for damaged in ("half of it\n" + whole, whole + '{"round_number": 3, "tra', "[1]\n"):
        path.write_text(damaged, encoding="utf-8")
        with pytest.raises(CheckpointError, match=r"Expected one JSON object a line in evaluation/rounds\.jsonl, found"):
            measured_rounds(tmp_path)
