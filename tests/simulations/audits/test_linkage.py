"""Linkage across releases: parts together tell more than each, and exact pairs give a planted pair away."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import shared.randomness
from shared.config import RunConfig
from simulations.audits.linkage import LINKAGE, TOGETHER, Linked, linked_evidence, write_linkage
from simulations.audits.twin import Twin
from simulations.preparing import dataset_of, split_of
from tests import running
from tests.audits import statement_about
from tests.plans import plain_plan


def test_two_weak_parts_tell_more_together_than_each_and_noise_tells_nothing(tmp_path: Path) -> None:
    """At gaps of 1.5 the areas are 0.86 apart and 0.93 together; 1,000 canaries know them to 0.02."""
    rng = np.random.default_rng(0)
    included = rng.random(2000) < 0.5
    parts = {name: Linked(rng.normal(size=2000) + 1.5 * included) for name in ("pairs", "transitions")}
    rows = {row["part"]: row for row in write_linkage(tmp_path, statement_about(), parts, included)["rows"]}
    assert rows["pairs"]["area"]["value"] == pytest.approx(0.856, abs=0.03)
    assert rows[TOGETHER]["area"]["value"] == pytest.approx(0.933, abs=0.03)
    assert rows[TOGETHER]["lower_bounds"]["f-dp"] > rows["pairs"]["lower_bounds"]["f-dp"] > 0.5
    silent = {name: Linked(rng.normal(size=2000)) for name in parts}
    held = write_linkage(tmp_path, statement_about(), silent, included)
    assert all(abs(row["area"]["value"] - 0.5) < 0.08 and row["lower_bounds"]["f-dp"] < 0.5 for row in held["rows"])
    assert held["claimed"] > 7.9 and json.loads((tmp_path / LINKAGE).read_text("utf-8")) == held


def test_what_is_learned_never_comes_from_the_canaries_that_are_guessed(tmp_path: Path) -> None:
    """Other coins of the half that is guessed change no score: with all of them turned the area turns around 0.5."""
    rng = np.random.default_rng(1)
    included = rng.random(400) < 0.5
    parts = {name: Linked(rng.normal(size=400) + included) for name in ("pairs", "transitions")}
    turned = np.where(np.arange(400) % 2 == 1, ~included, included)
    areas = [
        write_linkage(tmp_path, statement_about(), parts, coins)["rows"][-1]["area"]["value"] for coins in (included, turned)
    ]
    assert sum(areas) == pytest.approx(1.0) and areas[0] > 0.7


def test_each_part_is_read_at_the_canarys_own_two_items() -> None:
    parts = np.zeros((5, 2, 4), dtype=np.float32)
    parts[2, 1, 3] = 8.0  # pairs: item 3 after the second of the items asked
    counts, prior = np.array([1.0, 1.0, 1.0, 1.0]), np.log(np.array([1, 1, 2, 2], dtype=np.float32))
    pairs = np.array([[0, 1], [2, 3]])
    found = linked_evidence(parts, np.array([0, 1]), pairs, counts=counts, log_prior=prior)
    assert set(found) == {"popularity", "pairs"} and found["pairs"].ranks is not None
    assert found["pairs"].scores[1] > 0 and found["pairs"].ranks[1] == 0
    assert found["popularity"].scores[1] - found["popularity"].scores[0] == pytest.approx(2 * np.log(2.0))
    assert linked_evidence(np.zeros_like(parts), np.array([0, 1]), pairs, counts=np.zeros(0), log_prior=prior) == {}


def test_too_few_canaries_and_a_run_without_claims_say_so(tmp_path: Path) -> None:
    part = {"pairs": Linked(np.zeros(40), np.zeros(40, dtype=np.int64))}
    assert "Fewer than 5" in write_linkage(tmp_path, statement_about(), part, np.ones(40, dtype=np.bool_))["skipped"]
    assert "no part" in write_linkage(tmp_path, statement_about(), {}, np.arange(40) % 4 < 2)["skipped"]
    held = write_linkage(tmp_path, statement_about(plain_plan()), part, np.arange(40) % 4 < 2)
    assert held["claimed"] is None and "lower_bounds" not in held["rows"][0]
    assert held["rows"][0]["recovered"]["value"] == 1.0 and held["stamp"].startswith("NOT PRIVATE")


def test_power_without_noise_planted_pairs_are_told_from_the_recommender_and_under_a_runs_noise_much_less(
    tmp_path: Path, tiny_bert: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared.randomness, "secret_bytes", np.random.default_rng(3).bytes)
    data = running.write_interactions(tmp_path / "data.csv", users=150, items=40)
    areas = {}
    for epsilon in ("inf", "1"):
        config = running.settings(
            data, tiny_bert, privacy__epsilon=epsilon, federation__rounds=0, statistics__releases="pairs,transitions"
        )
        found = _twin(tmp_path / epsilon, config)
        areas[epsilon] = {row["part"]: row["area"] for row in found["rows"]}
    assert areas["inf"][TOGETHER]["low"] > 0.7
    assert areas["1"][TOGETHER]["high"] < areas["inf"][TOGETHER]["low"]


def _twin(folder: Path, config: RunConfig) -> dict[str, dict[str, object]]:
    folder.mkdir()
    dataset = dataset_of(config)
    config = running.population(folder, config, split_of(config, dataset, private=True).histories, dataset.catalog)
    twin = Twin.of(folder, config, canaries=300)
    return write_linkage(folder, statement_about(), twin.run().linked, twin.canaries.included)
