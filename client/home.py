"""`NodeHome`: the folder of one node, and the name of everything in it.

    node.toml             what the owner set (name, server, data, retention)
    policy.toml           what the owner allows
    kit.json              what the server's operator signed for this node: name, address, keys, certificates
    ca.crt roster.json    of the kit: whose certificate the server must show, who takes part in secure sums
    keys/                 made here, never leaving: supernode (TLS-free node authentication), identity.json (Ed25519),
                          data.key (of encrypted interactions), serve.token (of the endpoint for applications)
    interactions.sqlite   the interactions (private)
    ledger.sqlite         the privacy ledger (private)
    runs/DIGEST.json      run files that a server proposed; approved/DIGEST.json those that the owner approved
    catalogs/             public catalogs by digest
    released/             released recommenders, the newest accepted one in `current`
    left.json             the signed statement of a node that has left
    decisions.jsonl       what the guard let out or refused, hash-chained
    serve.sock            the endpoint for applications of this machine
    running/              held by the process that runs; its secret towards SuperNode
    node.log supernode.log    of the running processes

What never lives here: what is in the files.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class NodeHome:
    """The folder of a node.

    Attributes:
        path: The folder; it need not exist.
    """

    path: Path

    @property
    def statement(self) -> Path:
        """The signed statement of a node that has left."""
        return self.path / "left.json"

    @property
    def settings(self) -> Path:
        """What the owner set."""
        return self.path / "node.toml"

    @property
    def policy(self) -> Path:
        """What the owner allows."""
        return self.path / "policy.toml"

    @property
    def kit(self) -> Path:
        """The signed kit, once it is installed."""
        return self.path / "kit.json"

    @property
    def authority(self) -> Path:
        """The certificate of the authority that signed the server's."""
        return self.path / "ca.crt"

    @property
    def roster(self) -> Path:
        """The identities that this node knows."""
        return self.path / "roster.json"

    @property
    def keys(self) -> Path:
        """The folder of secret keys, mode 0700."""
        return self.path / "keys"

    @property
    def supernode_key(self) -> Path:
        """The key that Flower's SuperNode authenticates with: ECDSA, OpenSSH format, mode 0600. (private)"""
        return self.keys / "supernode"

    @property
    def identity(self) -> Path:
        """The Ed25519 key of this node, as `shared/secagg/identities.py` writes it, mode 0600. (private)"""
        return self.keys / "identity.json"

    @property
    def data_key(self) -> Path:
        """What encrypted interactions are encrypted with, mode 0600. (private)"""
        return self.keys / "data.key"

    @property
    def serving_token(self) -> Path:
        """What an application shows the endpoint on loopback, mode 0600. (private)"""
        return self.keys / "serve.token"

    @property
    def serving_socket(self) -> Path:
        """The Unix socket of the endpoint for applications, mode 0600."""
        return self.path / "serve.sock"

    @property
    def interactions(self) -> Path:
        """The database of interactions. (private)"""
        return self.path / "interactions.sqlite"

    @property
    def ledger(self) -> Path:
        """The privacy ledger. (private)"""
        return self.path / "ledger.sqlite"

    @property
    def proposals(self) -> Path:
        """Run files that a server proposed."""
        return self.path / "runs"

    @property
    def approved(self) -> Path:
        """Run files that the owner approved."""
        return self.path / "approved"

    @property
    def catalogs(self) -> Path:
        """Public catalogs by digest."""
        return self.path / "catalogs"

    @property
    def released(self) -> Path:
        """Released recommenders."""
        return self.path / "released"

    @property
    def decisions(self) -> Path:
        """What the guard decided, hash-chained."""
        return self.path / "decisions.jsonl"

    @property
    def running(self) -> Path:
        """Held by the process that runs."""
        return self.path / "running"
