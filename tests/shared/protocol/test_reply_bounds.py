"""The bounds on a silo's reply hold for every silo that keeps the protocol, and for nothing that is wrong by magnitudes."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pytest

from client.training.dp_sgd import TrainingTask, train
from shared.config import RunConfig
from shared.model.recommender import build
from shared.model.state import RecommenderState, check_update
from shared.privacy.calibration import plan_of
from shared.protocol.reply_bounds import longest_count, longest_update
from shared.randomness import replayable_source
from tests.alone import count_items, noised

TWO_SILOS = {
    "federation.clients": 2, "federation.rounds": 10, "privacy.epsilon": 4.0, "privacy.delta": 1e-3,
    "statistics.releases": "none",
}  # fmt: skip


def _trained(config: RunConfig, catalog: Any, histories: pl.DataFrame, seed: int) -> tuple[np.ndarray, float]:
    """An honest silo's update and the bound on it; all users are in one silo of the population's three."""
    plan = plan_of(config, num_users=len(histories))
    recommender = build(config, catalog)
    training = config.local_training()
    state = RecommenderState(np.full(12, -2.5, dtype=np.float32), recommender.initial_adapter.copy())
    task = TrainingTask(
        state, histories["train"], plan.expected_batch_size, training.learning_rate, replayable_source(seed, "bound")
    )
    (result,) = train([task], recommender, plan, training)
    norm = float(np.linalg.norm(state.adapter))
    return result, longest_update(plan, training, size=len(result), adapter_norm=norm)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"training.learning_rate": 0.0},
        {"training.optimizer": "adam", "training.learning_rate": 0.1},
        {"training.weight_decay": 0.3},
        {"privacy.mechanism": "dp-ftrl-silo", "privacy.min_separation": 2},
        {"privacy.epsilon": 0.8},
        {"privacy.epsilon": math.inf, "privacy.delta": 0.0},
        {"privacy.epsilon": math.inf, "privacy.delta": 0.0, "training.optimizer": "adam", "training.learning_rate": 1.0},
    ],
    ids=str,
)
def test_an_honest_update_is_within_the_bound_and_one_that_is_longer_by_magnitudes_is_not(
    changes: dict[str, Any], tiny_config: RunConfig, tiny_catalog: Any, tiny_histories: pl.DataFrame
) -> None:
    config = tiny_config.with_values(changes)
    if changes.get("privacy.mechanism") == "dp-ftrl-silo":
        plan = plan_of(config, num_users=9)
        size = 200
        # Correlated noise alone, which is the longest part: no sample of it passes the bound.
        from shared.privacy.correlated_noise import BandedNoise

        noise = BandedNoise(size, bands=2, stddev=plan.noise_stddev, source=replayable_source(1, "x"))
        steps = [noise.next(step) for step in range(8)]
        training = config.local_training()
        bound = longest_update(plan, training, size=size, adapter_norm=0.0)
        for first in range(0, 8, 2):
            update = training.learning_rate / plan.expected_batch_size * (steps[first] + steps[first + 1])
            assert np.linalg.norm(update) < bound
        return
    for seed in range(5):
        update, bound = _trained(config, tiny_catalog, tiny_histories, seed)
        norm = float(np.linalg.norm(update.astype(np.float64)))
        assert 0 < norm < bound
        # A plain gradient has no bound of its own, so that one is far above what is seen, by a known factor all the same.
        bounded = config.is_private or config.local_training().optimizer == "adam"
        assert bound < (1e3 if bounded else 1e6) * norm


def test_the_bound_on_a_count_allows_all_users_in_one_silo_and_its_noise() -> None:
    config = RunConfig.from_mapping(TWO_SILOS)
    plan = plan_of(config, num_users=50)
    histories = pl.Series("train", [[0]] * 50, dtype=pl.List(pl.Int32))
    exact = count_items(histories, num_items=400)
    bound = longest_count(plan, size=400, noise_stddev=plan.release_stddev(plan.release("popularity")))
    for seed in range(20):
        sent = noised(exact, stddev=plan.release_stddev(plan.release("popularity")), source=replayable_source(seed, "count"))
        assert np.linalg.norm(sent) < bound
    assert bound < 4 * np.linalg.norm(sent)


@pytest.mark.parametrize(("factor", "allowed"), [(0.999, True), (1.001, False)])
def test_a_reply_is_held_against_the_bound(factor: float, allowed: bool) -> None:
    update = np.zeros(5, dtype=np.float32)
    update[2] = factor * 3.0
    if allowed:
        assert check_update(update, size=5, l2_bound=3.0) is update
    else:
        with pytest.raises(Exception, match=r"Expected an update of L2 norm <= 3, which follows from public constants"):
            check_update(update, size=5, l2_bound=3.0)


def test_the_bound_grows_with_noise_and_steps() -> None:
    config = RunConfig.from_mapping(TWO_SILOS)
    plan, training = plan_of(config, num_users=50), config.local_training()
    least = longest_update(plan, training, size=100, adapter_norm=0.0)
    assert (
        longest_update(replace(plan, noise_multiplier=9.0 * plan.noise_multiplier), training, size=100, adapter_norm=0)
        > least
    )
    doubled = replace(plan, steps_per_round=2 * plan.steps_per_round)
    assert longest_update(doubled, training, size=100, adapter_norm=0.0) == pytest.approx(2 * least)
