"""Fields of signed documents and records: names, hosts, keys and moments, checked strictly, in one form each.

One form each, so that two texts never stand for one key: a node that was revoked cannot come back with its key spelled
otherwise.

What never lives here: a document (`request.py`, `kit.py`, `rosters.py`), a secret key.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import re
from collections.abc import Mapping
from typing import Annotated, Any, Final, TypeVar

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_ssh_public_key
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from shared.errors import ConfigError

_NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_RENEW: Final = "Update Tacit on both sides, and ask for the file again."
_END_OF_TIME: Final = 253_402_300_799  # the last second of the year 9999: what a calendar can show


class Fields(BaseModel):
    """Values that belong together; frozen, strict, and no other key is taken."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


_Model = TypeVar("_Model", bound=Fields)


def verify_name(name: str) -> str:
    """The name of a node: lower-case letters, digits and hyphens, at most 63, as a label in DNS. It names a file too.

    Raises:
        ConfigError: If it is not valid.
    """
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"Expected a node's name of lower-case letters, digits and hyphens, at most 63, got {_shown(name)}. Choose "
            "another, e.g. shop-17."
        )
    return name


def verify_host(host: str) -> str:
    """A DNS name in lower case, or an IP address in its usual form.

    Raises:
        ConfigError: If it is not valid.
    """
    if "%" not in host:  # the name of a network interface, which means something on one machine alone
        with contextlib.suppress(ValueError):
            return str(ipaddress.ip_address(host))
    labels = host.lower().removesuffix(".").split(".")
    # A last label of digits alone would be read as an address.
    if len(host) > 253 or not all(_LABEL.fullmatch(label) for label in labels) or labels[-1].isdigit():
        raise ConfigError(
            f"Expected --host to be a DNS name or an IP address, got {_shown(host)}. Name a host as nodes reach it, e.g. "
            "fl.example.org, without a port."
        )
    return ".".join(labels)


def is_address(host: str) -> bool:
    """Whether a verified host is an IP address."""
    return ":" in host or host.rsplit(".", 1)[-1].isdigit()


def endpoint(host: str, port: int) -> str:
    """Host and port in one text; an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def supernode_key_text(key: ec.EllipticCurvePublicKey) -> str:
    """The public key of a SuperNode as OpenSSH writes it, without a comment."""
    return key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


def supernode_key_of(text: str) -> ec.EllipticCurvePublicKey:
    """The key of such a text.

    Raises:
        ValueError: If it is no ECDSA key on P-384, or another spelling of one.
    """
    try:
        key = load_ssh_public_key(text.encode())
    except UnsupportedAlgorithm:
        raise ValueError("no key that is supported") from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        raise ValueError("no ECDSA key on P-384")
    if supernode_key_text(key) != text:
        raise ValueError("another spelling of a key")
    return key


def _as_one_form(check: Any) -> AfterValidator:
    def checked(text: str) -> str:
        try:
            if check(text) != text:
                raise ValueError("another spelling")
        except ConfigError as error:
            raise ValueError(str(error)) from None
        return text

    return AfterValidator(checked)


Name = Annotated[str, _as_one_form(verify_name)]
Host = Annotated[str, _as_one_form(verify_host)]
Port = Annotated[int, Field(ge=1, le=65_535)]
Moment = Annotated[int, Field(ge=0, le=_END_OF_TIME)]
"""Seconds since 1970."""
Identity = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
"""16 bytes, in hexadecimal digits: who a node is in a roster."""
Ed25519Key = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
"""A public key, 32 bytes."""
SupernodeKey = Annotated[str, _as_one_form(lambda text: supernode_key_text(supernode_key_of(text)))]
"""A public ECDSA key on P-384, in OpenSSH's form, without a comment."""


class NodeKeys(Fields):
    """The public keys of a node.

    Attributes:
        identity: Who it is in rosters.
        identity_key: What it signs with: requests, refusals, keys of secure sums.
        supernode_key: What Flower's SuperNode authenticates with.
    """

    identity: Identity
    identity_key: Ed25519Key = Field(repr=False)
    supernode_key: SupernodeKey = Field(repr=False)

    def overlap(self, other: NodeKeys) -> set[str]:
        """The names of the fields that two nodes have in common."""
        return {name for name in type(self).model_fields if getattr(self, name) == getattr(other, name)}


def read_fields(model: type[_Model], found: Mapping[str, Any], *, what: str, where: str, remedy: str = _RENEW) -> _Model:
    """The fields of a document or record.

    Args:
        model: Which fields there have to be.
        found: JSON values from outside.
        what: What it is, for errors.
        where: The file's name, for errors.
        remedy: What to do about another file, for errors.

    Raises:
        ConfigError: If they are others. The message names the first wrong field of ours, and no value.
    """
    try:
        return model.model_validate_json(json.dumps(found, default=str))
    except ValidationError as error:
        names = [str(one["loc"][0]) for one in error.errors(include_input=False, include_url=False) if one["loc"]]
        known = [name for name in names if name in model.model_fields]
        fault = f"the field {known[0]}" if known else "the fields of this version"
        raise ConfigError(
            f"Expected {what} in {where} with {fault} as this version of Tacit writes it, found something else. {remedy}"
        ) from None


def _shown(text: str) -> str:
    """What was typed, as far as it can stand in one line."""
    return repr(text[:80]) if text else "nothing"
