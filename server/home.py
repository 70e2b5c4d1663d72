"""`ServerHome`: the folder of one server, and the name of everything in it.

    server.toml           what the operator set (host, ports)
    authority/            ca.crt, and ca.key, encrypted with the operator's passphrase
    tls/                  server.crt, server.key
    identity.json         the server's Ed25519 key: signs kits, run files and the list of revoked nodes (private)
    nodes/NAME.json       one approved node each
    roster.json           the identities of all approved nodes, which kits carry
    federation/           public facts: the catalog and the declared sizes
    superlink.sqlite      Flower's state
    runs/                 one folder a run, as a simulation writes it
    nginx.conf *.service compose.yaml    written by `tacit server init`, for the operator to install

What never lives here: what is in the files.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ServerHome:
    """The folder of a server.

    Attributes:
        path: The folder; it need not exist.
    """

    path: Path

    @property
    def settings(self) -> Path:
        """What the operator set."""
        return self.path / "server.toml"

    @property
    def authority(self) -> Path:
        """Certificate and encrypted key of the authority."""
        return self.path / "authority"

    @property
    def tls(self) -> Path:
        """Certificate and key that the server shows."""
        return self.path / "tls"

    @property
    def identity(self) -> Path:
        """The Ed25519 key of the server, mode 0600. (private)"""
        return self.path / "identity.json"

    @property
    def nodes(self) -> Path:
        """One file for each approved node."""
        return self.path / "nodes"

    @property
    def roster(self) -> Path:
        """The identities of all approved nodes."""
        return self.path / "roster.json"

    @property
    def federation(self) -> Path:
        """The catalog and the declared sizes."""
        return self.path / "federation"

    @property
    def superlink_database(self) -> Path:
        """Flower's state."""
        return self.path / "superlink.sqlite"

    @property
    def runs(self) -> Path:
        """One folder a run."""
        return self.path / "runs"
