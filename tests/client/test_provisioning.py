"""A node's side: keys that stay, kits that count, and refusals that change nothing."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_ssh_private_key,
)

from client import provisioning as node
from client.home import NodeHome
from server.home import ServerHome
from server.provisioning import members
from server.provisioning.members import server_fingerprint
from shared.errors import ConfigError
from shared.provisioning.kit import read_kit
from shared.provisioning.request import read_request
from shared.secagg.identities import read_credentials, read_key, read_roster
from tests import provisioning
from tests.provisioning import DAY, NOW


@pytest.fixture
def nodes(tmp_path: Path) -> Path:
    return tmp_path / "nodes"


def _refused(nodes: Path, message: str, action: Callable[[], object]) -> None:
    before = provisioning.snapshot(nodes)
    with pytest.raises(ConfigError, match=message) as caught:
        action()
    assert provisioning.snapshot(nodes) == before
    assert "ecdsa" not in str(caught.value) and "-----" not in str(caught.value)


def _install(home: NodeHome, kit: Path, server: ServerHome, *, now: int = NOW) -> None:
    node.install(home, kit, server_fingerprint(server), now=now)


def test_keys_are_made_on_the_node_for_its_owner_alone(nodes: Path) -> None:
    home, request = provisioning.new_node(nodes, "shop-1")
    found = provisioning.snapshot(nodes / "shop-1")
    assert {name: mode & 0o777 for name, (mode, _) in found.items()} == {
        "keys": 0o700, "keys/identity.json": 0o600, "keys/supernode": 0o600,
    }  # fmt: skip
    assert home.path.stat().st_mode & 0o777 == 0o700
    # As Flower's SuperNode loads it (flwr.supernode.cli: `load_ssh_private_key(content, None)`, an EC key).
    key = load_ssh_private_key(home.supernode_key.read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.name == "secp384r1"
    assert home.supernode_key.read_bytes().startswith(b"-----BEGIN OPENSSH PRIVATE KEY-----")
    asked = read_request(request)
    assert asked.keys.identity == read_key(home.identity)[0].hex()
    assert [path.name for path in sorted(nodes.iterdir())] == ["shop-1", "shop-1.request"]


def test_keys_that_are_there_are_used_again(nodes: Path) -> None:
    home, request = provisioning.new_node(nodes, "shop-1")
    before = provisioning.snapshot(home.path)
    assert not node.request(home, "shop-2", nodes / "again", now=NOW)
    assert read_request(nodes / "again").keys == read_request(request).keys
    assert provisioning.snapshot(home.path) == before


def test_a_request_that_cannot_be_made_changes_nothing(nodes: Path) -> None:
    home, request = provisioning.new_node(nodes, "shop-1")
    fresh, out = NodeHome(nodes / "fresh"), nodes / "out"
    for name in ("", "A", "../x"):
        _refused(nodes, "Expected a node's name of", lambda name=name: node.request(fresh, name, out, now=NOW))
    _refused(nodes, "Expected a new file at --out", lambda: node.request(fresh, "shop-2", request, now=NOW))
    _refused(nodes, "no folder none", lambda: node.request(fresh, "shop-2", nodes / "none" / "r", now=NOW))
    home.supernode_key.chmod(0o644)
    _refused(nodes, "Expected supernode to be readable for its owner", lambda: node.request(home, "a", out, now=NOW))
    home.supernode_key.chmod(0o600)
    home.identity.chmod(0o604)
    _refused(nodes, r"Expected identity\.json to be readable for its", lambda: node.request(home, "a", out, now=NOW))
    home.identity.chmod(0o600)
    smaller = ec.generate_private_key(ec.SECP256R1())
    for content in (b"", b"x", smaller.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())):
        home.supernode_key.write_bytes(content)
        _refused(nodes, "Expected an ECDSA key on P-384 in supernode", lambda: node.request(home, "a", out, now=NOW))
    home.supernode_key.unlink()
    _refused(nodes, "Expected an ECDSA key on P-384 in supernode", lambda: node.request(home, "a", out, now=NOW))


def test_an_installed_node_has_what_it_needs_to_reach_the_server(server_home: ServerHome, nodes: Path) -> None:
    home, kit = provisioning.joined(server_home, nodes, "shop-1")
    assert home.authority.read_bytes() == server_home.authority.read_bytes()
    assert home.settings.read_text().endswith('name = "shop-1"\nserver = "fl.example.org:8443"\n')
    assert node.installed_kit(home) == node.verify_kit(home, now=NOW) == kit
    assert read_credentials(home.identity, home.roster).identity.hex() == kit.keys.identity
    assert {path.name for path in home.path.iterdir()} == {"keys", "kit.json", "ca.crt", "roster.json", "node.toml"}


def test_a_kit_counts_with_the_right_fingerprint_alone(
    server_home: ServerHome, another_server: ServerHome, nodes: Path, tmp_path: Path
) -> None:
    """Also a kit that an impostor made, with its own authority and key, for this node's real keys."""
    home, request = provisioning.new_node(nodes, "shop-1")
    right = server_fingerprint(server_home)
    impostor = ServerHome(Path(shutil.copytree(another_server.path, tmp_path / "impostor")))
    forged = nodes / "forged"
    members.approve(impostor, read_request(request), forged, days=365, now=NOW)
    own = provisioning.approved(server_home, request)
    other = server_fingerprint(impostor)
    _refused(nodes, "this fingerprint, found another server's", lambda: node.install(home, forged, right, now=NOW))
    _refused(nodes, "this fingerprint, found another server's", lambda: node.install(home, own, other, now=NOW))
    _refused(nodes, "Expected --fingerprint to be the 64", lambda: node.install(home, own, right[:40], now=NOW))
    # The real authority's certificate, and the impostor's key.
    mixed = provisioning.altered(forged, provisioning.server_key(impostor), authority=server_home.authority.read_text())
    _refused(nodes, "this fingerprint, found another server's", lambda: node.install(home, mixed, right, now=NOW))
    node.install(home, own, right, now=NOW)
    # Once it belongs to a server, no other fingerprint makes it another's.
    members.renew(impostor, "shop-1", nodes / "later", days=365, now=NOW)
    _refused(
        nodes, "Expected a kit of the server that this node belongs to",
        lambda: node.install(home, nodes / "later", other, now=NOW),
    )  # fmt: skip


