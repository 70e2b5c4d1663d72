"""Nodes of real processes, each killed at another step of a training message: what it may have sent is counted, and once.

Flower lets a node that was killed come back once it has missed heartbeats, after more than a minute; so all are killed in
one round, which goes on without them, and all come back for the next run.
"""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest

from client.ledger.ledger import Ledger
from client.node.rules import is_contribution
from server import checkpoints
from server.flower_commands import connection, flower
from shared.run_folder import load_config
from tests.deployment import Deployment, deployment, eventually
from tests.killed_node import STEPS

UNDISTURBED = 2
# Whether the ledger counts the message, and whether the guard let the contribution out.
EXPECTED = {
    "asked": (False, False),
    "reserved": (True, False),
    "trained": (True, False),
    "written": (True, True),
    "handed": (True, True),
    "sending": (True, True),
    "sent": (True, True),
}
SETTINGS = {"statistics.releases": "none", "federation.timeout_seconds": 90}


def _online(federation: Deployment) -> int:
    listed = flower(federation.server, "supernode", "list", connection())["nodes"]
    return sum(one["status"] == "online" for one in listed)


def _run_id(federation: Deployment, run: str) -> str:
    run_dir = federation.server.runs / run
    return checkpoints.load(run_dir, config_digest=load_config(run_dir).digest()).run_id


@pytest.mark.faults
def test_a_node_that_is_killed_at_any_step_has_counted_what_it_may_have_sent_and_comes_back(
    tmp_path: Path, tiny_bert: str
) -> None:
    assert set(EXPECTED) == set(STEPS)
    with deployment(tmp_path, tiny_bert, UNDISTURBED + len(STEPS)) as federation:
        federation.start_server()
        dying = dict(zip(STEPS, federation.nodes[UNDISTURBED:], strict=True))
        flags = {step: federation.folder / f"{step}.json" for step in STEPS}
        for home in federation.nodes[:UNDISTURBED]:
            federation.start_node(home)
        for step, home in dying.items():
            federation.start_node_that_dies(home, step, flags[step])
        eventually(lambda: _online(federation) == len(federation.nodes), seconds=240)

        run = federation.begin("killed", **{**SETTINGS, "federation.rounds": 2, "federation.minimum_clients": 2})
        for step, home in dying.items():
            eventually(flags[step].exists, seconds=300)
            assert json.loads(flags[step].read_text()) == {"step": step, "round": 1}
            federation.processes[home.path.name].wait(30)
        assert federation.ended(run, seconds=700).state == "finished", federation.state(run)
        # Of those that were killed the server has what was sent as a whole; the other two answer on.
        rounds = federation.events(run, "round")
        assert [one["clients_answered"] for one in rounds] == [UNDISTURBED + 1, UNDISTURBED]
        for step, home in dying.items():
            counted, out = EXPECTED[step]
            sent = [one["group"] for one in federation.decisions(home, "sent") if one["message_type"] == "train"]
            assert sent == ["1"] * out, step
            with contextlib.closing(Ledger(home.ledger)) as ledger:
                assert ledger.charged(_run_id(federation, run), "train", 1) == counted, step
                assert not ledger.charged(_run_id(federation, run), "train", 2), step

        for home in dying.values():
            federation.start_node(home)
        back = {**SETTINGS, "federation.rounds": 1, "federation.minimum_clients": len(federation.nodes)}
        again = federation.begin("again", **{**back, "federation.timeout_seconds": 300})
        assert federation.ended(again, seconds=500).state == "finished", federation.state(again)
        assert [one["clients_answered"] for one in federation.events(again, "round")] == [len(federation.nodes)]
        for home in federation.nodes:
            kinds = [(one["run"], one["message_type"], one["group"]) for one in federation.decisions(home, "sent")]
            contributions = [one for one in kinds if is_contribution(one[1])]
            with contextlib.closing(Ledger(home.ledger)) as ledger:
                (account,) = ledger.accounts()
            # None was let out twice, and each is charged for.
            assert len(set(contributions)) == len(contributions) <= account.entries
