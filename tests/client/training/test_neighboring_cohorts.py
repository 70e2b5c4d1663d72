"""One user more moves a sum of clipped gradients by at most the bound, in every precision: nobody moves anybody else."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from client.training import examples as batches
from client.training import gradients
from client.training.dp_sgd import TrainingTask, train
from shared.config import RunConfig
from shared.model.passes import PassShapes
from shared.model.recommender import Recommender, build
from shared.model.state import RecommenderState
from shared.privacy.plan import PrivacyPlan
from shared.randomness import secret_source
from tests.plans import central_plan, silo_plan

CLIP = 1e-3  # far below every gradient, so that each user's is as long as it may be
SILO = silo_plan(sampling_rate=1.0, steps_per_round=1, noise_multiplier=1e-30, l2_clip_norm=CLIP)
SETTINGS = {
    "model.max_history_length": 12,
    "adapter.kind": "ffa",
    "adapter.rank": 2,
    "adapter.output_rank": 2,
    "training.random_windows": False,
}
NEIGHBORS = settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
HISTORIES = st.lists(st.lists(st.integers(0, 11), max_size=13), min_size=1, max_size=14)


@pytest.fixture(params=["float32", "bfloat16"])
def recommender(request: Any, tiny_config: RunConfig, tiny_catalog: Any) -> Recommender:
    return build(tiny_config.with_values({**SETTINGS, "training.precision": request.param}), tiny_catalog)


def _updates(histories: list[list[list[int]]], recommender: Recommender, config: RunConfig, plan: PrivacyPlan) -> np.ndarray:
    """What each of some clients with these histories sends, (clients, d)."""
    state = RecommenderState(np.zeros(recommender.num_items, dtype=np.float32), recommender.initial_adapter)
    tasks = [TrainingTask(state, pl.Series(own, dtype=pl.List(pl.Int32)), 1.0, 1.0, secret_source()) for own in histories]
    training = config.with_values(SETTINGS).training.model_copy(update={"optimizer": "sgd", "physical_batch_size": 4})
    return train(tasks, recommender, plan, training).astype(np.float64)


@given(histories=HISTORIES, data=st.data())
@NEIGHBORS
def test_guarantee_a_silos_sum_moves_by_at_most_the_clip_norm_between_neighboring_cohorts(
    histories: list[list[int]], data: st.DataObject, recommender: Recommender, tiny_config: RunConfig
) -> None:
    place = data.draw(st.integers(0, len(histories) - 1))
    fewer = histories[:place] + histories[place + 1 :]
    for rest in ([], [[[1, 2, 3]]]):  # alone in its process, and beside another silo
        more, less = (_updates([own, *rest], recommender, tiny_config, SILO) for own in (histories, fewer))
        assert np.linalg.norm(more[0] - less[0]) <= CLIP
        # That the bound is met tightly says that these gradients are clipped, which the test is about.
        if len(set(histories[place])) > 1 and len(histories[place]) > 2:
            assert np.linalg.norm(more[0] - less[0]) > 0.9 * CLIP


@given(histories=HISTORIES, data=st.data())
@NEIGHBORS
def test_guarantee_a_clients_update_is_the_same_bit_by_bit_whoever_else_is_asked(
    histories: list[list[int]], data: st.DataObject, recommender: Recommender, tiny_config: RunConfig
) -> None:
    """In float32 a processor may round a product of more rows otherwise, by less than the margin."""
    plan = central_plan(steps_per_round=2)
    place = data.draw(st.integers(0, len(histories) - 1))
    together = _updates([[own] for own in histories], recommender, tiny_config, plan)[place]
    alone = _updates([[histories[place]]], recommender, tiny_config, plan)[0]
    if recommender.autocast:
        assert np.array_equal(together, alone)
    else:
        np.testing.assert_allclose(together, alone, rtol=0, atol=2.0**-18 * np.linalg.norm(alone))


def test_no_user_moves_another_even_where_arithmetic_depends_on_the_shape_of_a_pass(
    recommender: Recommender, tiny_config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As matrix products of bfloat16 do on some processors: by the width, and in bfloat16 by the number of rows."""
    exact = gradients.batch_losses

    def rounded(recommender: Recommender, batch: batches.Batch) -> Any:
        rows, width = batch.inputs.shape
        return exact(recommender, batch) * (1 + 1e-3 * width + 1e-3 * rows * recommender.autocast)

    monkeypatch.setattr(gradients, "batch_losses", rounded)
    rng = np.random.default_rng(0)
    most = [rng.integers(0, 12, size=size).tolist() for size in (3, 3, 4, 5, 7, 8, 9, 10, 11, 12)]
    unclipped = replace(SILO, l2_clip_norm=1e3)

    def moved() -> float:
        more, less, own = (
            _updates([chosen], recommender, tiny_config, unclipped)[0] for chosen in (most, most[:-1], most[-1:])
        )
        return float(np.linalg.norm(more - less - own) / np.linalg.norm(less))

    assert moved() < 1e-6
    # The negative control: passes as wide as the longest example of the step.
    monkeypatch.setattr(PassShapes, "widths", lambda self, lengths: np.full(len(lengths), lengths.max(initial=2)))
    assert moved() > 1e-4
