"""`ServerHome`: the folder of one server, and the name of everything in it.

    server.toml           what the operator set (host, ports)
    authority/            ca.crt, and ca.key, encrypted with the operator's passphrase
    tls/                  server.crt, server.key
    identity.json         the server's Ed25519 key: signs kits, rosters and run files (private)
    superexec.secret      what Flower's SuperExec and SuperLink share (private)
    nodes/NAME.json       one approved node each; NAME.1.json is an earlier one of that name, revoked
    departures/NAME.json  the signed statement of a node that has left
    roster.json           the identities of all approved nodes, which kits carry
    federation/           public facts: the catalog and the declared sizes
    superlink.sqlite      Flower's state
    flwr/                 Flower's configuration and bundles; registered.json: its numbers of the nodes
    running/              held by the process that runs
    runs/                 one folder a run, as a simulation writes it
    nginx.conf *.service compose.yaml    written by `tacit server init`, for the operator to install

What never lives here: what is in the files.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

# The environment variable that names a server's folder, for commands and for the processes that Flower starts.
HOME_VARIABLE: Final = "TACIT_SERVER_HOME"
# The one that names the process of `tacit server start`, for the processes that Flower starts.
PROCESS_VARIABLE: Final = "TACIT_SERVER_PROCESS"


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
        """The certificate of the authority: what nodes trust."""
        return self.path / "authority" / "ca.crt"

    @property
    def authority_key(self) -> Path:
        """Its key, encrypted with the operator's passphrase, mode 0600. (private)"""
        return self.path / "authority" / "ca.key"

    @property
    def certificate(self) -> Path:
        """The certificate that the server shows."""
        return self.path / "tls" / "server.crt"

    @property
    def certificate_key(self) -> Path:
        """Its key, mode 0600. (private)"""
        return self.path / "tls" / "server.key"

    @property
    def identity(self) -> Path:
        """The Ed25519 key of the server, mode 0600. (private)"""
        return self.path / "identity.json"

    @property
    def superexec_secret(self) -> Path:
        """What Flower's SuperExec and SuperLink share, mode 0600. (private)"""
        return self.path / "superexec.secret"

    @property
    def nodes(self) -> Path:
        """One file for each approved node."""
        return self.path / "nodes"

    @property
    def departures(self) -> Path:
        """Signed statements of nodes that have left."""
        return self.path / "departures"

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

    @property
    def flower(self) -> Path:
        """Flower's configuration and bundles."""
        return self.path / "flwr"

    @property
    def registered(self) -> Path:
        """Flower's number of each node."""
        return self.path / "registered.json"

    @property
    def running(self) -> Path:
        """Held by the process that runs."""
        return self.path / "running"
