"""Logs of nodes against the server's: each way in which the two can differ is told, and what agrees passes.

Real logs of a whole federation are compared in `tests/system/test_federation_of_nodes.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from client.node.decisions import Decisions
from server.event_log import EventLog
from shared.errors import CheckpointError
from shared.run_file import IN_BUNDLE
from simulations.audits.reconciliation import CANNOT_PROVE, reconcile
from tests.run_files import run_file
from tests.running import run_tacit

RUN = run_file()
INSTRUCTION, BYTES = "11" * 32, "22" * 32


class Ends:
    """A run's folder and the log of one node, written as server and node write them."""

    def __init__(self, folder: Path) -> None:
        self.run_dir = folder / "run"
        self.run_dir.mkdir()
        RUN.document.write(self.run_dir / IN_BUNDLE)
        self.events, self.decisions = EventLog(self.run_dir / "events.jsonl"), Decisions(folder / "node" / "decisions.jsonl")
        self.events.append("started")

    def asked(self, round_number: int, instruction: str | None = INSTRUCTION) -> str:
        self.events.append("asked", purpose="train", round_number=round_number, instruction=instruction)
        return self.events.latest

    def sent(self, server_head: str | None, round_number: int, **changes: Any) -> str:
        exchanged = {"server_head": server_head, "instruction": INSTRUCTION, "contribution": BYTES}
        body = {"time": 1, "decision": "sent", "run": RUN.digest, "message_type": "train", "group": str(round_number)}
        return self.decisions.append({**body, **exchanged, **changes})

    def received(self, head: str, round_number: int, **changes: Any) -> None:
        reply = {"head": head, "contribution": BYTES, "used": True, **changes}
        self.events.append("received", purpose="train", round_number=round_number, replies=[reply])

    def states(self) -> list[str]:
        return [row.state for row in reconcile(self.run_dir, [self.decisions.path]).rows]


@pytest.fixture
def ends(tmp_path: Path) -> Ends:
    return Ends(tmp_path)


def test_what_a_node_sent_and_the_server_received_and_used_is_the_same(ends: Ends) -> None:
    for number in (1, 2):
        ends.received(ends.sent(ends.asked(number), number), number)
    ends.decisions.append({"decision": "sent", "run": RUN.digest, "message_type": "query.roster", "bytes": 1, "time": 1})
    ends.sent("ff" * 32, 1, run="another run")
    found = reconcile(ends.run_dir, [ends.decisions.path])
    assert [(row.request, row.state) for row in found.rows] == [("train of round 1", "same"), ("train of round 2", "same")]
    assert found.agrees and found.of_others == {}


def _another_server_log(ends: Ends) -> None:
    ends.received(ends.sent("ff" * 32, 1), 1)


def _head_of_another_line(ends: Ends) -> None:
    ends.received(ends.sent(ends.events.latest, 1), 1)  # of `started`


def _another_instruction(ends: Ends) -> None:
    ends.received(ends.sent(ends.asked(1, "33" * 32), 1), 1)


def _other_bytes(ends: Ends) -> None:
    ends.received(ends.sent(ends.asked(1), 1), 1, contribution="44" * 32)


def _of_another_round(ends: Ends) -> None:
    ends.received(ends.sent(ends.asked(1), 1), 2)


def _not_there(ends: Ends) -> None:
    ends.sent(ends.asked(1), 1)


def _not_used(ends: Ends) -> None:
    ends.received(ends.sent(ends.asked(1), 1), 1, used=False)


def _round_dropped(ends: Ends) -> None:
    ends.received(ends.sent(ends.asked(1), 1), 1)
    ends.events.append("round_dropped", round_number=1, reason="too few")
    ends.asked(2)


def _clean(ends: Ends) -> None:
    ends.received(ends.sent(ends.asked(1), 1, contribution=None), 1, contribution=None)


def _counted_twice(ends: Ends) -> None:
    reply = {"head": ends.sent(ends.asked(1), 1), "contribution": BYTES, "used": True}
    ends.events.append("received", purpose="train", round_number=1, replies=[reply, reply])


