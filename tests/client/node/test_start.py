"""A node's start: what its owner is told. The processes themselves: `tests/system/test_deployment.py`."""

from __future__ import annotations

from pathlib import Path

from client import provisioning as node
from client.node.start import why_not_connected
from server.home import ServerHome
from server.provisioning import members
from tests import provisioning
from tests.provisioning import NOW


def test_a_node_that_is_not_let_in_says_why_if_it_knows_and_else_where_to_look(
    server_home: ServerHome, tmp_path: Path
) -> None:
    home, _ = provisioning.joined(server_home, tmp_path / "nodes", "shop-1")
    assert why_not_connected(home).startswith(
        "The server is away, or does not know this node's keys: `tacit node preflight`"
    )
    members.revoke(server_home, "shop-1", now=NOW)
    node.accept_roster(home, members.signed_roster(server_home).to_bytes())
    assert why_not_connected(home).startswith("Expected keys that count, found this node's revoked in its roster.")
    home.kit.unlink()
    assert why_not_connected(home).startswith("Expected a kit in this node's folder, found none.")
