"""Reconstruction from updates: nearly all where theory says so, the union from plain sums, chance under noise and masks."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest

import shared.randomness
from shared.audit.document import Reconstruction
from shared.config import RunConfig
from shared.config.defaults import fitted
from shared.data.catalog import ItemCatalog
from shared.model.recommender import Recommender, resident
from shared.privacy.calibration import plan_of
from shared.privacy.plan import PrivacyPlan
from simulations.audits import adapter_reconstruction
from simulations.audits.adapter_reconstruction import (
    Part,
    learned_direction,
    parts_of,
    reconstruct_from_updates,
    span_scores,
    why_not,
)
from tests import running

Prepared = tuple[RunConfig, PrivacyPlan, Recommender]
Prepare = Callable[..., Prepared]
Rows = dict[str, Reconstruction]
CLIENTS: dict[str, dict[str, object]] = {
    "silos": {},
    "central": {"federation__clients": 0, "privacy__mechanism": "central"},
    "distributed": {"federation__clients": 0, "privacy__mechanism": "distributed"},
}


@pytest.fixture(scope="module")
def prepare(tmp_path_factory: pytest.TempPathFactory, tiny_bert: str) -> Prepare:
    """Configuration, plan and recommender of a run on 300 items; what is expected next depends on no item that was read."""
    words = np.random.default_rng(0).integers(30, size=(300, 6))
    catalog = ItemCatalog(
        tuple(f"i{one}" for one in range(300)), tuple(" ".join(f"w{word}" for word in row) for row in words)
    )
    data = tmp_path_factory.mktemp("data")
    own = {"model__max_history_length": 30, "model__text_similarity_weight": 0.0, "adapter__head_rank": 4}

    def of(**changes: object) -> Prepared:
        config = running.settings(data, tiny_bert, **{**own, "privacy__epsilon": 1, **changes})
        size = {"num_users": 150, "num_clients": config.federation.clients or 150}
        config = fitted(config, **size)
        return config, plan_of(config, **size), resident(config, catalog)

    return of


@pytest.fixture(scope="module")
def attacked(prepare: Prepare) -> dict[str, Rows]:
    """What 20 users' updates give away under each mechanism, at epsilon 1; with the same noise and masks each time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shared.randomness, "secret_bytes", np.random.default_rng(4).bytes)
        patch.setattr(adapter_reconstruction, "secret_bytes", np.random.default_rng(5).bytes)
        for name, value in (("USERS", 20), ("LEARNED_FROM", 20), ("SUMS", (5, 20))):
            patch.setattr(adapter_reconstruction, name, value)
        return {name: _rows(prepare(**changes)) for name, changes in CLIENTS.items()}


def _rows(prepared: Prepared) -> Rows:
    return {row.setting: row for row in reconstruct_from_updates(*prepared)}


def _one(rows: Rows, *words: str) -> Reconstruction:
    (row,) = [row for setting, row in rows.items() if all(word in setting for word in words)]
    return row


def _share(row: Reconstruction) -> float:
    return row.recovered / row.of


@pytest.mark.parametrize("clients", CLIENTS)
def test_plain_updates_of_one_user_give_at_least_95_percent_of_the_items_away(
    attacked: dict[str, Rows], clients: str
) -> None:
    rows = attacked[clients]
    assert _share(_one(rows, "one update of 2 local steps, plain", "rows of the item head")) >= 0.95
    assert _share(_one(rows, "one update of 2 local steps, plain, 2 items", "lora_B", "span check")) >= 0.95


@pytest.mark.parametrize("clients", CLIENTS)
def test_plain_sums_leak_the_union_of_the_items_and_not_whose_each_is(attacked: dict[str, Rows], clients: str) -> None:
    """Of 300 items 20 users have 75 %, and five users 28 %."""
    for size, chance in ((5, 0.28), (20, 0.75)):
        union = _one(attacked[clients], f"a plain sum of {size} updates", "the union")
        each = _one(attacked[clients], f"a plain sum of {size} updates", "each user")
        assert union.chance == pytest.approx(chance, abs=0.03) and _share(union) > 0.9 and union.example == ()
        assert _share(each) < 0.5


