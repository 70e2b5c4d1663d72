"""The data of clients without some users or windows: nothing of theirs is read, and all others are as they were."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl

from client.store.population import open_population
from shared.run_folder import POPULATION
from simulations.engines.held_out import WithoutUsers, WithoutWindows
from tests.running import FinishedRun


def test_users_who_are_left_out_have_no_row_and_the_others_the_same_as_before(
    finished_run: FinishedRun, tmp_path: Path
) -> None:
    population = open_population(finished_run.folder / POPULATION)
    everyone, columns = np.arange(population.num_clients), ["train", "user"]
    before = population.rows(everyone, columns)
    left_out = before.histories["user"].gather_every(3)
    data = WithoutUsers(population, tmp_path / "ledger.sqlite", left_out)
    after = data.rows(everyone, columns)
    kept = ~before.histories["user"].is_in(left_out.to_list())
    assert after.histories.equals(before.histories.filter(kept)) and len(after.histories) < len(before.histories)
    assert after.client.tolist() == before.client[kept.to_numpy()].tolist()
    assert data.rows(everyone, ["train"]).histories.columns == ["train"]
    assert data.ledger_file == tmp_path / "ledger.sqlite" and data.account(1) == population.account(1)
    nobody = WithoutUsers(population, tmp_path, pl.Series(before.histories["user"]))
    assert len(nobody.rows(everyone, ["train"]).client) == 0


def test_a_window_that_is_left_out_is_in_no_training_history_and_everything_else_is_as_before(
    finished_run: FinishedRun, tmp_path: Path
) -> None:
    population = open_population(finished_run.folder / POPULATION)
    everyone, columns = np.arange(population.num_clients), ["train", "user", "test"]
    before = population.rows(everyone, columns)
    users = before.histories["user"].gather_every(2)
    windows = pl.DataFrame({"user": users, "start": [1] * len(users), "stop": [3] * len(users)})
    data = WithoutWindows(population, tmp_path / "ledger.sqlite", windows)
    after = data.rows(everyone, columns)
    cut = set(users.to_list())
    expected = [
        [*items[:1], *items[3:]] if user in cut else items
        for user, items in zip(before.histories["user"], before.histories["train"].to_list(), strict=True)
    ]
    assert after.histories["train"].to_list() == expected and after.histories.schema == before.histories.schema
    assert after.histories.drop("train").equals(before.histories.drop("train"))
    assert after.client.tolist() == before.client.tolist()
    assert data.rows(everyone, ["test"]).histories.equals(before.histories.select("test"))
    assert data.rows(everyone, ["train"]).histories.columns == ["train"]
