"""The fingerprint: of both keys, compared whole."""

from __future__ import annotations

import hashlib
import ssl

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from server.home import ServerHome
from server.provisioning.authority import make_authority
from server.provisioning.members import server_fingerprint
from shared.errors import ConfigError
from shared.provisioning.fingerprint import fingerprint, verify_fingerprint
from tests import provisioning


def test_the_fingerprint_is_the_hash_of_certificate_and_key(server_home: ServerHome) -> None:
    certificate = ssl.PEM_cert_to_DER_cert(server_home.authority.read_text())
    key = provisioning.server_key(server_home).public_key().public_bytes_raw()
    expected = hashlib.sha256(b"tacit server\n" + certificate + key).hexdigest()
    assert server_fingerprint(server_home) == expected


def test_another_authority_or_another_key_has_another_fingerprint(server_home: ServerHome) -> None:
    authority, key = server_home.authority.read_text(), provisioning.server_key(server_home).public_key()
    own = fingerprint(authority, key.public_bytes_raw().hex())
    other = make_authority("fl.example.org", now=provisioning.MADE).certificate.public_bytes(Encoding.PEM).decode()
    assert fingerprint(authority, bytes(32).hex()) != own
    assert fingerprint(other, key.public_bytes_raw().hex()) != own


def test_a_fingerprint_is_compared_whole_and_may_be_spelled_in_groups() -> None:
    found = "0123456789abcdef" * 4
    pairs = [found[place : place + 2] for place in range(0, 64, 2)]
    for typed in (found, found.upper(), ":".join(pairs), " ".join(pairs), f" {found}\n"):
        verify_fingerprint(found, typed, where="kit")
    for place in range(64):
        typed = f"{found[:place]}{'0' if found[place] != '0' else '1'}{found[place + 1 :]}"
        with pytest.raises(ConfigError, match="Expected kit to come from the server with this fingerprint"):
            verify_fingerprint(found, typed, where="kit")
    for typed in ("", found[:63], f"{found}0", found[:16], "g" * 64):
        with pytest.raises(ConfigError, match="Expected --fingerprint to be the 64 hexadecimal digits"):
            verify_fingerprint(found, typed, where="kit")
