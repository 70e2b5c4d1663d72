"""The resident recommender: one scoring function, a state that is wholly overwritten, the right instance."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from shared.config import RunConfig
from shared.errors import ConfigError, UnsupportedMechanism
from shared.model.adapter import AttachedAdapter
from shared.model.recommender import Recommender, build, choose_device, resident
from shared.model.state import RecommenderState
from tests import rounding


@pytest.fixture(scope="module")
def recommender(tiny_config: RunConfig, tiny_catalog: Any) -> Recommender:
    built = build(tiny_config, tiny_catalog)
    built.load_state(_state(built, seed=0))
    return built


def _state(recommender: Recommender, *, seed: int) -> RecommenderState:
    rng = np.random.default_rng(seed)
    prior = rng.normal(size=recommender.num_items).astype(np.float32)
    return RecommenderState(prior, rng.normal(0, 0.5, recommender.attached.size).astype(np.float32))


def test_a_batch_scores_like_its_histories_one_by_one(recommender: Recommender) -> None:
    histories = [np.array(row) for row in ([1], [5, 2, 8], [0, 1, 2, 3, 4, 5], [7, 7, 7, 7])]
    together = recommender.score(histories)
    assert together.dtype == np.float32
    assert together.shape == (4, 12)
    for history, row in zip(histories, together, strict=True):
        rounding.assert_close(recommender.score([history])[0], row, within=rounding.of_scores(recommender))


def test_only_the_most_recent_items_are_read(recommender: Recommender) -> None:
    recent = [3, 1, 4, 1, 5, 9]  # max_history_length is 6
    expected = recommender.score([np.array(recent)])
    longer = recommender.score([np.array([8, 8, 2, *recent])])
    rounding.assert_close(longer, expected, within=rounding.of_scores(recommender))
    assert np.abs(recommender.score([np.array(recent[1:])]) - expected).max() > 1e-3


def test_an_empty_history_gets_the_popularity_prior_alone(recommender: Recommender) -> None:
    empty = np.array([], dtype=np.int32)
    weight = recommender.attached.model.config.popularity_weight
    scores = recommender.score([np.array([1, 2]), empty])
    rounding.assert_close(scores[1], weight * recommender.state().log_prior, within=rounding.rounding())
    rounding.assert_close(scores[0], recommender.score([np.array([1, 2])])[0], within=rounding.of_scores(recommender))
    np.testing.assert_array_equal(recommender.score([empty])[0], scores[1])


def test_loading_a_state_overwrites_all_that_was_learned(recommender: Recommender) -> None:
    before, other = _state(recommender, seed=0), _state(recommender, seed=1)
    recommender.load_state(other)
    np.testing.assert_array_equal(recommender.state().to_vector(), other.to_vector())
    recommender.state().log_prior[:] = 9.0  # a copy
    np.testing.assert_array_equal(recommender.state().to_vector(), other.to_vector())
    recommender.load_state(before)
    np.testing.assert_array_equal(recommender.state().to_vector(), before.to_vector())
    assert not np.array_equal(recommender.initial_adapter, before.adapter)


def test_the_resident_instance_is_shared_by_what_does_not_change_the_model_and_by_nothing_else(
    tiny_config: RunConfig, tiny_catalog: Any
) -> None:
    first = resident(tiny_config, tiny_catalog)
    assert resident(tiny_config.with_values({"training.local_steps": 7, "run.out": "x"}), tiny_catalog) is first
    for changes in ({"run.seed": 1}, {"adapter.rank": 1}, {"privacy.epsilon": math.inf}):
        other = resident(tiny_config.with_values(changes), tiny_catalog)
        assert other is not first


def test_what_is_refused_under_privacy_is_refused_after_a_run_without_it_too(
    tiny_config: RunConfig, tiny_catalog: Any
) -> None:
    config = tiny_config.with_values({"adapter.item_rank": 2, "adapter.kind": "lora", "privacy.epsilon": math.inf})
    resident(config, tiny_catalog)
    with pytest.raises(UnsupportedMechanism, match=r"Expected adapter\.item_rank = 0 under privacy"):
        resident(config.with_values({"privacy.epsilon": 8.0}), tiny_catalog)


def test_cuda_asked_for_and_absent_is_refused() -> None:
    assert choose_device("cpu") == torch.device("cpu")
    if torch.cuda.is_available():
        assert choose_device("cuda").type == choose_device("auto").type == "cuda"
    else:
        assert choose_device("auto") == torch.device("cpu")
        with pytest.raises(ConfigError, match=r"Expected a CUDA device for run\.device=cuda, found none"):
            choose_device("cuda")


def test_precision_is_float32_on_a_cpu_unless_asked_for_otherwise(
    recommender: Recommender, tiny_config: RunConfig, tiny_catalog: Any
) -> None:
    assert not recommender.autocast
    half = build(tiny_config.with_values({"training.precision": "bfloat16"}), tiny_catalog)
    assert half.autocast
    half.load_state(_state(half, seed=0))
    history = [np.array([1, 2, 3])]
    difference = np.abs(half.score(history) - recommender.score(history)).max()
    assert 1e-4 < difference < 0.5


def test_what_a_frozen_transformer_makes_of_a_recurring_row_is_computed_once_and_stays_right_under_other_states(
    tiny_config: RunConfig, tiny_catalog: Any
) -> None:
    config = tiny_config.with_values({"adapter.rank": 0, "adapter.input_rank": 0})
    remembering = build(config, tiny_catalog)
    rows: list[int] = []
    remembering.attached.model.transformer.register_forward_pre_hook(
        lambda module, arguments, keywords: rows.append(len(keywords["inputs_embeds"])), with_kwargs=True
    )
    batches = [
        (torch.tensor([[1, 2, 3], [4, 5, 0], [6, 0, 0]]), torch.tensor([[1, 1, 1], [1, 1, 0], [1, 0, 0]]).bool()),
        (torch.tensor([[4, 5, 0], [7, 8, 9], [1, 2, 3]]), torch.tensor([[1, 1, 0], [1, 1, 1], [1, 1, 1]]).bool()),
    ]
    for seed, (items, mask) in enumerate([*batches, *batches]):
        state = _state(remembering, seed=seed)
        remembering.load_state(state)
        scores = remembering.scores(items, mask, recurring=np.array([True, True, False]))
        fresh = build(config, tiny_catalog)
        fresh.load_state(state)
        expected = fresh.attached.model(items)
        rounding.assert_close(scores[mask], expected[mask], within=rounding.of_scores(fresh))
        assert scores.requires_grad
    # The last row of the first batch does not recur, so it is computed each time; all others once.
    assert rows == [3, 1, 1]


def test_nothing_is_remembered_of_a_transformer_that_is_trained(recommender: Recommender) -> None:
    items, mask = torch.tensor([[1, 2, 3]]), torch.ones(1, 3, dtype=torch.bool)
    recommender.scores(items, mask, recurring=np.array([True]))
    assert not recommender._remembered


def test_what_is_remembered_has_a_limit_and_what_was_there_first_stays(
    tiny_config: RunConfig, tiny_catalog: Any, monkeypatch: Any
) -> None:
    monkeypatch.setattr("shared.model.recommender._REMEMBERED_BYTES", 3 * 2 * 16 * 4)
    remembering = build(tiny_config.with_values({"adapter.rank": 0, "adapter.input_rank": 0}), tiny_catalog)
    mask = torch.ones(1, 2, dtype=torch.bool)
    for first in range(5):
        remembering.scores(torch.tensor([[first, 7]]), mask, recurring=np.array([True]))
    assert set(remembering._remembered) == {np.array([first, 7]).tobytes() for first in range(3)}


@pytest.mark.parametrize("settings", [{}, {"adapter.head_rank": 2}, {"adapter.rank": 0, "adapter.input_rank": 0}])
def test_the_transformer_runs_only_where_the_adapter_adds_something_to_the_scores(
    monkeypatch: pytest.MonkeyPatch, tiny_config: RunConfig, tiny_catalog: Any, settings: dict[str, int]
) -> None:
    built = build(tiny_config.with_values(settings), tiny_catalog)
    passes: list[int] = []
    built.attached.model.transformer.register_forward_pre_hook(lambda module, arguments: passes.append(1))
    histories = [np.array([1, 2, 3]), np.array([4])]

    def of_the_transformer() -> NDArray[np.float32]:
        with monkeypatch.context() as always:
            always.setattr(AttachedAdapter, "adds_nothing", False)
            return built.score(histories)

    untrained = built.score(histories)
    assert not passes
    np.testing.assert_array_equal(of_the_transformer(), untrained)
    assert passes
    for name, parameter in built.attached.trained:
        if name.startswith(("output_projection.", "item_head.")):
            built.attached.load_vector(np.zeros(built.attached.size, dtype=np.float32))
            with torch.no_grad():
                parameter.view(-1)[-1] = 1.0
            trained = built.score(histories)
            np.testing.assert_array_equal(of_the_transformer(), trained, err_msg=name)
            assert np.abs(trained - untrained).max() > 1e-6
