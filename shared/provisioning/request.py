"""What a node asks for: its name and its public keys, signed with its identity key.

The request shows that the node holds both secret keys: the document's own signature for the one, `possession` for the
other. It holds no secret. Who sent it, the operator has to find out otherwise.

What never lives here: who is approved (`server/provisioning/members.py`), secret keys on disk (`client/provisioning.py`).

Source:
    RFC 2986, section 3 (a request proves possession of the key), RFC 8032 (Ed25519), FIPS 186-5 (ECDSA).
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA384
from pydantic import Field

from shared.errors import ConfigError
from shared.provisioning.fields import Fields, Moment, Name, NodeKeys, read_fields, supernode_key_of, supernode_key_text
from shared.signing import Signed, read_signed, sign

KIND = "request"
_ECDSA = ec.ECDSA(SHA384())


class Request(Fields):
    """A request to take part.

    Attributes:
        version: Of this format.
        name: What the node wants to be called.
        keys: Its public keys.
        possession: Signature of name and identity key with the SuperNode's key, in hexadecimal digits.
        made: When.
    """

    version: Literal[1]
    name: Name
    keys: NodeKeys
    possession: str = Field(pattern=r"^(?:[0-9a-f]{2}){8,120}$", repr=False)
    made: Moment


def sign_request(
    name: str,
    identity: bytes,
    identity_key: Ed25519PrivateKey,
    supernode_key: ec.EllipticCurvePrivateKey,
    *,
    now: int,
) -> Signed:
    """Makes a request.

    Args:
        name: What the node wants to be called.
        identity: 16 bytes.
        identity_key: Signs the request. (private)
        supernode_key: Signs that it is this node's. (private)
        now: Seconds since 1970.
    """
    keys = NodeKeys(
        identity=identity.hex(),
        identity_key=identity_key.public_key().public_bytes_raw().hex(),
        supernode_key=supernode_key_text(supernode_key.public_key()),
    )
    possession = supernode_key.sign(_statement(name, keys), _ECDSA).hex()
    request = Request(version=1, name=name, keys=keys, possession=possession, made=now)
    return sign(KIND, request.model_dump(mode="json"), identity_key)


def read_request(path: Path) -> Request:
    """Reads a request, whose author shows to hold both keys.

    Raises:
        ConfigError: If the file is not a request, or one of the two signatures does not fit.
    """
    document = read_signed(path, KIND, signer=None)
    request = read_fields(Request, document.body, what="a request", where=path.name)
    try:
        if document.signer.hex() != request.keys.identity_key:
            raise InvalidSignature
        supernode_key_of(request.keys.supernode_key).verify(
            bytes.fromhex(request.possession), _statement(request.name, request.keys), _ECDSA
        )
    except InvalidSignature:
        raise ConfigError(
            f"Expected {path.name} to be signed with the keys that it names, found other signatures. Ask the node's owner "
            "for a new request."
        ) from None
    return request


def _statement(name: str, keys: NodeKeys) -> bytes:
    return f"tacit supernode key\n{name}\n{keys.identity}\n{keys.identity_key}\n".encode()
