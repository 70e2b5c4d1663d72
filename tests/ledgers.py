"""Ledgers for tests: what to reserve, processes that use one at the same time, and a look at the file.

What lives here: arranging, and an oracle for one kind of epsilon. What never does: an assertion.
"""

from __future__ import annotations

import gc
import math
import os
import sqlite3
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from scipy.optimize import brentq
from scipy.stats import norm

from client.ledger.ledger import Binding, Ledger, Request, Spending
from shared.errors import TacitError
from shared.privacy.events import Event

ROOT = Path(__file__).parent.parent

BINDING = Binding("movies", "user", "add-or-remove-one", 1e-5)

REQUEST = Request("user", "dp-sgd", "none", l2_clip_norm=0.1, noise_multiplier=1.5, rounds=10, delta=1e-5)

EVENT = Event(1.5, 0.25, 4)

OTHER = Event(3.0, 1.0, 1)

PREAMBLE = """
import os, sys
from pathlib import Path
from shared.errors import PrivacyError
from shared.privacy.events import Event
from client.ledger.ledger import Binding, Ledger, Policy, Request
PATH, EVENT = Path(sys.argv[1]), Event(1.5, 0.25, 4)
BINDING = Binding("movies", "user", "add-or-remove-one", 1e-5)
REQUEST = Request("user", "dp-sgd", "none", 0.1, 1.5, 10, 1e-5)
def reserve(ledger, owner="a", event=EVENT, round_number=1):
    return ledger.reserve(owner, [event], run="r", purpose="train", round_number=round_number, request=REQUEST)
def say(*words):
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())
"""


def start(code: str, *arguments: object) -> subprocess.Popen[str]:
    """A process that runs some code after `PREAMBLE`."""
    return subprocess.Popen(
        [sys.executable, "-c", PREAMBLE + code, *map(str, arguments)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip


def python(code: str, *arguments: object) -> str:
    """What such a process prints; it has to end well."""
    process = start(code, *arguments)
    out, error = process.communicate(timeout=300)
    if process.returncode:
        raise RuntimeError(error)
    return out


_ASKED: dict[str, Any] = {"run": "r", "purpose": "train", "round_number": 1, "request": REQUEST}


def reserve(ledger: Ledger, *events: Event, owner: str = "a", **other: Any) -> list[int]:
    """Identifiers of events of one owner, in round 1 of a run if nothing else is said."""
    return ledger.reserve(owner, events or [EVENT], **{**_ASKED, **other})


def reserve_all(ledger: Ledger, *clients: Sequence[Spending], **other: Any) -> list[list[int] | TacitError]:
    """Outcomes of many clients at once."""
    return ledger.reserve_all(clients, **{**_ASKED, **other})


def identifiers_of(outcomes: Sequence[list[int] | TacitError]) -> list[int]:
    """Those of all clients that were not refused."""
    return [identifier for outcome in outcomes if isinstance(outcome, list) for identifier in outcome]


def said_of(outcomes: Sequence[list[int] | TacitError]) -> list[Any]:
    """Outcomes that compare by what they say."""
    return [outcome if isinstance(outcome, list) else (type(outcome), str(outcome)) for outcome in outcomes]


def gaussian_epsilon(events: list[Event], delta: float) -> float:
    """Oracle: releases with everybody in them are one Gaussian mechanism (Balle and Wang 2018, Theorem 8)."""
    mu = math.sqrt(sum(event.steps / event.noise_multiplier**2 for event in events))
    if mu == 0:
        return 0.0

    def excess(epsilon: float) -> float:
        return float(norm.cdf(mu / 2 - epsilon / mu) - math.exp(epsilon) * norm.cdf(-mu / 2 - epsilon / mu)) - delta

    return float(brentq(excess, 0.0, 100.0)) if excess(0.0) > 0 else 0.0


def statements_of(path: Path, call: Any) -> list[str]:
    """What is asked of the file while something is called; looks on, changes nothing."""
    (connection,) = open_connections(path)
    said: list[str] = []
    connection.set_trace_callback(said.append)
    try:
        call()
    finally:
        connection.set_trace_callback(None)
    return said


def states_of(path: Path) -> dict[str, int]:
    """Number of events in each state."""
    with sqlite3.connect(path) as connection:
        states = dict(connection.execute("SELECT state, COUNT(*) FROM events GROUP BY state"))
    connection.close()
    return states


def open_connections(path: Path) -> list[sqlite3.Connection]:
    """Those of this process to a file."""
    found = []
    for connection in gc.get_objects():
        with suppress(sqlite3.ProgrammingError):  # it is closed
            if type(connection) is sqlite3.Connection and connection.execute("PRAGMA database_list").fetchone()[2] == str(
                path
            ):
                found.append(connection)
    return found
