"""Provisioning by its commands, as an operator and the owners of nodes type them: the whole way, and every wrong turn.

A wrong turn ends in one clear line and status 2, says no key, and leaves every byte of every folder as it was.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from client import provisioning as node
from client.home import NodeHome
from server.home import ServerHome
from server.provisioning import members
from server.provisioning.members import server_fingerprint
from shared.secagg.identities import read_roster
from tests import provisioning, running
from tests.provisioning import DAY, MADE, NOW, PASSPHRASE

Tacit = Callable[..., running.Outcome]


@pytest.fixture
def place(server_home: ServerHome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a server, `server`, and a passphrase; the working directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "passphrase").write_text(f"{PASSPHRASE}\n", encoding="utf-8")
    (tmp_path / "passphrase").chmod(0o600)
    return tmp_path


def test_from_two_fresh_folders_to_a_node_that_is_renewed_and_revoked(
    tacit: Tacit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("passphrase").write_text(f"{PASSPHRASE}\n", encoding="utf-8")
    Path("passphrase").chmod(0o600)

    def done(*arguments: object) -> str:
        outcome = tacit(*arguments)
        assert outcome.status == 0 and outcome.stderr == "", outcome.stderr
        return outcome.stdout

    def value(*arguments: object) -> dict[str, object]:
        found: dict[str, object] = json.loads(done(*arguments, "--json"))
        return found

    made = value(
        "server", "init", "fl", "--host", "FL.example.org", "--host", "127.0.0.1", "--passphrase-file", "passphrase"
    )
    assert made["hosts"] == ["fl.example.org", "127.0.0.1"] and made["port"] == 8443
    fingerprint = str(made["fingerprint"])
    secret = json.loads(Path("fl/identity.json").read_text(encoding="utf-8"))["key"]
    assert not [name for name, text in made.items() if secret in str(text) or PASSPHRASE in str(text)]
    monkeypatch.setenv("TACIT_SERVER_HOME", "fl")
    monkeypatch.setenv("TACIT_NODE_HOME", "node")
    assert "Made this node's keys" in done("node", "request", "--name", "shop-1", "--out", "request")
    assert "Approved shop-1 until" in done("server", "approve", "request", "--out", "kit", "--days", 20)
    colons = ":".join(fingerprint[at : at + 2] for at in range(0, 64, 2)).upper()
    assert "for the server at fl.example.org:8443" in done("node", "install", "kit", "--fingerprint", colons)
    listed = value("server", "nodes")
    assert [(row["name"], row["state"]) for row in listed["nodes"]] == [("shop-1", "active")]  # type: ignore[attr-defined]
    assert listed["fingerprint"] == fingerprint
    assert str(listed["warnings"]).startswith("['The kit of shop-1 expires in ")
    text = done("server", "nodes")
    assert "shop-1  active   until" in text and "The kit of shop-1 expires in " in text
    renewed = value("server", "renew", "shop-1", "--out", "second")
    assert renewed["fingerprint"] == fingerprint
    assert value("node", "install", "second", "--fingerprint", fingerprint)["valid_until"] == renewed["valid_until"]
    assert value("server", "nodes")["warnings"] == []
    certificate = Path("fl/tls/server.crt").read_bytes()
    assert "it holds until" in done("server", "renew", "--certificate", "--passphrase-file", "passphrase", "--days", 700)
    assert Path("fl/tls/server.crt").read_bytes() != certificate
    assert done("server", "revoke", "shop-1").startswith("Revoked shop-1.\n")
    (entry,) = read_roster(Path("fl/roster.json")).entries.values()
    assert entry.revoked
    assert value("server", "revoke", "shop-1")["already"] is True
    assert "shop-1  revoked  until" in done("server", "nodes")


def test_json_holds_no_secret(tacit: Tacit, place: Path) -> None:
    home, _ = provisioning.joined(ServerHome(place / "server"), place / "nodes", "shop-1")
    server = ServerHome(place / "server")
    said = [
        tacit("server", "nodes", "--server", "server", "--json").stdout,
        tacit("server", "revoke", "shop-1", "--server", "server", "--json").stdout,
        tacit("node", "request", "--name", "shop-2", "--out", "again", "--home", home.path, "--json").stdout,
    ]
    paths = (home.identity, home.supernode_key, server.identity, server.certificate_key)
    for text in said:
        assert json.loads(text)
        for path in paths:
            content = path.read_text(encoding="utf-8")
            secret = json.loads(content)["key"] if path.suffix == ".json" else content.splitlines()[2]
            assert secret not in text


def test_without_a_terminal_and_without_a_file_no_passphrase_is_made_up(place: Path) -> None:
    before = provisioning.snapshot(place)
    command = running.command("server", "init", "new", "--host", "a.example")
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, cwd=place)
    assert done.returncode == 2
    assert done.stderr.startswith("tacit: Expected a terminal to ask for the passphrase, found none.")
    assert provisioning.snapshot(place) == before


def test_the_passphrase_is_asked_for_twice_and_not_shown(place: Path) -> None:
    """On a terminal of its own."""
    import pty

    terminal, other = pty.openpty()
    command = running.command("server", "init", "new", "--host", "a.example", "--json")
    process = subprocess.Popen(
        command, stdin=other, stdout=subprocess.PIPE, stderr=other, cwd=place, start_new_session=True,
        preexec_fn=_controlling_terminal,
    )  # fmt: skip
    os.close(other)
    seen = b""
    for _ in range(2):
        while not seen.endswith(b": "):
            seen += os.read(terminal, 1000)
        os.write(terminal, f"{PASSPHRASE}\n".encode())
        seen += b"|"
    stdout, _ = process.communicate(timeout=120)
    os.close(terminal)
    assert process.returncode == 0
    assert json.loads(stdout)["fingerprint"]
    assert b"Passphrase of the authority's key" in seen and PASSPHRASE.encode() not in seen


def _controlling_terminal() -> None:
    """Passphrases are read from the terminal that a process belongs to."""
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


# What is typed -> what the one line says. The folder: a server `server` with the active nodes shop-1 (its kit installed) and
# shop-2, the revoked shop-3, the expired shop-4; `fresh.request` of a new node; see `_arranged`.
WRONG_TURNS: dict[str, str] = {
    # server init
    "server init server --host a.example --passphrase-file passphrase": "Expected a new or empty folder for the server",
    "server init passphrase --host a.example --passphrase-file passphrase": "Expected a new or empty folder for the server",
    "server init new --passphrase-file passphrase": "Missing option '--host'",
    "server init new --host https://a.example --passphrase-file passphrase": "Expected --host to be a DNS name",
    "server init new --host a.example:8443 --passphrase-file passphrase": "Expected --host to be a DNS name",
    "server init new --host a.example --port 0 --passphrase-file passphrase": "Expected --port from 1 to 65535",
    "server init new --host a.example --port 9091 --passphrase-file passphrase": "Expected --port to differ from",
    "server init new --host a.example --days 0 --passphrase-file passphrase": "Expected --days from 1 to 3650",
    "server init new --host a.example --passphrase-file none": "Expected a passphrase in none, could not read it",
    "server init new --host a.example --passphrase-file short": "Expected a passphrase of at least 12 characters",
    "server init new --host a.example --passphrase-file empty": "Expected a passphrase of at least 12 characters",
    "server init new --host a.example --passphrase-file open": "Expected open to be readable for its owner alone",
    "server init new;x --host a.example --passphrase-file passphrase": "Expected a folder whose path has letters",
    # node request
    "node request --home new --out out": "Missing option '--name'",
    "node request --home new --name Shop --out out": "Expected a node's name of lower-case letters",
    "node request --home new --name ../x --out out": "Expected a node's name of lower-case letters",
    "node request --home new --name a --out passphrase": "Expected a new file at --out, found passphrase there",
    "node request --home new --name a --out none/out": "Expected --out in a folder that exists",
    "node request --home nodes/open --name a --out out": "Expected supernode to be readable for its owner alone",
    "node request --home nodes/damaged --name a --out out": "Expected a client's identity in identity.json",
    # server approve
    "server approve none --server server --out out": "Expected a signed document in none, could not read it",
    "server approve passphrase --server server --out out": "Expected a signed document in passphrase, found something",
    "server approve shop-1.kit --server server --out out": "Expected a signed request in shop-1.kit",
    "server approve nodes/altered-fresh.request --server server --out out": "Expected altered-fresh.request as its author",
    "server approve nodes/shop-1.request --server server --out out": "Expected a node that was not approved yet",
    "server approve nodes/shop-3.request --server server --out out": "Expected keys that were never revoked",
    "server approve elsewhere/shop-2.request --server server --out out": "Expected a name that no node has, got shop-2",
    "server approve nodes/renamed.request --server server --out out": "Expected keys of no other node, found some of shop-1",
    "server approve nodes/fresh.request --server server --out passphrase": "Expected a new file at --out",
    "server approve nodes/fresh.request --server server --out out --days 0": "Expected --days from 1 to 35",
    "server approve nodes/fresh.request --server server --out out --days 3600": "Expected --days from 1 to 35",
    "server approve nodes/fresh.request --server nodes --out out": "Expected the folder of a server, found no server.toml",
    "server approve nodes/fresh.request --server none --out out": "Expected the folder of a server, found no server.toml",
    "server approve nodes/fresh.request --server open-server --out out": "Expected identity.json to be readable for its",
    "server approve nodes/fresh.request --server damaged-server --out out": "Expected the record of a node in nodes/a.json",
    # server renew
    "server renew --server server": "Expected the name of a node or --certificate",
    "server renew shop-1 --certificate --server server --out out": "Expected the name of a node or --certificate",
    "server renew shop-1 --server server": "Expected --out, got none",
    "server renew shop-9 --server server --out out": "Expected the name of a node of this server, got shop-9",
    "server renew shop-3 --server server --out out": "Expected a node that was not revoked, got shop-3",
    "server renew shop-1 --server server --out shop-1.kit": "Expected a new file at --out, found shop-1.kit there",
    "server renew shop-1 --server server --out out --days 9999": "Expected --days from 1 to 35",
    "server renew --certificate --server server --passphrase-file other": "Expected the passphrase of ca.key, got another",
    "server renew --certificate --server open-server --passphrase-file passphrase": "Expected ca.key to be readable for its",
    "server renew --certificate --server server --passphrase-file passphrase --days 9999": "Expected --days from 1 to 35",
    # server revoke, server nodes
    "server revoke shop-9 --server server": "Expected the name of a node of this server, got shop-9",
    "server revoke ../x --server server": "Expected a node's name of lower-case letters",
    "server revoke shop-1 --server none": "Expected the folder of a server, found no server.toml",
    "server left none.json --server server": "Expected a signed document in none.json, could not read it",
    "server left nodes/shop-1.request --server server": "Expected a signed statement of leaving in shop-1.request",
    "server run federation.toml --quorum 2 --server server": "Expected --deadline and --quorum with --resume, got a new run",
    "server nodes --server nodes": "Expected the folder of a server, found no server.toml",
    "server nodes --server damaged-server": "Expected the record of a node in nodes/a.json",
    # node install
    "node install shop-2.kit --home nodes/shop-2": "Missing option '--fingerprint'",
    "node install shop-2.kit --home nodes/shop-2 --fingerprint 12ab": "Expected --fingerprint to be the 64",
    "node install shop-2.kit --home nodes/shop-2 --fingerprint WRONG": "Expected shop-2.kit to come from the server",
    "node install none --home nodes/shop-2 --fingerprint RIGHT": "Expected a signed document in none, could not read it",
    "node install nodes/shop-2.request --home nodes/shop-2 --fingerprint RIGHT": "Expected a signed kit in shop-2.request",
    "node install altered-shop-2.kit --home nodes/shop-2 --fingerprint RIGHT": "Expected altered-shop-2.kit as its author",
    "node install shop-1.kit --home nodes/shop-2 --fingerprint RIGHT": "Expected a kit for this node's keys, found another",
    "node install shop-2.kit --home nodes/none --fingerprint RIGHT": "Expected this node's keys in its folder, found none",
    "node install shop-1.kit --home nodes/shop-1 --fingerprint RIGHT": "Expected a kit that is newer than the one",
    "node install shop-4.kit --home nodes/shop-4 --fingerprint RIGHT": "Expected a kit that holds now, got one that expired",
    "node install late.kit --home nodes/shop-2 --fingerprint RIGHT": "Expected a kit that holds now, got one that holds",
    "node install shop-3.kit --home nodes/shop-3 --fingerprint RIGHT": "Expected keys that count, found this node's revoked",
    "node install open.kit --home nodes/open --fingerprint RIGHT": "Expected supernode to be readable for its owner alone",
}


@pytest.fixture(scope="module")
def arranged(_original_server: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of `WRONG_TURNS`; nothing that is typed there changes a byte of it."""
    import shutil

    place = tmp_path_factory.mktemp("wrong-turns")
    for name in ("server", "open-server", "damaged-server"):
        shutil.copytree(_original_server, place / name)
    server, nodes = ServerHome(place / "server"), place / "nodes"
    for name in ("identity.json", "authority/ca.key"):
        (place / "open-server" / name).chmod(0o644)
    (place / "damaged-server" / "nodes" / "a.json").write_text("{", encoding="utf-8")
    texts = {"passphrase": PASSPHRASE, "open": PASSPHRASE, "other": "another passphrase", "short": "short", "empty": ""}
    for name, text in texts.items():
        (place / name).write_text(text, encoding="utf-8")
        (place / name).chmod(0o644 if name == "open" else 0o600)
    _, request = provisioning.new_node(nodes, "fresh")
    provisioning.altered(request, name="shop-5")
    provisioning.new_node(place / "elsewhere", "shop-2")
    homes: dict[str, NodeHome] = {}
    for name, days, now in (("shop-1", 365, NOW), ("shop-2", 365, NOW), ("shop-3", 365, NOW), ("shop-4", 30, MADE)):
        homes[name], request = provisioning.new_node(nodes, name)
        provisioning.approved(server, request, days=days, now=now).rename(place / f"{name}.kit")
    key = provisioning.server_key(server)
    provisioning.altered(place / "shop-2.kit", key, valid_from=NOW + DAY).rename(place / "late.kit")
    provisioning.altered(place / "shop-2.kit", port=1)
    node.request(homes["shop-1"], "renamed", nodes / "renamed.request", now=NOW)
    fingerprint = server_fingerprint(server)
    newer = provisioning.renewed(server, "shop-1", place / "newer.kit")
    node.install(homes["shop-1"], newer, fingerprint, now=NOW)
    node.install(homes["shop-3"], place / "shop-3.kit", fingerprint, now=NOW)
    members.revoke(server, "shop-3", now=NOW)
    node.accept_roster(homes["shop-3"], members.signed_roster(server).to_bytes())
    opened, request = provisioning.new_node(nodes, "open")
    provisioning.approved(server, request).rename(place / "open.kit")
    opened.supernode_key.chmod(0o640)
    damaged, _ = provisioning.new_node(nodes, "damaged")
    damaged.identity.write_text("{}", encoding="utf-8")
    return place


