"""Whether what nodes sent is what the server says it received and used: the logs of both ends, compared offline.

Each end wrote the other's head into its own hash-chained log before it went on (`shared/protocol/log_heads.py`). Here each
contribution that a node's log says was sent is looked for in the server's log, by the head that traveled with it; and the
head of the server that came with the instruction is looked for there too.

In a simulation clients have no log of decisions, so there is nothing to compare.

What never lives here: how the logs are written (`client/node/worker.py`, `server/releases.py`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from client.node.decisions import Decisions
from client.node.rules import is_contribution
from server.event_log import EventLog
from shared.errors import ConfigError
from shared.run_file import IN_BUNDLE, KIND
from shared.run_folder import EVENTS
from shared.signing import read_signed

State = Literal["same", "heads agree", "not used", "not compared", "missing", "differs"]
# What an auditor has to ask about.
FAILS: Final[tuple[State, ...]] = ("missing", "differs")
CANNOT_PROVE: Final = (
    "That a sum holds nothing else: contributions without a log's head, and those of nodes whose logs were not given, are "
    "not looked for. Under masks the server's log says whom it counted, and nothing here repeats the sum.",
    "What values were before noise and masks. Bytes that travel clean, or under a share of the noise alone, have no digest: "
    "for them the heads agree and their bytes are not compared.",
    "That the last records are there: what was written after the last exchange of heads may be missing at either end.",
    "Anything against both ends together: they can write both logs anew.",
    "Why a contribution is missing: it can be lost on the way, come too late, or be left out of the log.",
)


@dataclass(frozen=True)
class Row:
    """One contribution of one node.

    Attributes:
        node: Which log.
        request: Purpose and round.
        state: What the comparison says.
        why: In words.
    """

    node: str
    request: str
    state: State
    why: str


@dataclass(frozen=True)
class Reconciliation:
    """What the logs of both ends say together.

    Attributes:
        rows: Each contribution of each given log, in its order.
        of_others: By request, replies that the server says came, and that no given log holds.
    """

    rows: tuple[Row, ...]
    of_others: dict[str, int]

    @property
    def agrees(self) -> bool:
        """Whether nothing differs and nothing is missing."""
        return not any(row.state in FAILS for row in self.rows)

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
        rows = [vars(row) for row in self.rows]
        return {"agrees": self.agrees, "rows": rows, "of_others": self.of_others, "cannot_prove": list(CANNOT_PROVE)}


def reconcile(run_dir: Path, logs: Sequence[Path]) -> Reconciliation:
    """Compares the log of a run's server with logs of its nodes.

    Args:
        run_dir: The run's folder, with the server's `events.jsonl`.
        logs: `decisions.jsonl` of nodes; a log that was continued needs `decisions.1.jsonl` beside it.

    Raises:
        CheckpointError: If a log was changed after it was written.
        ConfigError: If the folder holds no run of a deployment, or a log is not there.
    """
    if not (run_dir / IN_BUNDLE).is_file():
        raise ConfigError(
            f"Expected the folder of a deployment's run, found no {IN_BUNDLE} in {run_dir.name}. In a simulation clients "
            "have no log of decisions, and there is nothing to compare."
        )
    run = read_signed(run_dir / IN_BUNDLE, KIND, signer=None).digest
    server, rows, held = _ServerLog(EventLog(run_dir / EVENTS)), [], set()
    for path in logs:
        if not path.is_file():
            raise ConfigError(f"Expected a node's log in {path.name}, found no file. Name the node's decisions.jsonl.")
        for head, body in Decisions(path).hashed():
            if body["decision"] == "sent" and body["run"] == run and is_contribution(body["message_type"]):
                held.add(head)
                rows.append(_row(str(path), head, body, server))
    others = Counter(_request(came) for head, (_, came, _) in server.came.items() if head not in held)
    return Reconciliation(tuple(rows), dict(others))


class _ServerLog:
    """The server's log, by the heads that traveled.

    Attributes:
        asked: Head that an instruction carried -> its place, and the event of asking.
        came: Head that a contribution carried -> its place, the event, what the event says of it.
        twice: Heads of contributions that are in one sum more than once.
    """

    def __init__(self, log: EventLog) -> None:
        lines = log.hashed()
        self.asked = {head: (place, event) for place, (head, event) in enumerate(lines) if event["event"] == "asked"}
        self.came: dict[str, tuple[int, dict[str, Any], dict[str, Any]]] = {}
        self.twice: set[str] = set()
        last: list[dict[str, Any]] = []
        for place, (_, event) in enumerate(lines):
            if event["event"] == "received":
                last = [dict(reply) for reply in event["replies"]]
                self.came.update({reply["head"]: (place, event, reply) for reply in last})
                times = Counter(reply["head"] for reply in last)
                self.twice |= {head for head, number in times.items() if number > 1}
            elif event["event"] == "asked":
                last = []
            elif event["event"] in ("round_dropped", "release_dropped"):  # the sum that these were for
                for reply in last:
                    reply["used"] = False


def _row(node: str, head: str, body: dict[str, Any], server: _ServerLog) -> Row:
    state, why = _compared(head, body, server)
    asked = server.asked.get(str(body.get("server_head")))
    of_round = f"{body['message_type']} of {body.get('group', '')}" if asked is None else _request(asked[1])
    return Row(node, of_round, state, why)


def _compared(head: str, body: dict[str, Any], server: _ServerLog) -> tuple[State, str]:
    if body.get("server_head") is None:
        return "not compared", "The instruction carried no head of the server's log: one end is of an earlier version."
    found = server.asked.get(body["server_head"])
    if found is None:
        return "differs", "The server's log does not hold the head that it sent: it is another log, or was written anew."
    place, asked = found
    if asked.get("instruction") != body["instruction"]:
        return "differs", "The node got another instruction than the server wrote down."
    if head not in server.came:
        return "missing", "The server's log does not hold this contribution."
    came_at, came, reply = server.came[head]
    if _request(came) != _request(asked) or came_at < place:
        return "differs", "The server wrote this contribution down for another request."
    if head in server.twice:
        return "differs", "The server counted this contribution more than once in one sum."
    if reply["contribution"] != body["contribution"]:
        return "differs", "The server received other bytes than the node sent."
    if not reply["used"]:
        return "not used", "The server received this contribution and put it into no sum."
    if body["contribution"] is None:
        return (
            "heads agree",
            "Received and used; the bytes have no digest, because they are not under the full noise or masks.",
        )
    return "same", "Received and used, byte for byte."


def _request(event: dict[str, Any]) -> str:
    return f"{event['purpose']} of round {event.get('round_number', 0)}"
