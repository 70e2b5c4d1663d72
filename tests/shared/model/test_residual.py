"""The residual: added to the frozen weights, never to itself twice, and read from its file."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load, save_file

from shared.config import RunConfig
from shared.errors import CheckpointError
from shared.model import adapter as lora
from shared.model.recommender import Recommender, build, build_from_saved
from shared.model.state import RecommenderState
from tests import rounding

HISTORIES = [np.array([1, 5, 2]), np.array([0]), np.array([7, 7, 3, 11, 4, 6])]


def _config(base: RunConfig, **changes: Any) -> RunConfig:
    values = {"privacy.epsilon": math.inf, "adapter.aggregation": "residual", "adapter.scaling": 0.5, "adapter.item_rank": 2}
    return base.with_values({**values, **changes})


@pytest.fixture(scope="module", params=["tiny_bert", "tiny_gpt2"])
def config(request: pytest.FixtureRequest, tiny_config: RunConfig) -> RunConfig:
    return _config(tiny_config, **{"model.backbone": request.getfixturevalue(request.param)})


def _random_state(recommender: Recommender, seed: int = 0) -> RecommenderState:
    rng = np.random.default_rng(seed)
    values = (rng.normal(0, 0.3, size).astype(np.float32) for size in (12, recommender.attached.size))
    prior, adapter = values
    return RecommenderState(prior, adapter, rng.normal(0, 0.2, recommender.attached.residual_size).astype(np.float32))


def _folded_in(recommender: Recommender, state: RecommenderState, plain: Recommender) -> np.ndarray:
    """The oracle: the scores of a model without residual whose frozen weights are changed by hand, entry by entry."""
    plain.load_state(RecommenderState(state.log_prior, state.adapter))
    start = 0
    for pair in plain.attached.pairs:
        layer = plain.attached.model.get_submodule(pair.module).get_base_layer()
        part = 0.5 * state.residual[start : start + pair.size].reshape(pair.out_features, pair.in_features)
        start += pair.size
        if pair.module in ("output_projection", "item_head"):
            layer.forward = partial(torch.nn.functional.linear, weight=torch.from_numpy(part.copy()))
            continue
        turned = type(layer).__name__ in ("Conv1D", "Embedding")
        with torch.no_grad():
            layer.weight += torch.from_numpy(part.T.copy() if turned else part)
    assert start == recommender.attached.residual_size
    return plain.score(HISTORIES)


def test_a_model_with_a_residual_scores_like_one_with_other_frozen_weights(config: RunConfig, tiny_catalog: Any) -> None:
    recommender = build(config, tiny_catalog)
    plain = build(config.with_values({"adapter.aggregation": "mean"}), tiny_catalog)
    assert plain.attached.residual is None
    assert plain.attached.residual_size == 0
    state = _random_state(recommender)
    recommender.load_state(state)
    expected = _folded_in(recommender, state, plain)
    rounding.assert_close(recommender.score(HISTORIES), expected, within=rounding.of_scores(recommender))
    recommender.load_state(RecommenderState(state.log_prior, state.adapter))
    assert np.abs(recommender.score(HISTORIES) - expected).max() > 0.05


def test_residuals_replace_one_another_and_an_empty_one_is_zero(config: RunConfig, tiny_catalog: Any) -> None:
    recommender = build(config, tiny_catalog)
    first, second = _random_state(recommender, 0), _random_state(recommender, 1)
    untouched = RecommenderState(first.log_prior, first.adapter)
    recommender.load_state(untouched)
    before = recommender.score(HISTORIES)
    recommender.load_state(first)
    expected = recommender.score(HISTORIES)
    recommender.load_state(second)
    recommender.load_state(first)
    np.testing.assert_array_equal(recommender.score(HISTORIES), expected)
    np.testing.assert_array_equal(recommender.state().residual, first.residual)
    recommender.load_state(untouched)
    np.testing.assert_array_equal(recommender.score(HISTORIES), before)
    assert not recommender.state().residual.any()


def test_a_state_with_a_residual_comes_back_from_its_vector(config: RunConfig, tiny_catalog: Any) -> None:
    recommender = build(config, tiny_catalog)
    state = _random_state(recommender)
    back = recommender.read_state(state.to_vector())
    for name in ("log_prior", "adapter", "residual"):
        np.testing.assert_array_equal(getattr(back, name), getattr(state, name))
    size = len(state.to_vector())
    with pytest.raises(CheckpointError, match=f"Expected a float32 state of at least {size} values, got shape="):
        recommender.read_state(state.to_vector()[: size - 1])


def test_a_residual_of_another_size_is_refused(config: RunConfig, tiny_catalog: Any) -> None:
    recommender = build(config, tiny_catalog)
    state = _random_state(recommender)
    for wrong in (state.residual[1:], state.residual.reshape(1, -1)):
        with pytest.raises(CheckpointError, match=r"Expected a residual of \d+ values, got shape=.*another catalog or"):
            recommender.load_state(RecommenderState(state.log_prior, state.adapter, wrong))


def test_a_saved_residual_is_loaded_with_the_adapter_and_is_not_optional(
    config: RunConfig, tiny_catalog: Any, tmp_path: Path
) -> None:
    recommender = build(config, tiny_catalog)
    recommender.load_state(_random_state(recommender))
    lora.save(recommender.attached, tmp_path)
    loaded = build_from_saved(config.with_values({"run.seed": 5}), tiny_catalog, tmp_path)
    loaded.attached.model.set_log_prior(recommender.state().log_prior)
    rounding.assert_close(loaded.score(HISTORIES), recommender.score(HISTORIES), within=rounding.of_scores(recommender))
    content = (tmp_path / "residual.safetensors").read_bytes()
    for damage in (content[:-8], b"", None):
        (tmp_path / "residual.safetensors").unlink()
        if damage is not None:
            (tmp_path / "residual.safetensors").write_bytes(damage)
        with pytest.raises(CheckpointError, match=r"Expected a readable residual\.safetensors in .*It is part of what was"):
            build_from_saved(config, tiny_catalog, tmp_path)
        (tmp_path / "residual.safetensors").touch()
    named = {name: matrix.T.copy() for name, matrix in load(content).items()}  # as many values, in another shape
    save_file(named, tmp_path / "residual.safetensors")
    with pytest.raises(CheckpointError, match=r"Expected a readable residual\.safetensors in .*, got ValueError"):
        build_from_saved(config, tiny_catalog, tmp_path)


def test_item_heads_and_paths_that_start_at_zero_are_multiplied_once_they_hold_something(
    config: RunConfig, tiny_catalog: Any
) -> None:
    """Gradients reach the transformer through a residual too: the frozen weight is a part of the graph."""
    recommender = build(config, tiny_catalog)
    state = _random_state(recommender)
    head = recommender.attached.model.item_head.get_base_layer()
    hidden = torch.ones(1, 16, requires_grad=True)
    assert not head(hidden).any()
    recommender.load_state(state)
    (gradient,) = torch.autograd.grad(head(hidden).sum(), hidden)
    start = 0
    for pair in recommender.attached.pairs:
        if pair.module == "item_head":
            part = 0.5 * state.residual[start : start + pair.size].reshape(12, 16)
        start += pair.size
    rounding.assert_close(gradient[0], part.sum(axis=0), within=rounding.rounding(length=len(part)))