@pytest.mark.parametrize("typed", WRONG_TURNS)
def test_a_wrong_turn_is_one_clear_line_and_changes_nothing(
    tacit: Tacit, arranged: Path, typed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(arranged)
    fingerprint = server_fingerprint(ServerHome(arranged / "server"))
    words = typed.replace("RIGHT", fingerprint).replace("WRONG", "0" * 64).split()
    before = provisioning.snapshot(arranged)
    outcome = tacit(*words)
    assert outcome.status == 2, outcome.stderr
    assert outcome.stdout == ""
    assert outcome.stderr.startswith(f"tacit: {WRONG_TURNS[typed]}"), outcome.stderr
    assert outcome.stderr.count("\n") == 1 and "Traceback" not in outcome.stderr
    for word in ("BEGIN", "ecdsa", PASSPHRASE, fingerprint):
        assert word not in outcome.stderr
    assert provisioning.snapshot(arranged) == before


def test_the_same_as_json_is_one_object(tacit: Tacit, arranged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(arranged)
    outcome = tacit("server", "revoke", "shop-9", "--server", "server", "--json")
    assert outcome.json["exit_status"] == 2
    assert outcome.json["error"].startswith("Expected the name of a node of this server")


def test_the_commands_load_nothing_heavy(tmp_path: Path) -> None:
    """An operator's small machine: neither torch nor Flower is needed to revoke a node."""
    code = (
        "import sys, client.provisioning, server.provisioning.new_server, server.provisioning.members\n"
        "print([name for name in ('torch', 'flwr', 'transformers', 'polars') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=running.ROOT, check=True)
    assert done.stdout == "[]\n"
