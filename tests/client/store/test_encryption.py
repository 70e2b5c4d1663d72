"""Rows in clear and encrypted: what they say comes back, and without the secret nothing but equality is seen."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.store.encryption import KEY_BYTES, Clear, Encrypted, read_key, write_key
from shared.errors import ConfigError, StoreUnavailable

SECRET = bytes(range(KEY_BYTES))
SEALED = Encrypted(SECRET)
CHANGED = "Expected encrypted rows as they were written, found one that was changed"


@given(st.binary(max_size=100), st.binary(max_size=60))
def test_what_a_row_says_comes_back(said: bytes, of: bytes) -> None:
    for sealing in (Clear(), SEALED):
        assert sealing.open(sealing.seal(said, of), of) == said


@given(st.binary(min_size=6, max_size=30), st.binary(min_size=1, max_size=20))
def test_without_the_secret_equal_rows_of_one_user_are_equal_and_nothing_else_is_seen(said: bytes, of: bytes) -> None:
    sealed = SEALED.seal(said, of)
    assert sealed == SEALED.seal(said, of)
    assert said not in sealed
    others = [SEALED.seal(said, of + b"x"), SEALED.seal(said + b"x", of), Encrypted(SECRET[::-1]).seal(said, of)]
    assert len({sealed, *others}) == 4
    assert len({len(one) for one in (sealed, SEALED.seal(b"", of), SEALED.seal(bytes(31), of))}) == 1


def test_a_row_that_was_changed_cut_or_put_to_another_user_is_refused() -> None:
    sealed = SEALED.seal(b"an interaction", b"a user")
    changed = bytes((sealed[0] ^ 1,)) + sealed[1:]
    for row, of in ((changed, b"a user"), (sealed[:-1], b"a user"), (b"", b"a user"), (sealed, b"another")):
        with pytest.raises(StoreUnavailable, match=CHANGED):
            SEALED.open(row, of)
    with pytest.raises(StoreUnavailable, match=CHANGED):
        Encrypted(SECRET[::-1]).open(sealed, b"a user")


def test_a_check_tells_secrets_apart() -> None:
    assert SEALED.check == Encrypted(SECRET).check != Encrypted(SECRET[::-1]).check
    with pytest.raises(ConfigError, match=f"Expected a key of {KEY_BYTES} bytes, got 3"):
        Encrypted(b"abc")


def test_a_key_is_drawn_once_and_is_for_its_owner_alone(tmp_path: Path) -> None:
    path, other = tmp_path / "keys" / "data.key", tmp_path / "other.key"
    write_key(path)
    secret = read_key(path)
    write_key(path)  # never over one that is there
    write_key(other)
    assert read_key(path) == secret != read_key(other)
    assert (len(secret), stat.S_IMODE(path.stat().st_mode), stat.S_IMODE(path.parent.stat().st_mode)) == (64, 0o600, 0o700)
    assert [file.name for file in path.parent.iterdir()] == ["data.key"]


@pytest.mark.parametrize("content", [b"", b"\xff", b"zz" * KEY_BYTES, b"ab" * 16, b"ab" * (KEY_BYTES + 1)])
def test_a_key_of_another_form_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "data.key"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(ConfigError, match=r"^Expected 128 hex digits in data\.key, got something else\. Put it back"):
        read_key(path)


def test_a_key_that_others_can_read_and_a_missing_one_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "data.key"
    with pytest.raises(ConfigError, match=r"found none that can be read\. Put it back from a copy"):
        read_key(path)
    write_key(path)
    path.chmod(0o640)
    with pytest.raises(ConfigError, match=r"^Expected data\.key to be readable for its owner alone, got mode=640"):
        read_key(path)
