"""`tacit node ingest`, `data`, `forget`, `prune`: an owner's day with a node's own data."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from client.cli import app
from client.home import NodeHome
from client.ledger.ledger import Binding, Ledger
from shared.data.catalog import ItemCatalog
from shared.errors import ConfigError, DataError, StoreUnavailable

DAY = 86_400
NOW = int(time.time())


@pytest.fixture
def home(tmp_path: Path) -> NodeHome:
    return NodeHome(tmp_path / "node")


def run(home: NodeHome, *arguments: object, given: str | bytes | None = None) -> str:
    """Standard output of a command; what it raises is raised here."""
    command = [*map(str, arguments), "--home", str(home.path)]
    result = CliRunner().invoke(app, command, input=given, standalone_mode=False)
    if result.exception is not None:
        raise result.exception
    return result.output


def value(home: NodeHome, *arguments: object, given: str | bytes | None = None) -> Any:
    return json.loads(run(home, *arguments, "--json", given=given))


def log(folder: Path, text: str = "u,a,10\nu,b,20\nv,a,30\nv,x,40\n") -> Path:
    path = folder / "log.csv"
    path.write_text("user,item,timestamp\n" + text)
    return path


def test_a_day_with_a_node_s_data(home: NodeHome, tmp_path: Path) -> None:
    assert value(home, "data")["interactions"] == 0 and not home.path.exists()
    added = {"rows": 4, "added": 4, "known": 0, "expired": 0, "dropped": 0, "pruned": 0}
    assert value(home, "ingest", log(tmp_path)) == added
    assert value(home, "ingest", log(tmp_path)) == {**added, "added": 0, "known": 4}
    line = b'{"uid": "w", "item": "x", "timestamp": 86400}\n'
    assert value(home, "ingest", "-", "--columns", "user=uid", given=line) == {**added, "rows": 1, "added": 1}
    home.catalogs.mkdir()
    ItemCatalog(("a", "b"), ("A", "B")).save(home.catalogs / "digest.parquet")
    found = value(home, "data")
    assert found.pop("bytes") == home.interactions.stat().st_size
    assert found == {
        "name": "data",
        "interactions": 5,
        "users": 3,
        "items": 3,
        "oldest": "1970-01-01",
        "newest": "1970-01-02",
        "encryption": "none",
        "retention_days": 0,
        "unknown_items": {"digest": 2},
    }
    assert value(home, "forget", " v ") == {"deleted": 2, "ledger": "unchanged"}
    assert value(home, "data")["users"] == 2
    with pytest.raises(DataError, match=r"^Expected a user of this node, found no interactions of that id\. Nothing was"):
        run(home, "forget", "v")


def test_what_people_read_says_the_same(home: NodeHome, tmp_path: Path) -> None:
    assert run(home, "data").startswith("data: 0 interactions of 0 users with 0 items.\n")
    said = run(home, "ingest", log(tmp_path, "u,a,10\nu,a,10\nu,b,x\n"), "--bad-rows", "drop")
    assert said == "Read 3 rows: 1 added, 1 known already, 1 that cannot be used (left out).\n"
    home.catalogs.mkdir()
    ItemCatalog(("b",), ("B",)).save(home.catalogs / "0123456789abcdef.parquet")
    shown = run(home, "data").splitlines()
    assert shown[0] == "data: 1 interactions of 1 users with 1 items, from 1970-01-01 to 1970-01-01."
    assert shown[1].endswith("bytes; encryption none; kept for ever.")
    assert shown[2] == "Catalog 0123456789ab lacks the items of 1 interactions; its runs leave them out."
    said = run(home, "forget", "u")
    assert said.startswith("Deleted 1 interactions") and "stays in the ledger" in said


def test_forgetting_leaves_what_was_spent_in_the_ledger(home: NodeHome, tmp_path: Path) -> None:
    run(home, "ingest", log(tmp_path))
    ledger = Ledger(home.ledger, binding=Binding("data", "user", "add-or-remove-one", 1e-5))
    ledger.close()
    before = home.ledger.read_bytes()
    run(home, "forget", "u")
    assert home.ledger.read_bytes() == before


def test_retention_is_the_owner_s(home: NodeHome, tmp_path: Path) -> None:
    old, new = NOW - 40 * DAY, NOW - 10 * DAY
    run(home, "ingest", log(tmp_path, f"u,a,{old}\nu,b,{new}\n"))
    with pytest.raises(
        ConfigError, match=r"^Expected retention_days >= 1 in \[data\] of node\.toml, got none\. Nothing was"
    ):
        run(home, "prune")
    home.settings.write_text("[data]\nretention_days = 30\n")
    assert value(home, "prune") == {"deleted": 1, "retention_days": 30}
    done = value(home, "ingest", log(tmp_path, f"u,a,{old}\nu,b,{new}\n"))
    assert (done["added"], done["known"], done["expired"]) == (0, 1, 1)
    assert run(home, "prune") == "Deleted 0 interactions older than 30 days.\n"
    assert run(home, "data").splitlines()[1].endswith("kept 30 days.")


def test_encrypted_data_are_used_as_others_are(home: NodeHome, tmp_path: Path) -> None:
    home.path.mkdir()
    home.settings.write_text("[data]\nencryption = true\n")
    run(home, "ingest", log(tmp_path, "person-1,thing-1,10\nperson-2,thing-2,20\n"))
    files = [file for file in home.path.rglob("*") if file.is_file()]
    assert {home.interactions, home.data_key} <= set(files)
    assert not any(text in file.read_bytes() for file in files for text in (b"person-", b"thing-"))
    assert (value(home, "data")["encryption"], value(home, "data")["users"]) == ("AES-SIV", 2)
    assert value(home, "forget", "person-1")["deleted"] == 1


def test_wrong_input_ends_in_one_line_and_changes_nothing(home: NodeHome, tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable, match=r"There is no database interactions\.sqlite yet"):
        run(home, "forget", "u")
    assert not home.path.exists()
    with pytest.raises(DataError, match="found none that can be read in line 3"):
        run(home, "ingest", log(tmp_path, "u,a,1\nu,,2\n"))
    assert value(home, "data")["interactions"] == 0
    with pytest.raises(DataError, match=r"could not open missing\.csv"):
        run(home, "ingest", tmp_path / "missing.csv")
    with pytest.raises(ConfigError, match="Expected --port or --socket, got both"):
        run(home, "serve", "--port", "0", "--socket", tmp_path / "s")
    with pytest.raises(ConfigError, match=r"Expected --host to be a loopback address, got --host=0\.0\.0\.0"):
        run(home, "serve", "--port", "0", "--host", "0.0.0.0")


def test_the_folder_may_come_from_the_environment(home: NodeHome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TACIT_NODE_HOME", str(home.path))
    result = CliRunner().invoke(app, ["ingest", str(log(tmp_path))], standalone_mode=False)
    assert result.exception is None and home.interactions.exists()
