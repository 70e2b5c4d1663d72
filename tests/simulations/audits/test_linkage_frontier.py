"""Linkage over epsilons: the more is promised, the less planted pairs show."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import shared.randomness
from simulations.audits import linkage_frontier as module
from simulations.audits.linkage_frontier import linkage_frontier
from simulations.preparing import dataset_of, split_of
from tests import running


def test_planted_pairs_show_the_less_the_more_is_promised_and_each_bound_stays_below_its_claim(
    tmp_path: Path, tiny_bert: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """150 users in silos that release pairs: an area of 0.9 and more without noise, near 0.5 at epsilon 1."""
    monkeypatch.setattr(shared.randomness, "secret_bytes", np.random.default_rng(3).bytes)
    monkeypatch.setattr(module, "EPSILONS", ("1", "inf"))
    data = running.write_interactions(tmp_path / "data.csv", users=150, items=40)
    config = running.settings(data, tiny_bert, statistics__releases="pairs,transitions", federation__rounds=3)
    dataset = dataset_of(config)
    config = running.population(tmp_path, config, split_of(config, dataset, private=True).histories, dataset.catalog)
    private, plain = linkage_frontier(tmp_path, config, canaries=300)
    assert (private["epsilon"], plain["epsilon"]) == (1.0, None)
    areas = [found["rows"][-1]["area"] for found in (private, plain)]
    assert areas[0]["high"] < areas[1]["low"] and abs(areas[0]["value"] - 0.5) < 0.15
    assert {row["part"] for row in private["rows"]} >= {"popularity", "pairs", "together"}
    assert private["claimed"] == pytest.approx(1.0, abs=0.01) and plain["claimed"] is None
    assert all(bound <= 1.0 for row in private["rows"] for bound in row["lower_bounds"].values())


def test_a_run_that_releases_no_pairs_has_no_frontier(tmp_path: Path, tiny_bert: str) -> None:
    config = running.settings(tmp_path, tiny_bert, statistics__releases="none")
    assert linkage_frontier(tmp_path, config, canaries=300) == []
