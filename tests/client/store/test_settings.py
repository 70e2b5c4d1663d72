"""`[data]` of node.toml, and the database that follows from it."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from client.home import NodeHome
from client.store.settings import DataSettings, data_key, data_settings, make_store, open_store
from shared.errors import ConfigError, StoreUnavailable


@pytest.fixture
def home(tmp_path: Path) -> NodeHome:
    return NodeHome(tmp_path / "node")


def say(home: NodeHome, text: str) -> None:
    home.path.mkdir(exist_ok=True)
    home.settings.write_text('name = "edge-1"\n[data]\n' + text, encoding="utf-8")


def test_the_owner_s_words_and_the_defaults(home: NodeHome) -> None:
    assert data_settings(home) == DataSettings(name="data", retention_days=0, encryption=False)
    say(home, 'name = "shop-17"\nretention_days = 365\nencryption = true\n')
    assert data_settings(home) == DataSettings(name="shop-17", retention_days=365, encryption=True)


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("retention_day = 3", "data.retention_day"),
        ("retention_days = -1", "data.retention_days"),
        ("retention_days = '3'", "data.retention_days"),
        ("retention_days = true", "data.retention_days"),
        ("encryption = 1", "data.encryption"),
        ("name = 7", "data.name"),
    ],
)
def test_a_wrong_key_or_value_is_refused(home: NodeHome, text: str, key: str) -> None:
    say(home, text)
    with pytest.raises(ConfigError, match=rf"^Expected {key} in node\.toml to be .*Correct it\.$"):
        make_store(home)
    assert not home.interactions.exists()


def test_a_name_that_no_ledger_can_be_bound_to_and_no_table_are_refused(home: NodeHome) -> None:
    say(home, 'name = ""')
    with pytest.raises(ConfigError, match="Expected the name of the data to be 1 to"):
        data_settings(home)
    home.settings.write_text("data = 3\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"^Expected data in node\.toml to be"):
        data_settings(home)


def test_a_database_is_made_as_the_owner_says_and_opened_with_its_key(home: NodeHome) -> None:
    say(home, "encryption = true\nretention_days = 3")
    with pytest.raises(ConfigError, match="found none that can be read"):
        open_store(home)
    made = make_store(home, clock=lambda: 0)
    assert (made.encryption, made.retention_days, len(data_key(home, data_settings(home)) or b"")) == ("AES-SIV", 3, 64)
    with made.adding() as add:
        add(pl.DataFrame({"user": ["u"], "item": ["a"], "timestamp": [0]}))
    assert open_store(home).users() == make_store(home).users() == ["u"]


def test_a_key_that_was_lost_is_never_replaced(home: NodeHome) -> None:
    say(home, "encryption = true")
    make_store(home)
    home.data_key.unlink()
    with pytest.raises(ConfigError, match=r"Put it back from a copy; without it the interactions are lost"):
        make_store(home)
    assert not home.data_key.exists()


def test_what_is_there_already_is_neither_encrypted_nor_decrypted_silently(home: NodeHome) -> None:
    make_store(home)
    say(home, "encryption = true")
    with pytest.raises(ConfigError, match="found none that can be read"):
        make_store(home)
    (home.path / "keys").mkdir()
    home.data_key.write_text("ab" * 64)
    home.data_key.chmod(0o600)
    with pytest.raises(StoreUnavailable, match="found one in clear"):
        make_store(home)


def test_opening_makes_nothing(home: NodeHome) -> None:
    with pytest.raises(StoreUnavailable, match="There is no database"):
        open_store(home)
    assert not home.path.exists()
