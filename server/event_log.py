"""`events.jsonl`: what happened in a run, one JSON object a line; the display, the record and the reports read it.

What was asked of clients is written before it is asked: a round that was interrupted and asked for again may have been
answered twice, and no epsilon may say less than the clients' ledgers.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

EVENTS = "events.jsonl"
_PROGRESS_SECONDS = 2.0


@dataclass(frozen=True)
class Asked:
    """What clients were ever asked for in a run, as `PrivacyPlan.events` takes it.

    Attributes:
        rounds: Rounds of training, repeated ones each time.
        repeated: How many of them were repetitions.
        popularity_releases: Releases of the popularity count.
        evaluations: Releases of metrics.
    """

    rounds: int
    repeated: int
    popularity_releases: int
    evaluations: int


@dataclass(frozen=True)
class EventLog:
    """The event file of one run.

    Attributes:
        path: The file; it need not exist.
    """

    path: Path

    def append(self, event: str, **fields: Any) -> None:
        """Writes one event."""
        with self.path.open("ab+") as stream:
            # A killed process may have left half a line, which must not swallow this one.
            torn = False
            if stream.seek(0, os.SEEK_END):
                stream.seek(-1, os.SEEK_END)
                torn = stream.read(1) != b"\n"
            line = json.dumps({"event": event, **fields}, allow_nan=False)
            stream.write(f"{chr(10) * torn}{line}\n".encode())
            stream.flush()
            if event != "progress":
                os.fsync(stream.fileno())  # a request must not be forgotten that a client's ledger remembers

    def progress(self, what: str, *, round_number: int, asked: int) -> Callable[[int], None]:
        """Something to call with the number of clients that answered so far; it writes an event every other second."""
        last = time.monotonic()

        def answered(count: int) -> None:
            nonlocal last
            if time.monotonic() - last >= _PROGRESS_SECONDS:
                last = time.monotonic()
                fields = {"what": what, "round_number": round_number, "clients_asked": asked}
                self.append("progress", clients_answered=count, **fields)

        return answered

    def read(self) -> list[dict[str, Any]]:
        """Every whole event; half a line, left by a killed process, is none."""
        if not self.path.exists():
            return []
        events = []
        for line in self.path.read_text(encoding="utf-8").splitlines():
            try:
                events.append(json.loads(line))
            except ValueError:
                continue
        return events

    def asked(self) -> Asked:
        """How often each purpose was ever asked for."""
        events = [event for event in self.read() if event.get("event") == "asked"]
        purposes = [event["purpose"] for event in events]
        rounds = [event["round_number"] for event in events if event["purpose"] == "train"]
        return Asked(
            rounds=len(rounds),
            repeated=len(rounds) - len(set(rounds)),
            popularity_releases=purposes.count("popularity"),
            evaluations=purposes.count("evaluate"),
        )
