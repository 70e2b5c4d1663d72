"""DP-SGD: gradients against a loop, the clip bound, the noise, empty batches, and equality with plain training."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from client.dp_sgd import TrainingTask, _backward, _batch, _hooks, _losses, clipped_sums, learning_rate, train
from shared.config import RunConfig, TrainingSection
from shared.model import user_losses
from shared.privacy.plan import PrivacyPlan
from shared.randomness import replayable_source
from shared.recommender import Recommender, build
from shared.update import RecommenderState

PLAN = PrivacyPlan(
    noise_multiplier=1.0, l2_clip_norm=0.5, sampling_rate=0.5, steps_per_round=2, rounds=2, delta=1e-3,
    target_epsilon=8.0, popularity_noise_multiplier=3.0, reproducible=True, public_catalog=True,
)  # fmt: skip


def _task(recommender: Recommender, histories: pl.DataFrame, **changes: Any) -> TrainingTask:
    state = RecommenderState(
        log_prior=np.zeros(recommender.num_items, dtype=np.float32), adapter=recommender.initial_adapter
    )
    values = {
        "state": state, "histories": histories["train"], "expected_batch_size": 4.5, "learning_rate": 0.1,
        "source": replayable_source(3, "test"),
    }  # fmt: skip
    return TrainingTask(**{**values, **changes})


def _moved(recommender: Recommender) -> None:
    """Moves the trained tensors off zero, where half of all gradients vanish and nothing could be compared."""
    generator = np.random.default_rng(0)
    adapter = recommender.initial_adapter + generator.normal(0, 0.3, recommender.attached.size).astype(np.float32)
    recommender.load_state(RecommenderState(np.zeros(recommender.num_items, dtype=np.float32), adapter))


@pytest.mark.parametrize("backbone", ["tiny_bert", "tiny_gpt2"])
def test_per_user_gradients_equal_a_loop_of_single_user_backward_passes(
    backbone: str, request: pytest.FixtureRequest, tiny_config: RunConfig, tiny_catalog: Any, tiny_histories: Any
) -> None:
    config = tiny_config.with_values({"model.backbone": request.getfixturevalue(backbone)})
    recommender = build(config, tiny_catalog)
    _moved(recommender)
    parameters = recommender.attached.parameters
    rng = np.random.default_rng(0)
    batch = _batch(tiny_histories["train"], recommender, config.training, rng)

    hooks = _hooks(recommender)
    _backward(_losses(recommender, batch).sum())
    samples = [parameter.grad_sample.clone() for parameter in parameters]
    hooks.disable_hooks()

    for user in range(len(batch.inputs)):
        for parameter in parameters:
            parameter.grad = None
        length = int(batch.mask[user].sum())
        if length == 0:
            assert all(sample[user].abs().max() == 0 for sample in samples)
            continue
        # The oracle runs one user alone, without padding, through plain autograd.
        scores = recommender.attached.model(batch.inputs[user : user + 1, :length])
        _backward(torch.nn.functional.cross_entropy(scores[0], batch.targets[user, :length]))
        for parameter, sample in zip(parameters, samples, strict=True):
            expected = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            torch.testing.assert_close(sample[user], expected, rtol=1e-4, atol=2e-6)


@given(
    norm=st.floats(1e-3, 1e3),
    scale=st.floats(1e-12, 1e12),
    users=st.integers(0, 5),
    shapes=st.lists(st.sampled_from([(), (1,), (3,), (2, 3), (2, 2, 2)]), min_size=1, max_size=4),
)
@settings(max_examples=80, deadline=None)
def test_one_user_moves_the_clipped_sum_by_at_most_the_bound_for_every_shape(
    norm: float, scale: float, users: int, shapes: list[tuple[int, ...]]
) -> None:
    generator = torch.Generator().manual_seed(users)
    samples = [torch.randn((users + 1, *shape), generator=generator) * scale for shape in shapes]
    alone = clipped_sums([sample[-1:] for sample in samples], norm)
    length = sum(float(part.double().square().sum()) for part in alone) ** 0.5
    assert length <= norm * (1 + 1e-9)
    unclipped = sum(float(sample[-1].double().square().sum()) for sample in samples) ** 0.5
    if unclipped < norm * 0.99:
        for part, sample in zip(alone, samples, strict=True):
            torch.testing.assert_close(part, sample[-1])


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), 3e38])
def test_a_user_whose_gradient_is_not_finite_counts_as_zero(bad: float) -> None:
    samples = [torch.ones(2, 3, 2), torch.ones(2, 4)]
    samples[1][0, 1:3] = bad
    with_fault = clipped_sums(samples, 0.5)
    without_user = clipped_sums([sample[1:] for sample in samples], 0.5)
    for a, b in zip(with_fault, without_user, strict=True):
        assert torch.equal(a, b)


def test_clipping_is_what_bounds_one_user(tiny_config: RunConfig, tiny_catalog: Any, tiny_histories: Any) -> None:
    """With one step of SGD and no noise to speak of, the whole update is at most C * lr / divisor for a single user."""
    recommender = build(tiny_config, tiny_catalog)
    plan = replace(PLAN, noise_multiplier=1e-9, l2_clip_norm=1e-3, sampling_rate=1.0, steps_per_round=1)
    one = tiny_histories.head(1)
    (result,) = train([_task(recommender, one, expected_batch_size=1.0)], recommender, plan, tiny_config.training)
    assert 0.9e-4 < np.linalg.norm(result.update) <= 1e-4


def test_noise_has_the_stddev_of_the_plan(tiny_config: RunConfig, tiny_catalog: Any, tiny_histories: Any) -> None:
    """Null: the update of one empty SGD step is N(0, (z C lr / divisor)^2) in every coordinate.

    n = coordinates x 40 repeats (> 15,000); sample stddev within 3 % of it (false alarms < 1e-6). Negative controls: 2/3 and
    3/2 of the stddev are rejected.
    """
    recommender = build(tiny_config, tiny_catalog)
    plan = replace(PLAN, sampling_rate=1e-12, steps_per_round=1, noise_multiplier=2.0, l2_clip_norm=0.5)
    tasks = [_task(recommender, tiny_histories, source=replayable_source(7, repeat)) for repeat in range(40)]
    results = train(tasks, recommender, plan, tiny_config.training)
    updates = np.stack([result.update for result in results])
    assert updates.size > 15_000
    expected = 2.0 * 0.5 * 0.1 / 4.5

    def accepted(stddev: float) -> bool:
        return abs(updates.std() / stddev - 1) < 0.03

    assert accepted(expected)
    assert not accepted(expected * 2 / 3)
    assert not accepted(expected * 3 / 2)
    assert abs(np.corrcoef(updates[0], updates[1])[0, 1]) < 0.2


def test_an_empty_batch_moves_the_adapter_by_noise_alone(
    tiny_config: RunConfig, tiny_catalog: Any, tiny_histories: Any
) -> None:
    recommender = build(tiny_config, tiny_catalog)
    plan = replace(PLAN, sampling_rate=1e-12)
    (result,) = train([_task(recommender, tiny_histories)], recommender, plan, tiny_config.training)
    assert np.isfinite(result.update).all()
    assert np.linalg.norm(result.update) > 0
    assert np.isnan(result.training_loss)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_private_equals_plain_when_noise_is_zero_and_the_bound_infinite_and_only_then(
    optimizer: str, tiny_config: RunConfig, tiny_catalog: Any, tiny_histories: Any
) -> None:
    config = tiny_config.with_values({"training.optimizer": optimizer, "training.learning_rate": 0.01})
    recommender = build(config, tiny_catalog)
    _moved(recommender)
    start = recommender.state()

    def update(**changes: float) -> np.ndarray:
        plan = replace(PLAN, **changes)
        task = _task(recommender, tiny_histories, state=start, source=replayable_source(11))
        (result,) = train([task], recommender, plan, config.training)
        return result.update

    plain = update(noise_multiplier=0.0, l2_clip_norm=float("inf"))
    private = update(noise_multiplier=1e-12, l2_clip_norm=1e6)
    # Adam divides by the gradient's own size, so a coordinate whose gradient is nearly 0 magnifies its rounding error.
    distance = np.linalg.norm(private - plain) / np.linalg.norm(plain)
    assert distance < (1e-5 if optimizer == "sgd" else 1e-2)
    assert np.abs(plain).max() > 1e-3
    assert np.abs(update(noise_multiplier=1e-12, l2_clip_norm=1e-3) - plain).max() > 1e-3 or optimizer == "adam"
    assert np.abs(update(noise_multiplier=1.0, l2_clip_norm=1.0) - plain).max() > 1e-3


def test_physical_batches_do_not_change_the_result(tiny_config: RunConfig, tiny_catalog: Any, tiny_histories: Any) -> None:
    recommender = build(tiny_config, tiny_catalog)
    config = tiny_config.training.model_copy(update={"random_windows": False})
    updates = []
    for size in (1, 4, 100):
        chosen = config.model_copy(update={"physical_batch_size": size})
        (result,) = train([_task(recommender, tiny_histories)], recommender, PLAN, chosen)
        updates.append(result.update)
    np.testing.assert_allclose(updates[1], updates[0], atol=1e-6)
    np.testing.assert_allclose(updates[2], updates[0], atol=1e-6)


def test_tasks_in_one_call_give_what_single_calls_give(
    tiny_config: RunConfig, tiny_catalog: Any, tiny_histories: Any
) -> None:
    recommender = build(tiny_config, tiny_catalog)

    def tasks() -> list[TrainingTask]:
        return [_task(recommender, tiny_histories, source=replayable_source(client)) for client in range(3)]

    together = train(tasks(), recommender, PLAN, tiny_config.training)
    alone = [train([task], recommender, PLAN, tiny_config.training)[0] for task in tasks()]
    for a, b in zip(together, alone, strict=True):
        np.testing.assert_array_equal(a.update, b.update)
    assert not np.array_equal(together[0].update, together[1].update)


def test_bfloat16_keeps_the_clip_bound(tiny_config: RunConfig, tiny_catalog: Any, tiny_histories: Any) -> None:
    config = tiny_config.with_values({"training.precision": "bfloat16"})
    recommender = build(config, tiny_catalog)
    assert recommender.autocast
    _moved(recommender)
    plan = replace(PLAN, noise_multiplier=1e-9, l2_clip_norm=1e-3, sampling_rate=1.0, steps_per_round=1)
    for user in range(len(tiny_histories)):
        # A state of zeros: the update is then read back without the rounding of a difference.
        state = RecommenderState(
            np.zeros(recommender.num_items, dtype=np.float32), np.zeros(recommender.attached.size, dtype=np.float32)
        )
        one = tiny_histories.slice(user, 1)
        task = _task(recommender, one, state=state, expected_batch_size=1.0)
        (result,) = train([task], recommender, plan, config.training)
        assert np.linalg.norm(result.update.astype(np.float64)) <= 1e-4 * (1 + 1e-6)


def test_user_losses_depend_on_their_own_row_alone() -> None:
    scores = torch.randn(3, 4, 5, requires_grad=True)
    targets = torch.randint(0, 5, (3, 4))
    mask = torch.tensor([[1, 1, 1, 1], [1, 0, 0, 0], [0, 0, 0, 0]], dtype=torch.bool)
    losses = user_losses(scores, targets, mask)
    (gradient,) = torch.autograd.grad(losses[1], scores)
    assert gradient[0].abs().max() == 0
    assert gradient[2].abs().max() == 0
    assert gradient[1, 0].abs().max() > 0
    assert losses[2] == 0


def test_learning_rate_falls_to_a_tenth_over_the_rounds() -> None:
    config = TrainingSection(learning_rate=1.0)
    rates = [learning_rate(config, round_number=n, rounds=10) for n in range(1, 11)]
    assert rates[0] == 1.0
    assert rates[-1] == pytest.approx(0.1)
    assert rates == sorted(rates, reverse=True)
    constant = TrainingSection(learning_rate=1.0, schedule="constant")
    assert learning_rate(constant, round_number=9, rounds=10) == 1.0
