"""`server.toml`: what is written is read again; another folder and a damaged file are one clear line."""

from __future__ import annotations

from pathlib import Path

import pytest

from server.home import ServerHome
from server.settings import ServerSettings, read_settings
from shared.errors import ConfigError


def test_settings_come_back(tmp_path: Path) -> None:
    home = ServerHome(tmp_path)
    settings = ServerSettings(hosts=("fl.example.org", "2001:db8::7"), port=8443, superlink_port=9091)
    home.settings.write_text(settings.to_toml(), encoding="utf-8")
    assert read_settings(home) == settings


def test_a_folder_that_is_no_servers_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"Expected the folder of a server, found no server\.toml in it"):
        read_settings(ServerHome(tmp_path))


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("hosts = [", "could not read them"),
        ("", "the field"),
        ('hosts = []\nport = 1\nsuperlink_port = 2', "the field hosts"),
        ('hosts = ["a b"]\nport = 1\nsuperlink_port = 2', "the field hosts"),
        ('hosts = ["a"]\nport = 1979-05-27\nsuperlink_port = 2', "the field port"),
    ],
)  # fmt: skip
def test_damaged_settings_are_one_clear_line(tmp_path: Path, text: str, fault: str) -> None:
    home = ServerHome(tmp_path)
    home.settings.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=f"Expected settings in server.toml.*{fault}"):
        read_settings(home)
