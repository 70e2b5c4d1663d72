"""A node of real processes that is killed at each step of a training message: what it may have sent is counted, and once."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest

from client.ledger.ledger import Ledger
from client.node.rules import is_contribution
from server import checkpoints
from shared.run_folder import load_config
from tests.deployment import Deployment, deployment, eventually
from tests.killed_node import STEPS

NODES, ROUNDS = 3, 14
# Whether the ledger counts the message, and whether the server may have the contribution.
EXPECTED = {
    "asked": (False, False),
    "reserved": (True, False),
    "trained": (True, False),
    "written": (True, False),
    "handed": (True, False),
    "sending": (True, False),
    "sent": (True, True),
}
SETTINGS = {
    "federation.rounds": ROUNDS,
    "federation.minimum_clients": 2,
    "federation.timeout_seconds": 25,
    "statistics.releases": "none",
    "evaluation.every_rounds": ROUNDS,
}


def _killed_in(federation: Deployment, step: str) -> int:
    """Lets a node run until it is killed at a step; the round in which that was."""
    home, flag = federation.nodes[0], federation.folder / f"{step}.json"
    federation.start_node_that_dies(home, step, flag)
    eventually(flag.exists, seconds=180)
    federation.processes[home.path.name].wait(30)
    found = json.loads(flag.read_text())
    assert found["step"] == step
    return int(found["round"])


@pytest.mark.faults
def test_a_node_that_is_killed_at_any_step_has_counted_what_it_may_have_sent_and_comes_back(
    tmp_path: Path, tiny_bert: str
) -> None:
    assert set(EXPECTED) == set(STEPS)
    with deployment(tmp_path, tiny_bert, NODES) as federation:
        federation.start_server()
        for one in federation.nodes[1:]:
            federation.start_node(one)
        run, home = federation.begin("killed", **SETTINGS), federation.nodes[0]
        rounds = {step: _killed_in(federation, step) for step in STEPS}
        federation.start_node(home)
        assert federation.ended(run, seconds=400).state == "finished", federation.state(run)

        assert len(set(rounds.values())) == len(STEPS)
        answered = {one["round_number"]: one["clients_answered"] for one in federation.events(run, "round")}
        assert list(answered) == list(range(1, ROUNDS + 1))
        run_dir = federation.server.runs / run
        run_id = checkpoints.load(run_dir, config_digest=load_config(run_dir).digest()).run_id
        with contextlib.closing(Ledger(home.ledger)) as ledger:
            charged = {number for number in answered if ledger.charged(run_id, "train", number)}
            (account,) = ledger.accounts()
        for step, number in rounds.items():
            counted, arrived = EXPECTED[step]
            assert (number in charged) == counted, step
            assert answered[number] == 2 + arrived, step
        # The other two answered each round, so the server has the third contribution where there were three.
        got = {number for number, count in answered.items() if count == NODES}
        assert set(answered.values()) <= {2, NODES}
        assert got <= charged
        # It came back: after the last kill it takes part.
        assert max(answered) in got
        # Each contribution that the guard let out is charged for, and none is let out twice.
        sent = [(one["message_type"], one["group"]) for one in federation.decisions(home, "sent")]
        contributions = [one for one in sent if is_contribution(one[0])]
        assert len(set(contributions)) == len(contributions) <= account.entries
        assert {str(number) for number in got} <= {group for kind, group in contributions if kind == "train"}
