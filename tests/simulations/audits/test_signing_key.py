"""The key that signs audits."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from shared.errors import ConfigError
from shared.signing import fingerprint
from simulations.audits.signing_key import (
    KEY_FILE,
    PASSPHRASE_VARIABLE,
    opened_or_made,
    public_key_of,
    rotated,
)


@pytest.fixture(autouse=True)
def _without_passphrase(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(PASSPHRASE_VARIABLE, raising=False)


def _public(home: Path) -> bytes:
    return opened_or_made(home).public_key().public_bytes_raw()


def test_a_key_is_made_once_and_only_its_owner_can_read_it(tmp_path: Path) -> None:
    first = _public(tmp_path / "audit")
    assert _public(tmp_path / "audit") == first
    assert (tmp_path / "audit" / KEY_FILE).stat().st_mode & 0o777 == 0o600
    (tmp_path / "audit" / KEY_FILE).chmod(0o640)
    with pytest.raises(ConfigError, match="chmod 600"):
        opened_or_made(tmp_path / "audit")


def test_a_rotated_key_is_another_and_the_one_before_is_kept_under_its_fingerprint(tmp_path: Path) -> None:
    before = _public(tmp_path)
    after = rotated(tmp_path).public_key().public_bytes_raw()
    assert after != before and _public(tmp_path) == after
    assert (tmp_path / f"key-{fingerprint(before)}.pem").stat().st_mode & 0o777 == 0o600


def test_a_passphrase_encrypts_the_file_and_is_needed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PASSPHRASE_VARIABLE, "twelve horses")
    first = _public(tmp_path)
    assert b"ENCRYPTED" in (tmp_path / KEY_FILE).read_bytes() and _public(tmp_path) == first
    for other in ("another", ""):
        monkeypatch.setenv(PASSPHRASE_VARIABLE, other)
        with pytest.raises(ConfigError, match="Expected an audit key and its passphrase"):
            opened_or_made(tmp_path)


def test_a_damaged_key_and_one_of_another_kind_are_refused(tmp_path: Path) -> None:
    path = tmp_path / KEY_FILE
    path.touch(mode=0o600)
    with pytest.raises(ConfigError, match="could not open it"):
        opened_or_made(tmp_path)
    path.write_bytes(generate_private_key(65537, 2048).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    with pytest.raises(ConfigError, match="Expected an Ed25519 key"):
        opened_or_made(tmp_path)


def test_a_public_key_is_read_from_digits_or_from_a_file(tmp_path: Path) -> None:
    public = _public(tmp_path)
    (tmp_path / "public.txt").write_text(f"{public.hex()}\n")
    assert public_key_of(public.hex()) == public_key_of(str(tmp_path / "public.txt")) == public
    with pytest.raises(ConfigError, match="64 hexadecimal digits"):
        public_key_of("ab")
