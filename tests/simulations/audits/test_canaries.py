"""Canaries: their histories, their coins, and clients that hold them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from client.store.population import open_population
from shared.data.splitting import HISTORIES_SCHEMA
from shared.errors import ConfigError
from shared.randomness import replayable_source, secret_source
from simulations.audits.canaries import Canaries, WithCanaries, plant
from simulations.population import write_population

COUNTS = np.arange(200)[::-1].copy()
COLUMNS = tuple(HISTORIES_SCHEMA)


def _planted(*, wanted: int = 300, clients: int = 4, head: int = 200, displace: bool = False) -> Canaries:
    rng, coins = np.random.default_rng(0), replayable_source(1, "coins")
    return plant(COUNTS, wanted=wanted, clients=clients, head=head, displace=displace, rng=rng, coins=coins)


def test_a_canary_has_two_often_used_items_of_its_own_and_every_tenth_many() -> None:
    found = _planted()
    histories = found.histories["train"].to_list()
    short = [tuple(sorted(row)) for row, is_long in zip(histories, found.long.tolist(), strict=True) if not is_long]
    assert len(found) == 300 and found.long.sum() == 30
    assert len(set(short)) == len(short) and all(len(set(row)) == 2 for row in short)
    long = [row for row, is_long in zip(histories, found.long.tolist(), strict=True) if is_long]
    assert all(len(set(row)) == len(row) >= 40 for row in long)
    assert max(max(row) for row in histories) < 150  # items are numbered by how often they are used
    uses = np.bincount(np.concatenate(short))
    assert uses[uses > 0].max() <= 2 * uses[uses > 0].mean() + 2


def test_the_same_run_has_the_same_canaries_and_their_coins_alone_are_secret() -> None:
    assert _planted().histories.equals(_planted().histories)


def test_coins_are_fair_and_secret_ones_differ_each_time() -> None:
    """2,000 coins: outside of 880 to 1,120 with probability below 1e-7."""
    made = [
        plant(COUNTS, wanted=2000, clients=4, head=200, displace=False, rng=np.random.default_rng(0), coins=secret_source())
        for _ in range(2)
    ]
    assert all(880 <= one.included.sum() <= 1120 for one in made)
    assert (made[0].included != made[1].included).any()


def test_where_there_is_no_room_for_so_many_there_are_fewer_and_for_too_few_an_error_says_so() -> None:
    assert len(_planted(clients=50, displace=True)) == 50
    with pytest.raises(ConfigError, match=r"found room for 9\. Audit a run of more clients"):
        _planted(clients=9, displace=True)
    with pytest.raises(ConfigError, match=r"found room for 3\. Audit a run on more items"):
        plant(np.ones(3, dtype=np.int64), wanted=20, clients=40, head=3, displace=True, rng=np.random.default_rng(0),
              coins=secret_source())  # fmt: skip
    with pytest.raises(ConfigError, match="Expected at least 3 items for canaries, got items=2"):
        plant(np.ones(2, dtype=np.int64), wanted=20, clients=4, head=2, displace=False, rng=np.random.default_rng(0),
              coins=secret_source())  # fmt: skip


def _data(tmp_path: Path, canaries: Canaries, histories: pl.DataFrame, catalog: Any, *, clients: int) -> WithCanaries:
    write_population(histories, catalog, None, tmp_path / "population", clients=clients)
    return WithCanaries(open_population(tmp_path / "population"), tmp_path / "twin.sqlite", canaries)


def _small(*, clients: int, displace: bool) -> Canaries:
    return plant(
        np.arange(12), wanted=20 if not displace else 10, clients=clients, head=12, displace=displace,
        rng=np.random.default_rng(3), coins=replayable_source(2, "coins"),
    )  # fmt: skip


def test_silos_hold_their_own_users_and_the_canaries_that_are_in(
    tmp_path: Path, tiny_histories: pl.DataFrame, tiny_catalog: Any
) -> None:
    canaries = _small(clients=3, displace=False)
    data = _data(tmp_path, canaries, tiny_histories, tiny_catalog, clients=3)
    asked = np.array([2, 0])
    rows = data.rows(asked, COLUMNS)
    for place, client in enumerate(asked.tolist()):
        own = rows.histories.filter(pl.Series(rows.client == place))["user"].to_list()
        real = data.data.rows(np.array([client]), ["user"]).histories["user"].to_list()
        planted = [f"canary-{one}" for one in np.flatnonzero(canaries.included & (canaries.home == client)).tolist()]
        assert own == real + planted
    assert (np.diff(rows.client) >= 0).all()
    assert data.without(asked, ["user"]).histories["user"].str.starts_with("canary").sum() == 0
    assert data.rows(asked, ["user", "train"]).histories.columns == ["user", "train"]


def test_across_devices_a_canary_takes_a_clients_place_and_one_that_is_out_leaves_it_empty(
    tmp_path: Path, tiny_histories: pl.DataFrame, tiny_catalog: Any
) -> None:
    histories = pl.concat([tiny_histories.with_columns(pl.col("user") + suffix) for suffix in ("", "-b")])
    canaries = _small(clients=18, displace=True)
    data = _data(tmp_path, canaries, histories, tiny_catalog, clients=0)
    everyone = np.arange(18)
    rows = data.rows(everyone, COLUMNS)
    at_home = dict(zip(canaries.home.tolist(), range(len(canaries)), strict=True))
    for client in range(18):
        users = rows.histories.filter(pl.Series(rows.client == client))["user"].to_list()
        if client not in at_home:
            assert users == data.data.rows(np.array([client]), ["user"]).histories["user"].to_list()
        elif canaries.included[at_home[client]]:
            assert users == [f"canary-{at_home[client]}"]
        else:
            assert users == []
    assert len(data.without(everyone, ["user"]).client) == 18 - len(canaries)


def test_the_twins_releases_are_charged_to_a_ledger_of_its_own(
    tmp_path: Path, tiny_histories: pl.DataFrame, tiny_catalog: Any
) -> None:
    data = _data(tmp_path, _small(clients=3, displace=False), tiny_histories, tiny_catalog, clients=3)
    assert data.ledger_file == tmp_path / "twin.sqlite" != data.data.ledger_file
    assert data.account(0) == data.data.account(0)
    assert (data.data_name, data.shaped_by_all) == (data.data.data_name, data.data.shaped_by_all)
