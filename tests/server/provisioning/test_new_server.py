"""A new server: whole or not there, nothing secret readable for others, nothing the same twice."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

import server.provisioning.new_server as module
from server.home import ServerHome
from server.provisioning.new_server import make_server, verify_settings
from server.settings import read_settings
from shared.errors import ConfigError
from shared.secagg.identities import read_key, read_roster
from tests import provisioning
from tests.provisioning import HOSTS, MADE, PASSPHRASE

SETTINGS = verify_settings(HOSTS, 8443, 9091)
SECRET = {"authority/ca.key", "tls/server.key", "identity.json", "superexec.secret"}


def test_a_new_server_has_its_files_and_its_secrets_are_for_its_owner_alone(server_home: ServerHome) -> None:
    found = provisioning.snapshot(server_home.path)
    assert {name for name, (mode, _) in found.items() if mode & 0o170000 == 0o100000} == {
        *SECRET, "authority/ca.crt", "tls/server.crt", "server.toml", "roster.json", "nginx.conf", "tacit-server.service",
        "tacit-node.service", "compose.yaml",
    }  # fmt: skip
    for name, (mode, _) in found.items():
        if name in SECRET or mode & 0o170000 == 0o040000:
            assert not mode & 0o077, name
    assert not server_home.path.stat().st_mode & 0o077
    assert read_settings(server_home) == SETTINGS
    assert not read_roster(server_home.roster).entries
    assert len(read_key(server_home.identity)[0]) == 16
    assert len(server_home.superexec_secret.read_bytes()) == 64
    # What others may read repeats no secret.
    secrets = [found[name][1].strip() for name in SECRET]
    assert not [
        name for name, (_, content) in found.items() if name not in SECRET and any(one in content for one in secrets)
    ]
    assert not any(PASSPHRASE.encode() in content for _, content in found.values())


def test_two_servers_have_no_secret_in_common(server_home: ServerHome, another_server: ServerHome) -> None:
    for name in SECRET:
        assert (another_server.path / name).read_bytes() != (server_home.path / name).read_bytes()


@pytest.mark.parametrize("there", ["a file", "an empty folder", "a full folder"])
def test_a_place_that_is_taken_is_refused_and_an_empty_folder_is_not(tmp_path: Path, there: str) -> None:
    place = tmp_path / "place"
    if there == "a file":
        place.write_text("mine", encoding="utf-8")
    else:
        place.mkdir()
    if there == "an empty folder":
        make_server(place, SETTINGS, days=365, passphrase=PASSPHRASE, now=MADE)
        assert ServerHome(place).identity.exists() and [path.name for path in tmp_path.iterdir()] == ["place"]
        return
    if there == "a full folder":
        (place / "mine").write_text("mine", encoding="utf-8")
    before, found = provisioning.snapshot(tmp_path), "a file" if there == "a file" else "files in it"
    with pytest.raises(ConfigError, match=f"Expected a new or empty folder for the server, found {found}"):
        make_server(place, SETTINGS, days=365, passphrase=PASSPHRASE, now=MADE)
    assert provisioning.snapshot(tmp_path) == before


@pytest.mark.parametrize(("days", "passphrase"), [(0, PASSPHRASE), (4000, PASSPHRASE), (365, "short")])
def test_what_is_refused_leaves_nothing_behind(tmp_path: Path, days: int, passphrase: str) -> None:
    with pytest.raises(ConfigError, match=r"Expected (--days|a passphrase)"):
        make_server(tmp_path / "a" / "server", SETTINGS, days=days, passphrase=passphrase, now=MADE)
    assert not list(tmp_path.iterdir())


def test_a_disk_that_fills_up_at_the_last_file_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(module, "write_service_files", full)
    with pytest.raises(OSError, match="No space left on device"):
        make_server(tmp_path / "server", SETTINGS, days=365, passphrase=PASSPHRASE, now=MADE)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_nginx_and_systemd_cannot_name_is_refused(tmp_path: Path) -> None:
    for name in ("a b", "a;b", 'a"b', "a$b", "a%b", "a{b", "a\nb"):
        with pytest.raises(ConfigError, match=r"Expected a folder whose path has letters, digits and \. _ - \+ @ alone"):
            make_server(tmp_path / name, SETTINGS, days=365, passphrase=PASSPHRASE, now=MADE)
    assert not list(tmp_path.iterdir())


def test_hosts_and_ports_are_checked() -> None:
    assert verify_settings(("B.example", "b.example"), 1, 2).hosts == ("b.example",)
    for hosts, port, other, message in (
        ((), 1, 2, "Expected from 1 to 32 --host, got 0"),
        ([f"h{number}.example" for number in range(33)], 1, 2, "Expected from 1 to 32 --host, got 33"),
        (HOSTS, 0, 2, "Expected --port from 1 to 65535, got --port=0"),
        (HOSTS, 1, 65536, "Expected --superlink-port from 1 to 65535"),
        (HOSTS, 7, 7, "Expected --port to differ from --superlink-port, got 7 for both"),
        (("a b",), 1, 2, "Expected --host to be a DNS name or an IP address"),
    ):
        with pytest.raises(ConfigError, match=message):
            verify_settings(hosts, port, other)