def _without_a_head(ends: Ends) -> None:
    ends.asked(1)
    ends.sent(None, 1)


DIFFERENCES: dict[str, tuple[Callable[[Ends], None], str, bool]] = {
    "another log of the server": (_another_server_log, "differs", False),
    "the head of another line": (_head_of_another_line, "differs", False),
    "another instruction": (_another_instruction, "differs", False),
    "other bytes": (_other_bytes, "differs", False),
    "of another round": (_of_another_round, "differs", False),
    "counted twice in one sum": (_counted_twice, "differs", False),
    "not in the server's log": (_not_there, "missing", False),
    "received and left out": (_not_used, "not used", True),
    "of a round that was dropped": (_round_dropped, "not used", True),
    "bytes without a digest": (_clean, "heads agree", True),
    "an instruction without a head": (_without_a_head, "not compared", True),
}


@pytest.mark.parametrize("name", DIFFERENCES)
def test_each_way_in_which_the_ends_differ_is_told(ends: Ends, name: str) -> None:
    write, state, agrees = DIFFERENCES[name]
    write(ends)
    found = reconcile(ends.run_dir, [ends.decisions.path])
    assert [row.state for row in found.rows] == [state], found.rows
    assert found.agrees == agrees


def test_replies_that_no_given_log_holds_are_counted(ends: Ends) -> None:
    ends.asked(1)
    ends.received("55" * 32, 1)
    assert reconcile(ends.run_dir, []).of_others == {"train of round 1": 1}


def test_guarantee_a_server_that_writes_its_log_anew_is_found_by_the_heads_that_nodes_hold(ends: Ends) -> None:
    head = ends.sent(ends.asked(1), 1)
    ends.received(head, 1)
    assert ends.states() == ["same"]
    ends.events.path.unlink()  # the same events, chained anew
    ends.events.append("started")
    ends.asked(1)
    ends.received(head, 1)
    assert ends.states() == ["differs"]


def test_guarantee_a_node_that_writes_its_log_anew_is_found_by_the_heads_that_the_server_holds(ends: Ends) -> None:
    server_head = ends.asked(1)
    ends.received(ends.sent(server_head, 1), 1)
    ends.decisions.path.unlink()
    ends.sent(server_head, 1)
    found = reconcile(ends.run_dir, [ends.decisions.path])
    assert [row.state for row in found.rows] == ["missing"] and found.of_others == {"train of round 1": 1}


def test_a_log_with_a_changed_line_is_refused(ends: Ends) -> None:
    ends.received(ends.sent(ends.asked(1), 1), 1)
    ends.sent(None, 2)
    ends.decisions.path.write_bytes(ends.decisions.path.read_bytes().replace(BYTES.encode(), b"33" * 32, 1))
    with pytest.raises(CheckpointError, match="to follow from the line before"):
        ends.states()


def test_the_command_ends_with_1_where_logs_differ_and_says_what_they_cannot_prove(
    ends: Ends, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ends.received(ends.sent(ends.asked(1), 1), 1)
    asked = ("audit", "reconcile", ends.run_dir, ends.decisions.path)
    same = run_tacit(capsys, *asked)
    assert same.status == 0 and "train of round 1: same." in same.stdout and CANNOT_PROVE[0] in same.stdout
    ends.sent(ends.asked(2), 2)
    other = run_tacit(capsys, *asked, "--json")
    assert other.status == 1 and other.json["agrees"] is False
    assert [row["state"] for row in other.json["rows"]] == ["same", "missing"]
    none = run_tacit(capsys, "audit", "reconcile", ends.run_dir, tmp_path / "none.jsonl")
    assert none.status == 2 and "Name the node's decisions.jsonl" in none.stderr


def test_a_simulation_has_nothing_to_compare(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    outcome = run_tacit(capsys, "audit", "reconcile", tmp_path, tmp_path / "decisions.jsonl")
    assert outcome.status == 2 and "In a simulation clients have no log of decisions" in " ".join(outcome.stderr.split())