@pytest.mark.parametrize("clients", CLIENTS)
def test_under_the_full_noise_of_the_sum_items_are_found_by_chance(attacked: dict[str, Rows], clients: str) -> None:
    """380 items at a chance of 6.3 % and nearly no signal: more than 11.5 % with probability 1e-4."""
    row = _one(attacked[clients], "in the noise of the sum")
    assert row.of == 380 and row.chance == pytest.approx(19 / 300) and _share(row) < 0.115


def test_a_server_that_adds_the_noise_sees_the_items_and_one_behind_masks_sees_nothing(attacked: dict[str, Rows]) -> None:
    assert _share(_one(attacked["central"], "as it is sent")) >= 0.95
    assert _share(_one(attacked["silos"], "as it is sent")) < 0.115
    masked, alone = (_one(attacked["distributed"], word) for word in ("under a mask", "as it is sent"))
    assert _share(masked) < 0.1 < 0.13 < _share(alone)
    assert not any("under a mask" in setting for setting in attacked["central"])


def test_noise_that_is_too_small_gives_items_away(prepare: Prepare, monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control: at a thousandth of the noise most items are found in the sum too."""
    for name, value in (("USERS", 20), ("LEARNED_FROM", 20), ("SUMS", ())):
        monkeypatch.setattr(adapter_reconstruction, name, value)
    config, plan, recommender = prepare()
    weak = dataclasses.replace(plan, noise_multiplier=plan.noise_multiplier / 1000, sampling_rate=1.0)
    assert _share(_one(_rows((config, weak, recommender)), "in the noise of the sum")) > 0.8


def test_the_span_check_of_lora_a_finds_what_was_read_where_it_is_trained(prepare: Prepare) -> None:
    own = {"adapter__kind": "lora", "adapter__input_rank": 4, "adapter__head_rank": 0, "privacy__epsilon": "inf"}
    config, plan, recommender = prepare(**own, training__optimizer="sgd", training__learning_rate=300.0)
    row = _one(_rows((config, plan, recommender)), "lora_A before the transformer: span check")
    assert _share(row) >= 0.95 and row.example == row.guessed and len(row.example) == 4
    assert all(part.inputs == (part.module == "input_projection") for part in parts_of(recommender))


def test_the_span_check_finds_the_vectors_that_an_update_is_made_of_and_no_other() -> None:
    rng = np.random.default_rng(0)
    table = rng.normal(size=(50, 16)).astype(np.float32)
    part = Part("output_projection", 3, (16, 5), table, inputs=False)
    update = np.concatenate([np.ones(3), (table[[7, 20]].T @ rng.normal(size=(2, 5))).ravel(), np.ones(4)])
    scores = span_scores(part, update.astype(np.float32))
    assert set(np.flatnonzero(scores > 0.999)) == {7, 20} and np.delete(scores, [7, 20]).max() < 0.95
    assert not span_scores(part, np.zeros(90, dtype=np.float32)).any()


def test_the_learned_direction_is_the_one_that_tells_used_items_from_others() -> None:
    rng = np.random.default_rng(1)
    part = Part("item_head", 0, (40, 3), None, inputs=False)
    histories = [rng.choice(40, size=6, replace=False).tolist() for _ in range(30)]
    updates = 0.1 * rng.normal(size=(30, 40, 3))
    for update, history in zip(updates, histories, strict=True):
        update[history[1:]] += [0.0, -1.0, 0.0]
    direction = learned_direction(part, updates.reshape(30, -1).astype(np.float32), histories)
    assert direction[1] < 0 and abs(direction[1]) > 10 * np.abs(direction[[0, 2]]).max()


def test_a_run_that_trains_nothing_or_nothing_of_items_or_on_few_items_says_why(prepare: Prepare) -> None:
    config, plan, recommender = prepare()
    assert why_not(plan, recommender) == ""
    silent = dataclasses.replace(plan, rounds=0)
    assert "trains nothing" in why_not(silent, recommender)
    assert reconstruct_from_updates(config, silent, recommender) == ()
    *_, inner = prepare(adapter__head_rank=0, adapter__output_rank=0)
    assert "no item shows" in why_not(plan, inner)
