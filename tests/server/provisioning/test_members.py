"""The nodes of a server: what is approved, renewed and revoked, and that a refusal changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from server.home import ServerHome
from server.provisioning import members
from shared.errors import ConfigError, ProtocolViolation
from shared.folder_claim import claimed
from shared.provisioning.kit import read_kit
from shared.provisioning.request import read_request
from shared.provisioning.rosters import KIND, read_roster_document
from shared.secagg.identities import read_key, read_roster
from shared.secagg.keys import sign
from shared.signing import verified
from tests import provisioning
from tests.provisioning import DAY, MADE, NOW


@pytest.fixture
def nodes(tmp_path: Path) -> Path:
    return tmp_path / "nodes"


def _refused(server: ServerHome, nodes: Path, message: str, action: Callable[[], object]) -> None:
    before = provisioning.snapshot(server.path), provisioning.snapshot(nodes)
    with pytest.raises(ConfigError, match=message) as caught:
        action()
    assert (provisioning.snapshot(server.path), provisioning.snapshot(nodes)) == before
    assert "ecdsa" not in str(caught.value)


def _approve(server: ServerHome, request: Path, out: Path, *, days: int = 365, now: int = NOW) -> None:
    members.approve(server, read_request(request), out, days=days, now=now)


def test_an_approved_node_has_a_record_a_kit_and_a_place_in_the_roster(server_home: ServerHome, nodes: Path) -> None:
    home, request = provisioning.new_node(nodes, "shop-1")
    kit, _ = read_kit(provisioning.approved(server_home, request))
    (member,) = members.members(server_home)
    assert member.keys == kit.keys == read_request(request).keys
    assert (member.name, member.kit_number, member.revoked) == ("shop-1", 1, None)
    assert (member.valid_from, member.valid_until) == (NOW - 3600, NOW + 365 * DAY)
    identity, key = read_key(home.identity)
    roster = read_roster(server_home.roster)
    assert list(roster.entries) == [identity]
    roster.verify(identity, sign(key, b"message"), b"message", now=NOW, stage="a test")


def test_what_is_known_of_a_node_is_refused_for_another_one(server_home: ServerHome, nodes: Path) -> None:
    _, request = provisioning.new_node(nodes, "shop-1")
    provisioning.approved(server_home, request)
    _, same_name = provisioning.new_node(nodes / "elsewhere", "shop-1")
    out = nodes / "out"
    _refused(server_home, nodes, "got shop-1, which has its kit", lambda: _approve(server_home, request, out))
    _refused(server_home, nodes, "Expected a name that no node has", lambda: _approve(server_home, same_name, out))
    home, other = provisioning.new_node(nodes, "shop-2")
    found = read_request(other)
    known = read_request(request).keys.model_dump()
    for field in known:
        keys = found.keys.model_copy(update={field: known[field]})
        _refused(
            server_home, nodes, "Expected keys of no other node, found some of shop-1",
            lambda keys=keys: members.approve(server_home, found.model_copy(update={"keys": keys}), out, days=1, now=NOW),
        )  # fmt: skip
    assert len(members.members(server_home)) == 1 and home.keys.exists()


def test_a_file_that_exists_and_a_folder_that_does_not_are_refused(server_home: ServerHome, nodes: Path) -> None:
    _, request = provisioning.new_node(nodes, "shop-1")
    for out, message in (
        (request, "Expected a new file at --out, found shop-1.request there"),
        (nodes / "none" / "kit", "Expected --out in a folder that exists, found no folder none"),
    ):
        _refused(server_home, nodes, message, lambda out=out: _approve(server_home, request, out))


def test_days_end_with_the_authority(server_home: ServerHome, nodes: Path) -> None:
    _, request = provisioning.new_node(nodes, "shop-1")
    late = MADE + 3640 * DAY
    _refused(
        server_home, nodes, "Expected --days from 1 to 10, got --days=365",
        lambda: _approve(server_home, request, nodes / "out", now=late),
    )  # fmt: skip
    _approve(server_home, request, nodes / "out", days=10, now=late)


def test_a_renewed_node_keeps_its_keys_and_gets_a_newer_kit(server_home: ServerHome, nodes: Path) -> None:
    _, request = provisioning.new_node(nodes, "shop-1")
    first, _ = read_kit(provisioning.approved(server_home, request, days=30))
    # After its end too: an operator may be late.
    second, _ = read_kit(provisioning.renewed(server_home, "shop-1", nodes / "second", now=NOW + 40 * DAY))
    assert (first.number, second.number) == (1, 2)
    assert second.keys == first.keys and second.valid_until == NOW + 405 * DAY
    (member,) = members.members(server_home)
    assert (member.approved, member.kit_number, member.valid_until) == (NOW, 2, NOW + 405 * DAY)
    (entry,) = read_roster(server_home.roster).entries.values()
    assert entry.valid_until == NOW + 405 * DAY


def test_a_node_that_there_is_not_is_neither_renewed_nor_revoked(server_home: ServerHome, nodes: Path) -> None:
    nodes.mkdir()
    unknown = "Expected the name of a node of this server, got shop-9"
    _refused(server_home, nodes, unknown, lambda: members.revoke(server_home, "shop-9", now=NOW))
    _refused(server_home, nodes, unknown, lambda: members.renew(server_home, "shop-9", nodes / "k", days=1, now=NOW))
    for name in ("../server", "", "shop-1.1"):
        message = "Expected a node's name of lower-case letters"
        _refused(server_home, nodes, message, lambda name=name: members.revoke(server_home, name, now=NOW))


def test_a_revoked_node_is_out_at_once_and_its_record_stays(server_home: ServerHome, nodes: Path) -> None:
    home, request = provisioning.new_node(nodes, "shop-1")
    kit, _ = read_kit(provisioning.approved(server_home, request))
    revocation = members.revoke(server_home, "shop-1", now=NOW + 5)
    assert revocation == members.Revocation("shop-1", kit.keys.supernode_key, already=False)
    (member,) = members.members(server_home)
    assert member.revoked == NOW + 5 and member.state(NOW) == "revoked" and member.keys == kit.keys
    identity, key = read_key(home.identity)
    with pytest.raises(ProtocolViolation, match="got a revoked one"):
        read_roster(server_home.roster).verify(identity, sign(key, b"m"), b"m", now=NOW, stage="a test")
    before = provisioning.snapshot(server_home.path)
    again = members.revoke(server_home, "shop-1", now=NOW + 9)
    assert again.already and again.supernode_key == kit.keys.supernode_key
    assert provisioning.snapshot(server_home.path) == before


def test_a_revoked_key_never_comes_back(server_home: ServerHome, nodes: Path) -> None:
    home, request = provisioning.new_node(nodes, "shop-1")
    provisioning.approved(server_home, request)
    members.revoke(server_home, "shop-1", now=NOW)
    out = nodes / "out"
    never = "Expected keys that were never revoked, found some in this request"
    _refused(server_home, nodes, never, lambda: _approve(server_home, request, out))
    _refused(
        server_home, nodes, "Expected a node that was not revoked, got shop-1",
        lambda: members.renew(server_home, "shop-1", out, days=1, now=NOW),
    )  # fmt: skip
    # Under another name, after another node came under the old one, and after that one was revoked too.
    other_name = nodes / "other-name"
    from client import provisioning as node

    node.request(home, "shop-7", other_name, now=NOW)
    _refused(server_home, nodes, never, lambda: _approve(server_home, other_name, out))
    for attempt in (1, 2):
        _, new = provisioning.new_node(nodes / f"attempt-{attempt}", "shop-1")
        provisioning.approved(server_home, new)
        assert [one.state(NOW) for one in members.members(server_home)] == ["active"]
        _refused(server_home, nodes, never, lambda: _approve(server_home, other_name, out))
        members.revoke(server_home, "shop-1", now=NOW)
    assert sorted(path.name for path in server_home.nodes.iterdir()) == ["shop-1.1.json", "shop-1.2.json", "shop-1.json"]
    entries = read_roster(server_home.roster).entries.values()
    assert len(entries) == 3 and all(entry.revoked for entry in entries)


def test_a_revocation_whose_roster_was_not_written_is_mended_by_the_next_command(
    server_home: ServerHome, nodes: Path
) -> None:
    """A process that is killed after the record and before the roster."""
    _, request = provisioning.new_node(nodes, "shop-1")
    provisioning.approved(server_home, request)
    before = server_home.roster.read_bytes()
    members.revoke(server_home, "shop-1", now=NOW)
    revoked = server_home.roster.read_bytes()
    server_home.roster.write_bytes(before)
    members.revoke(server_home, "shop-1", now=NOW)
    assert server_home.roster.read_bytes() == revoked != before


def test_a_record_that_cannot_be_written_leaves_no_kit(
    server_home: ServerHome, nodes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, request = provisioning.new_node(nodes, "shop-1")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    before = provisioning.snapshot(server_home.path), provisioning.snapshot(nodes)
    with monkeypatch.context() as patch:
        patch.setattr(members, "_write_record", full)
        with pytest.raises(OSError, match="No space left"):
            _approve(server_home, request, nodes / "out")
    assert (provisioning.snapshot(server_home.path), provisioning.snapshot(nodes)) == before
    _approve(server_home, request, nodes / "out")


def test_one_process_at_a_time_changes_the_records(server_home: ServerHome, nodes: Path) -> None:
    _, request = provisioning.new_node(nodes, "shop-1")
    import subprocess
    import sys

    code = (
        "import sys, pathlib\nfrom shared.folder_claim import claimed\n"
        "with claimed(pathlib.Path(sys.argv[1]), lambda _: None):\n    print('held', flush=True); sys.stdin.readline()\n"
    )
    root = Path(__file__).parent.parent.parent.parent
    holder = subprocess.Popen(
        [sys.executable, "-c", code, server_home.nodes], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=root
    )
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    with pytest.raises(ConfigError, match="Expected a folder that no other process writes"):
        _approve(server_home, request, nodes / "out")
    assert not (nodes / "out").exists()
    holder.communicate("\n", timeout=60)
    _approve(server_home, request, nodes / "out")


def test_a_damaged_record_is_one_clear_line_and_nothing_is_made_of_the_others(server_home: ServerHome, nodes: Path) -> None:
    _, request = provisioning.new_node(nodes, "shop-1")
    provisioning.approved(server_home, request)
    record = server_home.nodes / "shop-1.json"
    content = record.read_text()
    _, other = provisioning.new_node(nodes, "shop-2")
    for text in ("", "[]", "{}", content[:50], content.replace('"version": 1', '"version": 2')):
        record.write_text(text, encoding="utf-8")
        message = r"Expected the record of a node in nodes/shop-1\.json"
        _refused(server_home, nodes, message, lambda: _approve(server_home, other, nodes / "out"))
        _refused(server_home, nodes, message, lambda: members.revoke(server_home, "shop-1", now=NOW))


def test_a_folder_that_is_no_servers_is_refused_and_stays_as_it_is(tmp_path: Path, nodes: Path) -> None:
    _, request = provisioning.new_node(nodes, "shop-1")
    (tmp_path / "empty").mkdir()
    server = ServerHome(tmp_path / "empty")
    for action in (
        lambda: _approve(server, request, nodes / "out"),
        lambda: members.revoke(server, "shop-1", now=NOW),
        lambda: members.members(server),
        lambda: members.server_fingerprint(server),
    ):
        _refused(server, nodes, "Expected the folder of a server, found no server.toml in it", action)


def test_the_signed_roster_is_that_of_the_file(server_home: ServerHome, nodes: Path) -> None:
    for name in ("shop-1", "shop-2"):
        provisioning.approved(server_home, provisioning.new_node(nodes, name)[1])
    members.revoke(server_home, "shop-2", now=NOW)
    document = members.signed_roster(server_home)
    signer = provisioning.server_key(server_home).public_key().public_bytes_raw()
    assert verified(document.to_bytes(), KIND, signer=signer, where="it") == document
    found = read_roster_document(document.to_bytes(), signer=signer, where="it")
    assert found.entries == read_roster(server_home.roster).entries
    assert sorted(entry.revoked for entry in found.entries.values()) == [False, True]


def test_every_end_is_warned_of_thirty_days_before(server_home: ServerHome, nodes: Path) -> None:
    """Ten years of clock: the certificate ends after a year, the kits later, the authority at the end."""
    for name, days in (("shop-1", 365), ("shop-2", 800), ("shop-3", 365)):
        provisioning.approved(server_home, provisioning.new_node(nodes, name, now=MADE)[1], days=days, now=MADE)
    members.revoke(server_home, "shop-3", now=MADE)  # nobody is to renew it

    def starts(after_days: int) -> list[str]:
        said = members.warnings(server_home, now=MADE + after_days * DAY)
        return [" ".join(warning.split()[:4]) for warning in said]

    assert starts(334) == []
    assert starts(335) == ["The server's certificate expires", "The kit of shop-1"]
    assert starts(366) == ["The server's certificate expired", "The kit of shop-1"]
    assert starts(770) == [*starts(366), "The kit of shop-2"]
    assert starts(3620) == ["The authority's certificate expires", *starts(770)]
    states = [member.state(MADE + 366 * DAY) for member in members.members(server_home)]
    assert states == ["expired", "active", "revoked"]


def test_the_claim_leaves_no_file(server_home: ServerHome) -> None:
    with claimed(server_home.nodes, lambda _: None):
        assert len(list(server_home.nodes.iterdir())) == 1
    assert not list(server_home.nodes.iterdir())
