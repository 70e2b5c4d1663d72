"""Kits: intact, signed by the server that they name, with an authority's certificate and nothing else in its text."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from server.home import ServerHome
from server.provisioning.members import server_fingerprint
from shared.errors import ConfigError
from shared.provisioning.kit import read_kit
from tests import provisioning
from tests.provisioning import DAY, MADE, NOW


@pytest.fixture
def path(server_home: ServerHome, tmp_path: Path) -> Path:
    _, request = provisioning.new_node(tmp_path / "nodes", "shop-1")
    return provisioning.approved(server_home, request)


def test_a_kit_says_where_the_server_is_what_to_trust_and_until_when(server_home: ServerHome, path: Path) -> None:
    kit, document = read_kit(path)
    assert (kit.name, kit.number, kit.hosts, kit.port) == ("shop-1", 1, provisioning.HOSTS, 8443)
    assert kit.authority == server_home.authority.read_text()
    assert kit.fingerprint == server_fingerprint(server_home)
    assert kit.valid_from == NOW - 3600 and kit.valid_until == NOW + 365 * DAY
    assert kit.authority_ends == MADE + 3650 * DAY
    assert kit.roster[kit.keys.identity].key == kit.keys.identity_key
    assert document.to_bytes() == path.read_bytes()
    assert len(path.read_bytes()) < 4096


@pytest.mark.parametrize(
    "changes", [{"name": "shop-2"}, {"valid_until": 2**33}, {"hosts": ["evil.example.org"]}, {"roster": {}}, {"number": 9}]
)
def test_a_changed_kit_is_refused(path: Path, changes: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="as its author signed it, found another text"):
        read_kit(provisioning.altered(path, **changes))


def test_a_kit_that_another_key_signed_is_refused(path: Path) -> None:
    with pytest.raises(ConfigError, match="to be signed with the server's key that it names"):
        read_kit(provisioning.altered(path, Ed25519PrivateKey.generate()))


def test_only_the_certificate_of_an_authority_stands_in_a_kit(server_home: ServerHome, path: Path) -> None:
    authority, key = server_home.authority.read_text(), provisioning.server_key(server_home)
    other = server_home.certificate.read_text()
    for text in (other, authority + other, other + authority, f"\n{authority}", "", "x"):
        with pytest.raises(ConfigError, match="with the field authority"):
            read_kit(provisioning.altered(path, key, authority=text))


@pytest.mark.parametrize("changes", [{"version": 2}, {"hosts": []}, {"port": 0}, {"extra": 1}, {"number": 0}])
def test_a_kit_of_another_form_is_refused(server_home: ServerHome, path: Path, changes: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=r"Expected a kit in altered-shop-1\.kit with the field"):
        read_kit(provisioning.altered(path, provisioning.server_key(server_home), **changes))