def test_a_changed_kit_and_another_nodes_kit_are_refused(server_home: ServerHome, nodes: Path) -> None:
    home, request = provisioning.new_node(nodes, "shop-1")
    other, others = provisioning.new_node(nodes, "shop-2")
    kit = provisioning.approved(server_home, others)
    own = provisioning.approved(server_home, request)
    changed = provisioning.altered(own, hosts=["evil.example.org"])
    _refused(nodes, "as its author signed it, found another text", lambda: _install(home, changed, server_home))
    _refused(nodes, "Expected a kit for this node's keys, found another", lambda: _install(home, kit, server_home))
    empty = NodeHome(nodes / "empty")
    _refused(nodes, "Expected this node's keys in its folder, found none", lambda: _install(empty, own, server_home))
    # One key of the three is enough to be another node.
    for field in ("identity", "identity_key", "supernode_key"):
        theirs = getattr(read_kit(kit)[0].keys, field)
        keys = read_kit(own)[0].keys.model_copy(update={field: theirs}).model_dump()
        mixed = provisioning.altered(own, provisioning.server_key(server_home), keys=keys)
        _refused(nodes, "Expected a kit for this node's keys", lambda mixed=mixed: _install(home, mixed, server_home))
        mixed.unlink()
    _install(other, kit, server_home)


