"""Fields: one spelling for each value, everything else refused, no value repeated."""

from __future__ import annotations

from typing import Annotated

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from shared.errors import ConfigError
from shared.provisioning.fields import (
    Fields,
    Host,
    Moment,
    Name,
    NodeKeys,
    Port,
    SupernodeKey,
    endpoint,
    is_address,
    read_fields,
    supernode_key_of,
    supernode_key_text,
    verify_host,
    verify_name,
)

KEY = ec.generate_private_key(ec.SECP384R1()).public_key()


class Example(Fields):
    name: Name
    host: Host
    port: Port
    made: Moment
    key: Annotated[SupernodeKey, "public"]


VALUES = {"name": "shop-1", "host": "fl.example.org", "port": 8443, "made": 0, "key": supernode_key_text(KEY)}


@pytest.mark.parametrize("name", ["a", "shop-17", "0", "a" * 63, "7--b"])
def test_a_name_of_letters_digits_and_hyphens_passes(name: str) -> None:
    assert verify_name(name) == name


@pytest.mark.parametrize(
    "name", ["", "-a", "a-", "a" * 64, "Shop", "a.b", "a/b", "..", "a b", "a\n", "é", "a_b", "shop-1.1"]
)
def test_what_is_no_name_of_a_file_and_a_node_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="Expected a node's name of lower-case letters, digits and hyphens") as caught:
        verify_name(name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("host", "form"),
    [
        ("FL.Example.org", "fl.example.org"), ("fl.example.org.", "fl.example.org"), ("localhost", "localhost"),
        ("192.0.2.7", "192.0.2.7"), ("2001:DB8:0::7", "2001:db8::7"), ("my_server", "my_server"),
    ],
)  # fmt: skip
def test_a_host_has_one_form(host: str, form: str) -> None:
    assert verify_host(host) == form


@pytest.mark.parametrize(
    "host",
    [
        *("", "fl.example.org:8443", "https://fl.example.org", "*.example.org", "a b", "a\nb", "1.2.3", "256.0.0.1"),
        *("fe80::1%eth0", "a..b", "-a", "bücher.example", "a" * 64, ".".join(["a" * 60] * 5), "x;y", '"'),
    ],
)
def test_what_is_no_host_is_refused(host: str) -> None:
    with pytest.raises(ConfigError, match="Expected --host to be a DNS name or an IP address"):
        verify_host(host)


def test_addresses_are_told_from_names_and_an_ipv6_endpoint_has_brackets() -> None:
    assert [is_address(host) for host in ("192.0.2.7", "2001:db8::7", "fl.example.org", "a1", "x9.y9")] == [
        *(True, True, False, False, False)
    ]
    assert endpoint("fl.example.org", 1) == "fl.example.org:1"
    assert endpoint("::1", 1) == "[::1]:1"


def test_a_key_has_one_spelling() -> None:
    """Otherwise a revoked key could come back as another text."""
    text = supernode_key_text(KEY)
    assert supernode_key_of(text) == KEY
    kind, content = text.split(" ")
    for other in (f"{text} a comment", f"{text}\n", f" {text}", f"{kind}  {content}", content, ""):
        with pytest.raises(ValueError, match=r"."):
            supernode_key_of(other)
    smaller = ec.generate_private_key(ec.SECP256R1()).public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    with pytest.raises(ValueError, match="no ECDSA key on P-384"):
        supernode_key_of(smaller.decode())


def test_fields_come_back_and_every_wrong_one_is_named_without_its_value() -> None:
    assert read_fields(Example, VALUES, what="an example", where="a.json").model_dump() == VALUES
    wrong = {
        "name": "SECRET", "host": "SECRET SECRET", "port": 0, "made": -1, "key": "SECRET",
    }  # fmt: skip
    for name, value in wrong.items():
        with pytest.raises(ConfigError, match=f"^Expected an example in a.json with the field {name} as") as caught:
            read_fields(Example, {**VALUES, name: value}, what="an example", where="a.json")
        assert "SECRET" not in str(caught.value)
    for value in ("8443", 8443.0, True, None, [8443]):  # no kind of value stands for another
        with pytest.raises(ConfigError, match="the field port"):
            read_fields(Example, {**VALUES, "port": value}, what="an example", where="a.json")
    # A field of somebody else's may have any name, which is not repeated.
    with pytest.raises(ConfigError, match="with the fields of this version") as caught:
        read_fields(Example, {**VALUES, "SECRET": 1}, what="an example", where="a.json")
    assert "SECRET" not in str(caught.value)
    with pytest.raises(ConfigError, match="with the field made"):
        read_fields(Example, {name: value for name, value in VALUES.items() if name != "made"}, what="an example", where="a")


def test_keys_in_common_are_named_and_keys_are_not_shown() -> None:
    keys = NodeKeys(identity="a" * 32, identity_key="b" * 64, supernode_key=supernode_key_text(KEY))
    other = ec.generate_private_key(ec.SECP384R1()).public_key()
    assert keys.overlap(keys) == {"identity", "identity_key", "supernode_key"}
    assert keys.overlap(keys.model_copy(update={"supernode_key": supernode_key_text(other)})) == {"identity", "identity_key"}
    assert keys.overlap(NodeKeys(identity="c" * 32, identity_key="d" * 64, supernode_key=supernode_key_text(other))) == set()
    assert "b" * 64 not in repr(keys) and "ecdsa" not in repr(keys)
