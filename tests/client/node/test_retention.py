"""A running node deletes interactions once a day, and only where its owner set a limit."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from client.home import NodeHome
from client.node.retention import Retention, delete_expired
from client.node.settings import read_settings
from client.store.settings import make_store, open_store

DAY, NOW = 86400, 1_800_000_000


def _node(folder: Path, days: int) -> NodeHome:
    home = NodeHome(folder)
    home.settings.write_text(f'name = "node"\nserver = "localhost:8443"\n[data]\nretention_days = {days}\n')
    with make_store(home, clock=lambda: NOW).adding() as add:
        add(pl.DataFrame({"user": ["u", "u"], "item": ["a", "b"], "timestamp": [NOW - DAY, NOW]}))
    return home


def _kept(home: NodeHome) -> int:
    return open_store(home).contents().interactions


def test_interactions_are_deleted_once_their_time_has_come_and_once_a_day(tmp_path: Path) -> None:
    home = _node(tmp_path, 2)
    retention, kept = Retention(home, read_settings(home)), []
    for hours in (30, 50, 55):  # the second interaction is too old after 48, the next look comes after 54
        retention.look(NOW + hours * 3600)
        retention.wait()
        kept.append(_kept(home))
    assert kept == [1, 1, 0]


def test_without_a_limit_nothing_is_deleted(tmp_path: Path) -> None:
    home = _node(tmp_path, 0)
    Retention(home, read_settings(home)).look(NOW + 1000 * DAY)
    assert _kept(home) == 2


def test_what_cannot_be_opened_is_told_and_ends_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    delete_expired(NodeHome(tmp_path), NOW)  # no interactions yet
    home = _node(tmp_path, 2)
    home.interactions.write_bytes(b"no database")
    delete_expired(home, NOW + 9 * DAY)
    assert "Interactions could not be deleted: " in caplog.text