def test_a_kit_counts_from_its_first_second_to_its_last(server_home: ServerHome, nodes: Path) -> None:
    home, request = provisioning.new_node(nodes, "shop-1")
    kit = provisioning.approved(server_home, request, days=10)
    first, last = NOW - 3600, NOW + 10 * DAY
    _refused(nodes, "Set this machine's clock", lambda: _install(home, kit, server_home, now=first - 1))
    _refused(nodes, "a kit that holds now, got one that expired", lambda: _install(home, kit, server_home, now=last + 1))
    _install(home, kit, server_home, now=first)
    _install(home, kit, server_home, now=last)
    node.verify_kit(home, now=last)
    with pytest.raises(ConfigError, match="a kit that holds now, got one that expired"):
        node.verify_kit(home, now=last + 1)


def test_a_newer_kit_takes_the_place_of_an_older_one_and_never_the_other_way(server_home: ServerHome, nodes: Path) -> None:
    home, request = provisioning.new_node(nodes, "shop-1")
    first = provisioning.approved(server_home, request, days=60)
    _install(home, first, server_home)
    home.settings.write_text('name = "mine"\n', encoding="utf-8")
    second = provisioning.renewed(server_home, "shop-1", nodes / "second", now=NOW + 40 * DAY)
    _install(home, second, server_home, now=NOW + 40 * DAY)
    assert node.installed_kit(home).number == 2 and home.kit.read_bytes() == second.read_bytes()
    assert home.settings.read_text() == 'name = "mine"\n'
    (entry,) = read_roster(home.roster).entries.values()
    assert entry.valid_until == NOW + 405 * DAY
    now = NOW + 41 * DAY
    _refused(nodes, "newer than the one in this node, found an older", lambda: _install(home, first, server_home, now=now))
    before = provisioning.snapshot(nodes)
    _install(home, second, server_home, now=now)  # the same once more
    assert provisioning.snapshot(nodes) == before


def test_a_node_that_was_revoked_may_come_back_with_new_keys(server_home: ServerHome, nodes: Path) -> None:
    home, _ = provisioning.joined(server_home, nodes, "shop-1")
    provisioning.renewed(server_home, "shop-1", nodes / "second")
    _install(home, nodes / "second", server_home)
    members.revoke(server_home, "shop-1", now=NOW)
    home.keys.rename(home.path / "old-keys")
    node.request(home, "shop-1", nodes / "new", now=NOW)
    members.approve(server_home, read_request(nodes / "new"), nodes / "kit", days=365, now=NOW)
    with pytest.raises(ConfigError, match="Expected a kit for this node's keys, found one for others"):
        node.verify_kit(home, now=NOW)
    _install(home, nodes / "kit", server_home)
    assert node.verify_kit(home, now=NOW).number == 1
    assert sorted(entry.revoked for entry in read_roster(home.roster).entries.values()) == [False, True]


def test_a_node_learns_of_others_and_of_revocations_and_forgets_none(server_home: ServerHome, nodes: Path) -> None:
    home, _ = provisioning.joined(server_home, nodes, "shop-1")
    old = members.signed_roster(server_home).to_bytes()
    _, kit = provisioning.joined(server_home, nodes, "shop-2")
    both = members.signed_roster(server_home).to_bytes()
    other = bytes.fromhex(kit.keys.identity)
    assert other not in read_roster(home.roster).entries
    node.accept_roster(home, both)
    assert not read_roster(home.roster).entries[other].revoked
    members.revoke(server_home, "shop-2", now=NOW)
    node.accept_roster(home, members.signed_roster(server_home).to_bytes())
    assert read_roster(home.roster).entries[other].revoked
    for replayed in (old, both):
        before = provisioning.snapshot(nodes)
        node.accept_roster(home, replayed)
        assert provisioning.snapshot(nodes) == before


