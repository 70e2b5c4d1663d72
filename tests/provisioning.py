"""Servers and nodes for tests: made by the functions that the commands call, at any time of the clock.

What lives here: arranging, and a picture of a folder. What never does: an assertion.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from client import provisioning
from client.home import NodeHome
from server.home import ServerHome
from server.provisioning import members
from server.provisioning.new_server import make_server, verify_settings
from shared.provisioning.kit import Kit
from shared.provisioning.request import read_request
from shared.provisioning.validity import DAY
from shared.secagg.identities import read_key
from shared.signing import Signed, read_signed, sign

# Commands ask the machine for the time, and so does OpenSSL.
NOW = int(time.time())
MADE = NOW - 100 * DAY
PASSPHRASE = "correct horse battery"
HOSTS = ("fl.example.org", "192.0.2.7", "2001:db8::7")


def new_server(folder: Path, *, now: int = MADE) -> ServerHome:
    """A server whose certificate holds for a year; takes a third of a second."""
    return make_server(folder, verify_settings(HOSTS, 8443, 9091), days=365, passphrase=PASSPHRASE, now=now)


def new_node(folder: Path, name: str, *, now: int = NOW) -> tuple[NodeHome, Path]:
    """A node with keys, and its request."""
    home, out = NodeHome(folder / name), folder / f"{name}.request"
    folder.mkdir(exist_ok=True)
    provisioning.request(home, name, out, now=now)
    return home, out


def approved(server: ServerHome, request: Path, *, days: int = 365, now: int = NOW) -> Path:
    """The kit of a request."""
    out = request.with_suffix(".kit")
    members.approve(server, read_request(request), out, days=days, now=now)
    return out


def renewed(server: ServerHome, name: str, out: Path, *, days: int = 365, now: int = NOW) -> Path:
    """A newer kit."""
    members.renew(server, name, out, days=days, now=now)
    return out


def joined(server: ServerHome, folder: Path, name: str, *, days: int = 365, now: int = NOW) -> tuple[NodeHome, Kit]:
    """A node whose kit is installed."""
    home, request = new_node(folder, name, now=now)
    kit = approved(server, request, days=days, now=now)
    return home, provisioning.install(home, kit, members.server_fingerprint(server), now=now)


def altered(path: Path, key: Ed25519PrivateKey | None = None, **changes: Any) -> Path:
    """A signed document with other values: with its old signature, or signed again with a key."""
    kind = str(_kind(path))
    found = read_signed(path, kind, signer=None)
    body: Mapping[str, Any] = {**found.body, **changes}
    document = Signed(kind, body, found.signer, found.signature) if key is None else sign(kind, body, key)
    out = path.with_name(f"altered-{path.name}")
    document.write(out)
    return out


def server_key(server: ServerHome) -> Ed25519PrivateKey:
    """What a server signs with."""
    return read_key(server.identity)[1]


def snapshot(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Mode and content of everything in a folder."""
    return {
        path.relative_to(folder).as_posix(): (path.stat().st_mode, path.read_bytes() if path.is_file() else b"")
        for path in folder.rglob("*")
    }


def _kind(path: Path) -> Any:
    import json

    return json.loads(path.read_bytes())["kind"]
