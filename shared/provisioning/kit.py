"""The kit: what a server's operator signs for one node, in one small file without a secret.

It says where the server is, whose TLS certificate to believe, which keys the node was approved with and until when, and who
else takes part.

What never lives here: who is approved (`server/provisioning/members.py`), what a node writes (`client/provisioning.py`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from pydantic import AfterValidator, Field

from shared.errors import ConfigError
from shared.provisioning.fields import Ed25519Key, Fields, Host, Moment, Name, NodeKeys, Port, read_fields
from shared.provisioning.fingerprint import fingerprint
from shared.provisioning.rosters import RosterLines
from shared.signing import Signed, read_signed

KIND = "kit"


def _authority(pem: str) -> str:
    """One certificate of an authority, as this library writes it: nothing else stands in the text that OpenSSL will read."""
    try:
        certificate = x509.load_pem_x509_certificate(pem.encode())
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    except (x509.ExtensionNotFound, x509.DuplicateExtension, x509.InvalidVersion):
        raise ValueError("no authority") from None
    if not constraints.ca or certificate.public_bytes(Encoding.PEM).decode() != pem:
        raise ValueError("no authority")
    return pem


class Kit(Fields):
    """A kit.

    Attributes:
        version: Of this format.
        name: Of the node.
        number: 1 for the first kit of these keys, then upwards: a newer one takes the place of an older one.
        hosts: Where the server is; the first is the one to use.
        port: Its public port.
        authority: The authority's certificate, PEM.
        server_key: What the server signs kits, rosters and run files with.
        keys: The node's public keys.
        valid_from: First second.
        valid_until: Last second.
        roster: Who takes part, as of when the kit was made.
    """

    version: Literal[1]
    name: Name
    number: int = Field(ge=1, le=1_000_000)
    hosts: tuple[Host, ...] = Field(min_length=1, max_length=32)
    port: Port
    authority: Annotated[str, AfterValidator(_authority)] = Field(repr=False)
    server_key: Ed25519Key
    keys: NodeKeys
    valid_from: Moment
    valid_until: Moment
    roster: RosterLines = Field(repr=False)

    @property
    def fingerprint(self) -> str:
        """Of the server."""
        return fingerprint(self.authority, self.server_key)

    @property
    def authority_ends(self) -> int:
        """Last second of the authority's certificate."""
        return int(x509.load_pem_x509_certificate(self.authority.encode()).not_valid_after_utc.timestamp())


def read_kit(path: Path) -> tuple[Kit, Signed]:
    """Reads a kit that is intact; whose it is, its fingerprint says.

    Raises:
        ConfigError: If the file is not a kit, or not signed with the key that it names.
    """
    document = read_signed(path, KIND, signer=None)
    kit = read_fields(Kit, document.body, what="a kit", where=path.name)
    if document.signer.hex() != kit.server_key:
        raise ConfigError(
            f"Expected {path.name} to be signed with the server's key that it names, found another signer. Ask the server's "
            "operator for the kit again."
        )
    return kit, document
