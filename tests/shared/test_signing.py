"""Signed documents: what one changed byte, another kind and another signer come to."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import example, given
from hypothesis import strategies as st

from shared.errors import ConfigError
from shared.signing import canonical, read_signed, sign, verified

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
SIGNER = KEY.public_key().public_bytes_raw()
BODY = {"name": "shop-1", "epsilon": 8.0, "delta": 1e-5, "rounds": 0, "parts": ["a", "b"], "open": True}


def test_canonical_form_is_that_of_the_standard() -> None:
    # The example of RFC 8785, section 3.2.2, with its result in section 3.2.3.
    value = {
        "numbers": [333333333.33333329, 1e30, 4.50, 2e-3, 0.000000000000000000000000001],
        "string": "\u20ac$\u000f\u000aA'\u0042\u0022\u005c\\\"\u002f",
        "literals": [None, True, False],
    }
    expected = (
        '{"literals":[null,true,false],"numbers":[333333333.3333333,1e+30,4.5,0.002,1e-27],'
        '"string":"\u20ac$\\u000f\\nA\'B\\"\\\\\\\\\\"/"}'
    )
    assert canonical(value) == expected.encode()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 2**60, "\ud800", {1: 2}])
def test_what_is_no_json_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match=r"."):
        canonical(value)


def test_a_document_comes_back_as_it_was_signed(tmp_path: Path) -> None:
    document = sign("kit", BODY, KEY)
    document.write(tmp_path / "kit.json", mode=0o600)
    found = read_signed(tmp_path / "kit.json", "kit", signer=SIGNER)
    assert dict(found.body) == BODY
    assert found.digest == document.digest
    assert (tmp_path / "kit.json").stat().st_mode & 0o777 == 0o600
    assert read_signed(tmp_path / "kit.json", "kit", signer=None).signer == SIGNER


@given(st.data())
def test_no_changed_byte_is_accepted(data: st.DataObject) -> None:
    content = bytearray(sign("kit", BODY, KEY).to_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] ^= data.draw(st.integers(1, 255))
    with pytest.raises(ConfigError, match=r"^Expected "):
        verified(bytes(content), "kit", signer=SIGNER, where="kit.json")


@given(st.binary(max_size=300))
def test_what_is_no_document_is_one_clear_line(content: bytes) -> None:
    with pytest.raises(ConfigError, match=r"^Expected a signed document in kit.json"):
        verified(content, "kit", signer=None, where="kit.json")


def test_the_same_content_in_another_form_is_refused() -> None:
    content = sign("kit", BODY, KEY).to_bytes()
    for other in (json.dumps(json.loads(content)).encode(), content + b"\n", content.upper()):
        with pytest.raises(ConfigError, match=r"^Expected "):
            verified(other, "kit", signer=None, where="kit.json")


def test_a_signature_counts_for_its_kind_and_its_signer() -> None:
    content = sign("kit", BODY, KEY).to_bytes()
    with pytest.raises(ConfigError, match="of another kind"):
        verified(content, "run", signer=SIGNER, where="kit.json")
    relabelled = canonical({**json.loads(content), "kind": "run"})
    with pytest.raises(ConfigError, match="another text"):
        verified(relabelled, "run", signer=SIGNER, where="kit.json")
    with pytest.raises(ConfigError, match="another signer"):
        verified(content, "kit", signer=bytes(32), where="kit.json")
    assert sign("run", BODY, KEY).digest != sign("kit", BODY, KEY).digest


def test_files_that_are_absent_or_too_long_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="could not read it"):
        read_signed(tmp_path / "kit.json", "kit", signer=None)
    (tmp_path / "kit.json").write_bytes(b"x" * 4_000_001)
    with pytest.raises(ConfigError, match="Expected at most"):
        read_signed(tmp_path / "kit.json", "kit", signer=None)


@given(st.floats(allow_nan=False, allow_infinity=False))
@example(98615022211438670.0)  # a factor of e^39: in canonical form it has no point
@example(2.0**53)
def test_every_number_comes_back_from_a_document(number: float) -> None:
    content = sign("kit", {"factor": number}, KEY).to_bytes()
    assert verified(content, "kit", signer=SIGNER, where="kit.json").body == {"factor": number}


def test_a_number_that_no_float_is_equal_to_is_refused() -> None:
    content = sign("kit", {"factor": 2.0**53}, KEY).to_bytes()
    for digits in (b"9007199254740993", b"9" * 400):
        with pytest.raises(ConfigError, match=r"^Expected "):
            verified(content.replace(b"9007199254740992", digits), "kit", signer=None, where="kit.json")
