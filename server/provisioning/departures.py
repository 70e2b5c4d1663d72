"""Nodes that have left, with their signed statements of what they contributed.

A statement is kept as it was signed, beside the records of the nodes. What never lives here: revoking the node, which the
command does that takes a statement in (`members.py`).
"""

from __future__ import annotations

from pathlib import Path

from server.home import ServerHome
from server.provisioning.members import members
from shared.errors import ConfigError
from shared.provisioning.fields import read_fields
from shared.provisioning.leaving import KIND, Statement
from shared.signing import read_signed


def take(home: ServerHome, path: Path) -> Statement:
    """Keeps a node's statement.

    Args:
        home: The server's folder.
        path: The file that the node's owner sent.

    Raises:
        ConfigError: If it is damaged, or not signed by the node that it names; nothing is kept then.
    """
    document = read_signed(path, KIND, signer=None)
    statement = read_fields(Statement, document.body, what=KIND, where=path.name)
    keys = [one.keys.identity_key for one in members(home) if one.name == statement.node]
    if document.signer.hex() not in keys:
        raise ConfigError(
            f"Expected {path.name} to be signed by the node that it names, found another signer or no such node. "
            "`tacit server nodes` lists all nodes."
        )
    home.departures.mkdir(mode=0o700, parents=True, exist_ok=True)
    document.write(home.departures / f"{statement.node}.json")
    return statement


def departures(home: ServerHome) -> list[Statement]:
    """The statements of all nodes that have left, by name.

    Raises:
        ConfigError: If a file is damaged.
    """
    paths = sorted(home.departures.glob("*.json")) if home.departures.is_dir() else []
    documents = [(path, read_signed(path, KIND, signer=None)) for path in paths]
    return [read_fields(Statement, document.body, what=KIND, where=path.name) for path, document in documents]