def test_a_node_that_left_and_comes_back_with_an_old_kit_forgets_no_revocation(
    server_home: ServerHome, another_server: ServerHome, nodes: Path
) -> None:
    home, _ = provisioning.joined(server_home, nodes, "shop-1")
    provisioning.joined(server_home, nodes, "shop-2")
    members.renew(server_home, "shop-1", nodes / "newer", days=200, now=NOW + DAY)
    members.revoke(server_home, "shop-2", now=NOW + 2 * DAY)
    node.accept_roster(home, members.signed_roster(server_home).to_bytes())
    home.kit.unlink()  # as `tacit node leave` does
    _install(home, nodes / "newer", server_home, now=NOW + 2 * DAY)
    assert [one.revoked for one in read_roster(home.roster).entries.values()].count(True) == 1
    # Another federation begins with its own nodes alone.
    home.kit.unlink()
    out = nodes / "other"
    members.approve(another_server, read_request(nodes / "shop-1.request"), out, days=100, now=NOW)
    _install(home, out, another_server)
    assert set(read_roster(home.roster).entries) == {read_key(home.identity)[0]}


def test_a_roster_of_somebody_else_is_refused(server_home: ServerHome, another_server: ServerHome, nodes: Path) -> None:
    home, _ = provisioning.joined(server_home, nodes, "shop-1")
    roster = members.signed_roster(another_server).to_bytes()
    _refused(nodes, "another signer", lambda: node.accept_roster(home, roster))
    _refused(nodes, "Expected a signed roster", lambda: node.accept_roster(home, home.kit.read_bytes()))
    empty = NodeHome(nodes / "empty")
    _refused(nodes, "Expected a kit in this node's folder, found none", lambda: node.accept_roster(empty, roster))


def test_a_node_that_knows_that_it_was_revoked_neither_starts_nor_takes_its_kit_again(
    server_home: ServerHome, nodes: Path
) -> None:
    home, _ = provisioning.joined(server_home, nodes, "shop-1")
    members.revoke(server_home, "shop-1", now=NOW)
    node.accept_roster(home, members.signed_roster(server_home).to_bytes())
    revoked = "Expected keys that count, found this node's revoked"
    _refused(nodes, revoked, lambda: node.verify_kit(home, now=NOW))
    _refused(nodes, revoked, lambda: _install(home, nodes / "shop-1.kit", server_home))


def test_damaged_files_of_a_node_are_one_clear_line(server_home: ServerHome, nodes: Path) -> None:
    home, _ = provisioning.joined(server_home, nodes, "shop-1")
    kit = home.kit.read_bytes()
    home.kit.write_bytes(kit.replace(b"fl.example", b"xx.example"))
    _refused(nodes, "Expected kit.json as its author signed it", lambda: node.warnings(home, now=NOW))
    home.kit.write_bytes(kit[:100])
    _refused(nodes, "Expected a signed document in kit.json", lambda: _install(home, nodes / "shop-1.kit", server_home))
    home.kit.write_bytes(kit)
    home.roster.write_bytes(b"[]")
    _refused(nodes, "Expected a roster in roster.json", lambda: _install(home, nodes / "shop-1.kit", server_home))
    home.roster.unlink()  # a kit brings one
    _install(home, nodes / "shop-1.kit", server_home)
    assert len(read_roster(home.roster).entries) == 1


def test_the_kits_end_is_warned_of_thirty_days_before(server_home: ServerHome, nodes: Path) -> None:
    home, _ = provisioning.joined(server_home, nodes, "shop-1", days=365)
    said = {day: node.warnings(home, now=NOW + day * DAY) for day in (0, 100, 334, 335, 365, 366, 730)}
    assert not said[0] and not said[100] and not said[334]
    assert all(said[day][0].startswith("This node's kit expires in") for day in (335, 365))
    assert all(said[day][0].startswith("This node's kit expired on") for day in (366, 730))
    assert said[335][0].endswith("Ask the server's operator for a new kit, and install it with `tacit node install`.")
    late = node.warnings(home, now=provisioning.MADE + 3621 * DAY)
    assert [warning.split()[1] for warning in late] == ["node's", "certificate"]
