"""Requests: who makes one holds both keys; nothing in it is secret; nothing in it can be changed."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_ssh_public_key

from shared.errors import ConfigError
from shared.provisioning.request import read_request, sign_request
from tests import provisioning

IDENTITY, NOW = bytes(range(16)), provisioning.NOW
KEY, SUPERNODE_KEY = Ed25519PrivateKey.generate(), ec.generate_private_key(ec.SECP384R1())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    sign_request("shop-1", IDENTITY, KEY, SUPERNODE_KEY, now=NOW).write(tmp_path / "request")
    return tmp_path / "request"


def test_a_request_comes_back_with_its_public_keys(path: Path) -> None:
    request = read_request(path)
    assert (request.name, request.made) == ("shop-1", NOW)
    assert request.keys.identity == IDENTITY.hex()
    assert bytes.fromhex(request.keys.identity_key) == KEY.public_key().public_bytes_raw()
    # As Flower reads the key of a node that is registered.
    assert load_ssh_public_key(request.keys.supernode_key.encode()) == SUPERNODE_KEY.public_key()


def test_a_request_holds_no_secret_key(path: Path) -> None:
    content = path.read_bytes().lower()
    scalar = SUPERNODE_KEY.private_numbers().private_value
    assert KEY.private_bytes_raw().hex().encode() not in content
    assert f"{scalar:x}".encode() not in content and b"private" not in content


@pytest.mark.parametrize("changes", [{"name": "shop-2"}, {"made": 0}, {"possession": "00" * 100}])
def test_a_changed_request_is_refused(path: Path, changes: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="as its author signed it, found another text"):
        read_request(provisioning.altered(path, **changes))


def test_a_request_with_a_key_of_somebody_else_is_refused(path: Path) -> None:
    """Whoever saw a public key could otherwise ask for it first."""
    request = read_request(path)
    thief, thiefs = Ed25519PrivateKey.generate(), ec.generate_private_key(ec.SECP384R1())
    keys = {**request.keys.model_dump(), "identity_key": thief.public_key().public_bytes_raw().hex()}
    other = sign_request("shop-1", IDENTITY, thief, thiefs, now=NOW)
    for changes in (
        {"keys": keys},  # the owner's SuperNode key, with the owner's proof
        {"keys": keys, "possession": other.body["possession"]},  # and with the proof of another key
        {"name": "shop-2"},  # a proof for another name
        {"keys": request.keys.model_dump()},  # the owner's identity key, signed by another
    ):
        with pytest.raises(ConfigError, match="to be signed with the keys that it names"):
            read_request(provisioning.altered(path, thief, **changes))


@pytest.mark.parametrize("changes", [{"version": 2}, {"name": "../x"}, {"extra": 1}, {"possession": "zz"}, {"keys": {}}])
def test_a_request_of_another_form_is_refused(path: Path, changes: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="Expected a request in altered-request with the field"):
        read_request(provisioning.altered(path, KEY, **changes))
