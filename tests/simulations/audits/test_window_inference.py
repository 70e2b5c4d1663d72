"""Membership inference on windows: what a window is, and a run that leaks them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import shared.randomness
from client.store.population import open_population
from shared.run_folder import POPULATION
from simulations.audits import window_inference
from simulations.audits.window_inference import WINDOWS, windows_of, write_windows
from tests import running
from tests.audits import statement_about
from tests.running import FinishedRun


def test_a_window_is_at_a_fixed_boundary_of_a_longer_history(
    finished_run: FinishedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(window_inference, "LENGTH", 3)
    population = open_population(finished_run.folder / POPULATION)
    rows = population.rows(np.arange(population.num_clients), ["user", "train"]).histories
    train = dict(zip(rows["user"], rows["train"].to_list(), strict=True))
    windows = windows_of(population, seed=0)
    assert set(windows["user"]) == {user for user, items in train.items() if len(items) > 3} and len(windows) > 10
    for user, start, stop, window in windows.iter_rows():
        assert start % 3 == 0 and stop == start + 3 <= len(train[user]) and window == train[user][start:stop]
    assert set(windows["start"]) == {0, 3}
    assert windows_of(population, seed=0).equals(windows) and not windows_of(population, seed=1).equals(windows)


def test_guarantee_membership_of_windows_is_a_record_that_is_stamped_not_private_and_charges_nobody(
    tmp_path: Path, tiny_bert: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exact pairs tell windows that were in from others."""
    monkeypatch.setattr(shared.randomness, "secret_bytes", np.random.default_rng(4).bytes)
    monkeypatch.setattr(window_inference, "LENGTH", 3)
    config = running.exact_pairs(tmp_path, tiny_bert)
    population = open_population(tmp_path / "population")
    held = write_windows(tmp_path, config, population, statement_about(), shadow_runs=2)
    text = (tmp_path / WINDOWS).read_text("utf-8")
    assert json.loads(text) == held and held["stamp"].startswith("NOT PRIVATE") and "person-" not in text
    assert not population.ledger_file.exists()
    plain, ratio = held["attacks"]
    assert plain["members"] + plain["others"] == held["windows"] > 100 and held["length"] == 3
    assert plain["found"] == {"0.01": None, "0.001": None}
    assert ratio["area"]["low"] > 0.5 and plain["area"]["low"] > 0.5


def test_histories_that_are_too_short_are_said_to_be(finished_run: FinishedRun, tmp_path: Path) -> None:
    population = open_population(finished_run.folder / POPULATION)
    config = running.settings(finished_run.data, "unused")
    held = write_windows(tmp_path, config, population, statement_about())
    assert held["attacks"] == [] and "users need more than 5 interactions" in held["skipped"]
