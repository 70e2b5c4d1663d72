"""DP-SGD: the clip bound, the noise, empty batches, equality with plain training, windows, turns, and faulty data."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from client.training import gradients as gradient_passes
from client.training.dp_sgd import TrainingTask, _who_takes_part, examples, train, user_groups
from shared.config import RunConfig
from shared.errors import PrivacyError, UnsupportedMechanism
from shared.model.recommender import Recommender, build
from shared.model.sequence_recommender import user_losses
from shared.model.state import RecommenderState
from shared.privacy.calibration import plan_of
from shared.privacy.correlated_noise import BandedNoise
from shared.privacy.mechanism import Mechanism
from shared.privacy.plan import PrivacyPlan
from shared.randomness import NoiseSource, replayable_source
from tests import rounding

PLAIN = plan_of(
    RunConfig.from_mapping(
        {
            "privacy.epsilon": math.inf, "federation.rounds": 2, "training.local_steps": 2, "training.sampling_rate": 0.5,
            "run.reproducible": True,
        }
    ),
    num_users=9,
    num_clients=1,
)  # fmt: skip
PLAN = replace(
    PLAIN, mechanism=Mechanism.DP_SGD, adversary="active-server", noise_multiplier=1.0, l2_clip_norm=0.5, delta=1e-3,
    target_epsilon=8.0,
)  # fmt: skip
TURNS = replace(PLAN, mechanism=Mechanism.DP_FTRL_SILO, min_separation=3)

ENGINES = pytest.mark.parametrize("gradients", ["closed-form", "opacus"])


def _task(recommender: Recommender, histories: pl.DataFrame, **changes: Any) -> TrainingTask:
    state = RecommenderState(
        log_prior=np.zeros(recommender.num_items, dtype=np.float32), adapter=recommender.initial_adapter
    )
    values = {
        "state": state, "histories": histories["train"], "expected_batch_size": 4.5, "learning_rate": 0.1,
        "source": replayable_source(3, "test"),
    }  # fmt: skip
    return TrainingTask(**{**values, **changes})


def _series(histories: list[list[int]]) -> pl.Series:
    return pl.Series(histories, dtype=pl.List(pl.Int32))


def _moved(recommender: Recommender) -> None:
    """Moves the trained tensors off zero, where half of all gradients vanish and nothing could be compared."""
    generator = np.random.default_rng(0)
    adapter = recommender.initial_adapter + generator.normal(0, 0.3, recommender.attached.size).astype(np.float32)
    recommender.load_state(RecommenderState(np.zeros(recommender.num_items, dtype=np.float32), adapter))


def _zero_state(recommender: Recommender) -> RecommenderState:
    """From here an update is read back without the rounding of a difference."""
    return RecommenderState(
        np.zeros(recommender.num_items, dtype=np.float32), np.zeros(recommender.attached.size, dtype=np.float32)
    )


@ENGINES
def test_clipping_is_what_bounds_one_user(
    gradients: str, tiny_config: RunConfig, tiny_catalog: Any, tiny_histories: Any
) -> None:
    """With one step of SGD and no noise to speak of, the whole update is at most C * lr / divisor for a single user."""
    config = tiny_config.with_values({"training.gradients": gradients})
    recommender = build(config, tiny_catalog)
    plan = replace(PLAN, noise_multiplier=1e-9, l2_clip_norm=1e-3, sampling_rate=1.0, steps_per_round=1)
    one = tiny_histories.head(1)
    (result,) = train([_task(recommender, one, expected_batch_size=1.0)], recommender, plan, config.training)
    assert 0.9e-4 < np.linalg.norm(result) <= 1e-4


@pytest.mark.parametrize("kind", ["ffa", "lora"])
def test_closed_form_and_opacus_train_to_the_same_update(
    kind: str, tiny_config: RunConfig, tiny_catalog: Any, tiny_histories: Any
) -> None:
    updates = []
    for gradients in ("closed-form", "opacus"):
        config = tiny_config.with_values({"training.gradients": gradients, "adapter.kind": kind})
        recommender = build(config, tiny_catalog)
        _moved(recommender)
        task = _task(recommender, tiny_histories, state=recommender.state())
        updates.append(train([task], recommender, PLAN, config.training)[0].astype(np.float64))
    within = rounding.of_gradients(recommender)
    assert np.linalg.norm(updates[0] - updates[1]) < within * np.linalg.norm(updates[1])


@ENGINES
def test_private_training_leaves_nothing_attached_to_the_model(
    gradients: str, tiny_config: RunConfig, tiny_catalog: Any, tiny_histories: Any
) -> None:
    config = tiny_config.with_values({"training.gradients": gradients})
    recommender = build(config, tiny_catalog)
    train([_task(recommender, tiny_histories)], recommender, PLAN, config.training)
    for module in recommender.attached.model.modules():
        assert not module._forward_hooks
        assert not module._backward_hooks
        assert "forward" not in module.__dict__


@pytest.mark.parametrize("sampling_rate", [1e-12, 1.0], ids=["empty", "with all users"])
def test_noise_has_the_stddev_of_the_plan(
    sampling_rate: float, tiny_config: RunConfig, tiny_catalog: Any, tiny_histories: Any
) -> None:
    """Null: the update of one SGD step is the same for all repeats but for N(0, (z C lr / divisor)^2) in every coordinate.

    n = coordinates x 40 repeats (> 15,000); sample stddev within 3 % of it (false alarms < 1e-6). Negative controls: 2/3 and
    3/2 of the stddev are rejected.
    """
    recommender = build(tiny_config, tiny_catalog)
    plan = replace(PLAN, sampling_rate=sampling_rate, steps_per_round=1, noise_multiplier=2.0, l2_clip_norm=0.5)
    config = tiny_config.training.model_copy(update={"random_windows": False})
    tasks = [_task(recommender, tiny_histories, source=replayable_source(7, repeat)) for repeat in range(40)]
    updates = train(tasks, recommender, plan, config)
    if sampling_rate == 1.0:  # what all have in common is their mean, which has a degree of freedom a coordinate
        updates = (updates - updates.mean(axis=0)) * np.sqrt(40 / 39)
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
    assert np.isfinite(result).all()
    assert np.linalg.norm(result) > 0


def test_the_sampling_rate_is_not_rounded(tiny_config: RunConfig, tiny_catalog: Any, tiny_histories: Any) -> None:
    """A rate of .3 is not 1/3, which is what Opacus' data loader would make of it."""
    recommender = build(tiny_config, tiny_catalog)

    def moved(uniform: float) -> bool:
        word = (int(uniform * 2**53) << 11).to_bytes(8, "little")
        source = NoiseSource("replayable", lambda size: word * (size // 8))
        task = _task(recommender, tiny_histories, source=source)
        plan = replace(PLAN, sampling_rate=0.3, noise_multiplier=0.0)
        return bool(train([task], recommender, plan, tiny_config.training)[0].any())

    assert moved(0.3 - 1e-9)
    assert not moved(0.3 + 1e-9)


@ENGINES
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_private_equals_plain_when_noise_is_zero_and_the_bound_infinite_and_only_then(
    optimizer: str, gradients: str, tiny_config: RunConfig, tiny_catalog: Any, tiny_histories: Any
) -> None:
    config = tiny_config.with_values(
        {"training.optimizer": optimizer, "training.learning_rate": 0.01, "training.gradients": gradients}
    )
    recommender = build(config, tiny_catalog)
    _moved(recommender)
    start = recommender.state()

    def update(**changes: float) -> np.ndarray:
        plan = replace(PLAN, **changes)
        task = _task(recommender, tiny_histories, state=start, source=replayable_source(11))
        (result,) = train([task], recommender, plan, config.training)
        return result

    plain = update(noise_multiplier=0.0, l2_clip_norm=float("inf"))
    private = update(noise_multiplier=1e-12, l2_clip_norm=1e6)
    # Adam divides by the gradient's own size, so a coordinate whose gradient is nearly 0 magnifies its rounding error.
    distance = np.linalg.norm(private - plain) / np.linalg.norm(plain)
    assert distance < (rounding.of_gradients(recommender) if optimizer == "sgd" else 1e-2)
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
        updates.append(result)
    for other in updates[1:]:
        rounding.assert_close(other, updates[0], within=rounding.of_gradients(recommender))


def test_tasks_in_one_call_give_what_single_calls_give(
    tiny_config: RunConfig, tiny_catalog: Any, tiny_histories: Any
) -> None:
    recommender = build(tiny_config, tiny_catalog)

    def tasks() -> list[TrainingTask]:
        return [_task(recommender, tiny_histories, source=replayable_source(client)) for client in range(3)]

    together = train(tasks(), recommender, PLAN, tiny_config.training)
    alone = [train([task], recommender, PLAN, tiny_config.training)[0] for task in tasks()]
    for a, b in zip(together, alone, strict=True):
        np.testing.assert_array_equal(a, b)
    assert not np.array_equal(together[0], together[1])


@ENGINES
def test_bfloat16_keeps_the_clip_bound(
    gradients: str, tiny_config: RunConfig, tiny_catalog: Any, tiny_histories: Any
) -> None:
    config = tiny_config.with_values({"training.precision": "bfloat16", "training.gradients": gradients})
    recommender = build(config, tiny_catalog)
    assert recommender.autocast
    plan = replace(PLAN, noise_multiplier=1e-9, l2_clip_norm=1e-3, sampling_rate=1.0, steps_per_round=1)
    for user in range(len(tiny_histories)):
        one = tiny_histories.slice(user, 1)
        task = _task(recommender, one, state=_zero_state(recommender), expected_batch_size=1.0)
        (result,) = train([task], recommender, plan, config.training)
        assert 0.9e-4 < np.linalg.norm(result.astype(np.float64)) <= 1e-4 * (1 + 1e-6)


@ENGINES
@pytest.mark.parametrize("with_data", [True, False])
def test_what_cannot_be_clipped_is_refused_whatever_the_data(
    gradients: str, with_data: bool, tiny_config: RunConfig, tiny_catalog: Any, tiny_histories: Any
) -> None:
    config = tiny_config.with_values({"training.gradients": gradients})
    recommender = build(config, tiny_catalog)
    norm = next(m for m in recommender.attached.model.transformer.modules() if isinstance(m, torch.nn.LayerNorm))
    norm.weight.requires_grad_(True)
    task = _task(recommender, tiny_histories if with_data else tiny_histories.clear())
    with pytest.raises(UnsupportedMechanism, match="Expected only weights of LoRA's linear layers to be trained under"):
        train([task], recommender, PLAN, config.training)


FAULTY = {
    "empty": [], "single": [3], "beyond the catalog": [1, 12, 2], "far beyond": [2**31 - 1] * 3, "negative": [4, -1, 2],
    "all wrong": [-(2**31)] * 40,
}  # fmt: skip


@ENGINES
@pytest.mark.parametrize("plan", [PLAN, replace(PLAN, unit="window"), TURNS, replace(PLAN, mechanism=Mechanism.CENTRAL)])
@pytest.mark.parametrize("history", FAULTY.values(), ids=FAULTY.keys())
def test_a_faulty_history_counts_as_zero_and_never_raises(
    history: list[int], plan: PrivacyPlan, gradients: str, tiny_config: RunConfig, tiny_catalog: Any
) -> None:
    config = tiny_config.with_values({"training.gradients": gradients, "training.history_dropout": 0.3})
    recommender = build(config, tiny_catalog)
    plan = replace(plan, sampling_rate=1.0, noise_multiplier=1e-9, min_separation=min(plan.min_separation, 1))
    noise = BandedNoise(recommender.attached.size, bands=1, stddev=plan.noise_stddev, source=replayable_source(1))
    alone = pl.DataFrame({"train": _series([history])})
    task = _task(recommender, alone, state=_zero_state(recommender), groups=np.zeros(1, dtype=np.int64), noise=noise)
    (result,) = train([task], recommender, plan, config.training)
    assert np.abs(result).max() < 1e-8


def test_a_faulty_history_leaves_the_others_as_they_are(
    tiny_config: RunConfig, tiny_catalog: Any, tiny_histories: Any
) -> None:
    recommender = build(tiny_config, tiny_catalog)
    config = tiny_config.training.model_copy(update={"random_windows": False})
    plan = replace(PLAN, sampling_rate=1.0, noise_multiplier=1e-9)
    (clean,) = train([_task(recommender, tiny_histories)], recommender, plan, config)
    with_faulty = pl.DataFrame({"train": _series([*tiny_histories["train"].to_list(), *FAULTY.values()])})
    (faulty,) = train([_task(recommender, with_faulty)], recommender, plan, config)
    rounding.assert_close(faulty, clean, within=rounding.of_gradients(recommender))
    assert np.linalg.norm(clean) > 1e-2


# Noise that is added elsewhere.


@pytest.mark.parametrize("mechanism", [one for one in Mechanism if one.clips_whole_updates])
def test_where_whole_updates_are_clipped_every_user_is_in_every_step_and_nothing_is_noised(
    mechanism: Mechanism, tiny_config: RunConfig, tiny_catalog: Any, tiny_histories: Any
) -> None:
    recommender = build(tiny_config, tiny_catalog)
    config = tiny_config.training.model_copy(update={"random_windows": False})

    def update(plan: PrivacyPlan, seed: int) -> np.ndarray:
        task = _task(recommender, tiny_histories, source=replayable_source(seed), expected_batch_size=1.0)
        return train([task], recommender, plan, config)[0]

    elsewhere = replace(PLAN, mechanism=mechanism, sampling_rate=1e-6, l2_clip_norm=1e-3, noise_multiplier=5.0)
    plain = update(replace(PLAIN, sampling_rate=1.0), 3)
    # Plain gradients of one client are summed by autograd, those of one of many clients one by one.
    np.testing.assert_allclose(update(elsewhere, 4), plain, rtol=0, atol=2.0**-18 * np.linalg.norm(plain))
    assert np.linalg.norm(plain) > 1e-1


@pytest.mark.parametrize("mechanism", [one for one in Mechanism if one.clips_whole_updates])
@pytest.mark.parametrize("nothing", [[], [[]]])
def test_a_client_without_data_has_an_update_of_zero_whatever_weight_decay_does_to_the_others(
    mechanism: Mechanism, nothing: list[list[int]], tiny_config: RunConfig, tiny_catalog: Any, tiny_histories: Any
) -> None:
    recommender = build(tiny_config, tiny_catalog)
    config = tiny_config.training.model_copy(update={"weight_decay": 0.5})
    plan = replace(PLAN, mechanism=mechanism)
    state = RecommenderState(
        np.zeros(recommender.num_items, dtype=np.float32), np.ones(recommender.attached.size, dtype=np.float32)
    )
    some = _task(recommender, tiny_histories, state=state)
    without = replace(some, histories=_series(nothing), source=replayable_source(4))
    unpredictable = replace(some, histories=_series([[3]]), source=replayable_source(5))
    together = train([some, without, unpredictable], recommender, plan, config)
    assert not together[1].any()
    assert not train([without], recommender, plan, config)[0].any()
    # The negative control: an update that no gradient made is not zero by itself.
    assert np.linalg.norm(together[0]) > 1e-3
    assert np.linalg.norm(together[2]) > 1e-3


# Windows.

HISTORIES = st.lists(st.lists(st.integers(0, 11), max_size=30), min_size=1, max_size=5)
WINDOWS = replace(PLAN, unit="window", windows_per_user=100)


@given(histories=HISTORIES, length=st.integers(2, 12))
def test_windows_have_fixed_boundaries_are_disjoint_and_hold_everything(histories: list[list[int]], length: int) -> None:
    expected = [history[start : start + length + 1] for history in histories for start in range(0, len(history), length + 1)]
    windows = examples(_series(histories), WINDOWS, length)
    assert windows.dtype == pl.List(pl.Int32)
    assert windows.to_list() == expected
    assert examples(_series(histories), PLAN, length).to_list() == histories


@given(histories=HISTORIES.filter(lambda histories: any(histories)), length=st.integers(2, 12), data=st.data())
def test_changing_one_interaction_changes_exactly_one_window(
    histories: list[list[int]], length: int, data: st.DataObject
) -> None:
    user = data.draw(st.sampled_from([number for number, history in enumerate(histories) if history]))
    place = data.draw(st.integers(0, len(histories[user]) - 1))
    neighbor = [list(history) for history in histories]
    neighbor[user][place] = 12
    before = examples(_series(histories), WINDOWS, length).to_list()
    after = examples(_series(neighbor), WINDOWS, length).to_list()
    assert len(before) == len(after)
    assert sum(a != b for a, b in zip(before, after, strict=True)) == 1


@given(histories=HISTORIES, length=st.integers(2, 6), most=st.integers(1, 4))
def test_of_one_user_there_are_at_most_as_many_windows_as_the_public_bound_says_and_the_latest_stay(
    histories: list[list[int]], length: int, most: int
) -> None:
    bounded = examples(_series(histories), replace(WINDOWS, windows_per_user=most), length).to_list()
    step = length + 1
    cut = [[user[start : start + step] for start in range(0, len(user), step)] for user in histories]
    assert bounded == [window for windows in cut for window in windows[-most:]]


def test_each_window_is_clipped_by_itself(tiny_config: RunConfig, tiny_catalog: Any) -> None:
    """A user of three windows counts as three users of one, and three bounds add up."""
    recommender = build(tiny_config, tiny_catalog)
    plan = replace(WINDOWS, noise_multiplier=1e-9, l2_clip_norm=1e-3, sampling_rate=1.0, steps_per_round=1)
    history = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9, 3, 2, 3]
    split = [history[:7], history[7:14], history[14:]]

    def update(histories: list[list[int]], plan: PrivacyPlan) -> np.ndarray:
        frame = pl.DataFrame({"train": _series(histories)})
        task = _task(recommender, frame, expected_batch_size=1.0)
        return train([task], recommender, plan, tiny_config.training)[0]

    windows = update([history], plan)
    rounding.assert_close(
        windows,
        update(split, replace(plan, unit="user")),
        within=rounding.of_gradients(recommender),
    )
    assert 1.0e-4 < np.linalg.norm(windows) <= 3.0e-4
    assert np.linalg.norm(update([history], replace(plan, unit="user"))) <= 1.0e-4


def test_windows_are_neither_drawn_at_random_nor_thinned(
    tiny_config: RunConfig, tiny_catalog: Any, tiny_histories: Any
) -> None:
    config = tiny_config.with_values({"training.history_dropout": 0.5, "training.random_windows": True})
    recommender = build(config, tiny_catalog)

    def update(plan: PrivacyPlan, seed: int) -> np.ndarray:
        task = _task(recommender, tiny_histories, source=replayable_source(seed))
        return train([task], recommender, plan, config.training)[0]

    plan = replace(WINDOWS, noise_multiplier=1e-9, sampling_rate=1.0)
    rounding.assert_close(update(plan, 1), update(plan, 2), within=rounding.of_gradients(recommender))
    assert np.abs(update(replace(plan, unit="user"), 1) - update(replace(plan, unit="user"), 2)).max() > 1e-4


# Turns instead of coins.


def _turns(recommender: Recommender, plan: PrivacyPlan = TURNS, **changes: Any) -> BandedNoise:
    values = {"size": recommender.attached.size, "bands": plan.min_separation, "stddev": plan.noise_stddev}
    return BandedNoise(**{**values, **changes}, source=replayable_source(5))


@given(
    rounds=st.lists(st.booleans(), min_size=1, max_size=12),
    steps_per_round=st.integers(1, 7),
    separation=st.integers(1, 9),
    users=st.integers(1, 12),
)
def test_a_user_never_takes_part_twice_within_the_minimum_separation(
    rounds: list[bool], steps_per_round: int, separation: int, users: int
) -> None:
    """Over runs of any length, with rounds left out, and exactly once in every `separation` steps of a round that is not."""
    plan = replace(TURNS, steps_per_round=steps_per_round, min_separation=separation)
    groups = user_groups(pl.Series([f"u{user}" for user in range(users)]), key="run", groups=separation)
    took_part: dict[int, list[int]] = {user: [] for user in range(users)}
    for number, asked in enumerate(rounds):
        task = TrainingTask(
            None, pl.Series(), 1.0, 1.0, replayable_source(0), groups=groups, first_step=number * steps_per_round
        )  # type: ignore[arg-type]
        if asked:
            for step, drawn in enumerate(_who_takes_part(task, plan, users), start=task.first_step):
                for user in drawn:
                    took_part[user].append(step)
    for user, steps in took_part.items():
        assert all(later - earlier >= separation for earlier, later in pairwise(steps))
        if all(rounds):
            total = len(rounds) * steps_per_round
            assert steps == list(range(int(groups[user]), total, separation))


def test_only_the_users_whose_turn_it_is_move_the_adapter(
    tiny_config: RunConfig, tiny_catalog: Any, tiny_histories: Any
) -> None:
    recommender = build(tiny_config, tiny_catalog)
    plan = replace(TURNS, noise_multiplier=1e-9, steps_per_round=1)
    noise = _turns(recommender, plan)
    moved = []
    for step in range(7):
        task = _task(
            recommender, tiny_histories.head(1), state=_zero_state(recommender), groups=np.array([1]), first_step=step,
            noise=noise,
        )  # fmt: skip
        moved.append(np.linalg.norm(train([task], recommender, plan, tiny_config.training)[0]) > 1e-6)
    assert moved == [False, True, False, False, True, False, False]


def test_correlated_noise_goes_on_across_rounds(tiny_config: RunConfig, tiny_catalog: Any, tiny_histories: Any) -> None:
    """Two rounds of two steps without anybody: each update is minus rate / divisor times the sum of its steps' noise."""
    recommender = build(tiny_config, tiny_catalog)
    noise, same = _turns(recommender), _turns(recommender)
    for first_step in (0, 2):
        task = _task(recommender, tiny_histories.clear(), state=_zero_state(recommender), first_step=first_step, noise=noise)
        (result,) = train([task], recommender, TURNS, tiny_config.training)
        expected = -0.1 / 4.5 * (same.next().astype(np.float64) + same.next())
        rounding.assert_close(result, expected, within=rounding.rounding(sums=3, length=3))
    restarted = _turns(recommender)
    assert np.abs(result + 0.1 / 4.5 * (restarted.next() + restarted.next())).max() > 1e-3


def test_turns_without_the_plans_own_noise_or_without_groups_are_refused(
    tiny_config: RunConfig, tiny_catalog: Any, tiny_histories: Any
) -> None:
    recommender = build(tiny_config, tiny_catalog)
    groups = np.arange(9) % 3
    wrong = [
        None, _turns(recommender, bands=2), _turns(recommender, bands=4), _turns(recommender, stddev=0.1),
        _turns(recommender, size=3),
    ]  # fmt: skip
    for noise in wrong:
        task = _task(recommender, tiny_histories, groups=groups, noise=noise)
        with pytest.raises(PrivacyError, match="Expected the plan's correlated noise under dp-ftrl-silo"):
            train([task], recommender, TURNS, tiny_config.training)
    for missing in (None, groups[:8]):
        task = _task(recommender, tiny_histories, groups=missing, noise=_turns(recommender))
        with pytest.raises(PrivacyError, match="Expected a group for every user under dp-ftrl-silo"):
            train([task], recommender, TURNS, tiny_config.training)


def test_a_users_group_depends_on_the_user_and_the_key_alone() -> None:
    users = pl.Series([f"user {number}" for number in range(400)])
    groups = user_groups(users, key="run", groups=7)
    assert groups.dtype == np.int64
    np.testing.assert_array_equal(user_groups(users[100:], key="run", groups=7), groups[100:])
    np.testing.assert_array_equal(user_groups(users.reverse(), key="run", groups=7), groups[::-1])
    assert (user_groups(users, key="another run", groups=7) == groups).mean() < 0.3
    np.testing.assert_array_equal(user_groups(users, key="run", groups=1), np.zeros(400))
    assert len(user_groups(users[:0], key="run", groups=7)) == 0


def test_groups_are_of_equal_size_in_expectation() -> None:
    """Null: multinomial with 7 equal cells, n = 20,000; false alarms 1e-6. One user in ten moved is found, power > .99."""
    groups = user_groups(pl.Series([str(number) for number in range(20_000)]), key="run", groups=7)

    def accepted(sample: np.ndarray) -> bool:
        return bool(stats.chisquare(np.bincount(sample, minlength=7)).pvalue > 1e-6)

    assert accepted(groups)
    skewed = groups.copy()
    skewed[::10] = 0
    assert not accepted(skewed)


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
    # Nor does it matter how long the others are.
    for row in range(3):
        (alone,) = user_losses(scores[row : row + 1], targets[row : row + 1], mask[row : row + 1])
        rounding.assert_close(alone, losses[row], within=rounding.rounding(sums=2, length=5))


@pytest.mark.parametrize("plan", [PLAIN, PLAN], ids=["plain", "private"])
def test_what_a_failed_pass_left_on_the_model_is_in_nobodys_update(
    plan: PrivacyPlan, tiny_config: RunConfig, tiny_catalog: Any, tiny_histories: Any
) -> None:
    recommender = build(tiny_config, tiny_catalog)
    updates = []
    for left in (None, 1.0):
        for parameter in recommender.attached.parameters:
            parameter.grad = None if left is None else torch.full_like(parameter, left)
        updates.append(train([_task(recommender, tiny_histories)], recommender, plan, tiny_config.training)[0])
    np.testing.assert_array_equal(updates[0], updates[1])
    assert all(parameter.grad is None for parameter in recommender.attached.parameters)


def test_many_short_histories_are_spread_over_passes_that_their_gradients_fit(
    tiny_config: RunConfig, tiny_catalog: Any, monkeypatch: Any
) -> None:
    recommender = build(tiny_config, tiny_catalog)
    monkeypatch.setattr(gradient_passes, "_GRADIENT_BYTES", 5 * 16 * recommender.attached.size)
    sizes: list[int] = []
    layer = recommender.attached.model.transformer
    hook = layer.register_forward_pre_hook(
        lambda module, arguments, keywords: sizes.append(len(keywords["inputs_embeds"])), with_kwargs=True
    )
    config = tiny_config.training.model_copy(update={"physical_batch_size": 2})
    histories = pl.DataFrame({"train": _series([[1, 2]] * 23)})
    try:
        train([_task(recommender, histories)], recommender, replace(PLAN, sampling_rate=1.0), config)
    finally:
        hook.remove()
    assert max(sizes) == 5
