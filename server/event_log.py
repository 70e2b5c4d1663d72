"""`events.jsonl`: what happened in a run, one JSON object a line; the display, the record and the reports read it.

What was asked of clients is written before it is asked: a round that was interrupted and asked for again may have been
answered twice, and no epsilon may say less than the clients' ledgers.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

EVENTS = "events.jsonl"


@dataclass(frozen=True)
class EventLog:
    """The event file of one run.

    Attributes:
        path: The file; it need not exist.
    """

    path: Path

    def append(self, event: str, **fields: Any) -> None:
        """Writes one event."""
        line = json.dumps({"event": event, **fields}, allow_nan=False)
        # A killed process may have left half a line, which must not swallow this one.
        torn = self.path.exists() and self.path.stat().st_size > 0 and not self.path.read_bytes().endswith(b"\n")
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(("\n" if torn else "") + line + "\n")

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

    def asked(self) -> dict[str, int]:
        """How often each purpose was ever asked for: `train`, `popularity`, `evaluate`."""
        counts = {"train": 0, "popularity": 0, "evaluate": 0}
        for event in self.read():
            if event.get("event") == "asked":
                counts[event["purpose"]] += 1
        return counts
