"""A node that leaves answers nothing more; its signed statement says what ledger and log say, and the server keeps it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from client.node.leaving import leave
from client.node.rules import is_contribution
from server.provisioning.departures import departures, take
from shared.errors import ConfigError
from shared.provisioning.leaving import KIND
from shared.signing import read_signed
from tests.one_process import Line, OneProcess, one_process

SETTINGS = {"statistics.releases": "none", "federation.minimum_clients": 2, "federation.timeout_seconds": 1}


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory, tiny_bert: str) -> Iterator[OneProcess]:
    with one_process(tmp_path_factory.mktemp("leaving"), tiny_bert, 3) as made:
        assert made.run("before", **{**SETTINGS, "federation.rounds": 1}).state == "finished"
        yield made


def test_a_node_that_leaves_says_what_it_contributed_and_answers_nothing_more(federation: OneProcess) -> None:
    home = federation.nodes[2]
    sent = [one for one in federation.decisions(home, "sent") if is_contribution(one["message_type"])]
    _, epsilon = federation.spent(home)
    found = leave(home, wipe=True, now=1_700_000_000)
    document = read_signed(home.path / "left.json", KIND, signer=None)
    (of_run,) = document.body["runs"]
    assert (of_run["name"], of_run["contributions"]) == ("before", len(sent)) and len(sent) >= 2
    assert document.body["epsilon"] == epsilon > 0
    assert found["digest"] == document.digest
    assert not home.interactions.exists() and not home.released.exists() and home.ledger.exists()
    # A second time there is no kit, by which runs are read: the statement would deny what was contributed.
    signed = (home.path / "left.json").read_bytes()
    with pytest.raises(ConfigError, match=r"^Expected a node of a federation, found one that has left; left\.json is its"):
        leave(home, wipe=True, now=1_700_000_001)
    assert (home.path / "left.json").read_bytes() == signed
    # Whoever asks it gets a refusal, and the others go on.
    line = Line(federation)
    assert federation.run("after", line, **{**SETTINGS, "federation.rounds": 1}).state == "finished"
    assert {kind for name, kind, _ in line.arrived if name == "node-2"} <= {"query.roster"}
    assert len(federation.decisions(home, "sent")) == len(
        [one for one in federation.decisions(home, "sent") if one["run"] == federation.digest("before")]
    )


def test_a_server_keeps_what_the_node_signed_and_nothing_else(federation: OneProcess, tmp_path: Path) -> None:
    home = federation.nodes[1]
    leave(home, wipe=False, now=1_700_000_000)
    assert home.interactions.exists()
    signed = (home.path / "left.json").read_bytes()
    changed = tmp_path / "changed.json"
    changed.write_bytes(signed.replace(b'"contributions":', b'"contributions":1', 1))
    with pytest.raises(ConfigError, match=r"Expected changed\.json as its author signed it"):
        take(federation.server, changed)
    kept = take(federation.server, home.path / "left.json")
    assert (kept.node, [run.name for run in kept.runs][-1]) == ("node-1", "before")
    assert [one.node for one in departures(federation.server)] == ["node-1"]
    assert (federation.server.departures / "node-1.json").read_bytes() == signed


def test_a_statement_for_another_node_is_refused(federation: OneProcess, tmp_path: Path) -> None:
    from shared.secagg.identities import read_credentials
    from shared.signing import sign

    home = federation.nodes[0]
    key = read_credentials(home.identity, home.roster).signing_key
    body = {"node": "node-1", "left_at": 1, "runs": [], "epsilon": None, "log_head": ""}
    sign(KIND, body, key).write(tmp_path / "forged.json")
    with pytest.raises(ConfigError, match="to be signed by the node that it names"):
        take(federation.server, tmp_path / "forged.json")
    sign(KIND, {**body, "node": "node-0", "more": 1}, key).write(tmp_path / "wide.json")
    with pytest.raises(ConfigError, match=f"Expected {KIND} in wide.json"):
        take(federation.server, tmp_path / "wide.json")
