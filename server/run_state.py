"""`state.json`: where a run of a deployment stands, in one word with the first cause, for whoever looks.

    proposed -> waiting -> running -> finished
                              |-> failed, stopped, interrupted

A state is written before what it speaks of goes on, so that a run whose process died says `running` and names a process that
is not there; who reads it then says `interrupted`.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from shared.files import write_json
from shared.processes import alive

FILE: Final = "state.json"
State = Literal["proposed", "waiting", "running", "finished", "failed", "stopped", "interrupted"]
OPEN: Final = ("waiting", "running")


@dataclass(frozen=True)
class RunState:
    """Where a run stands.

    Attributes:
        state: The word.
        reason: The first cause, where it did not end well.
        at: Seconds since 1970.
        pid: Of the process that works on it.
        flower_run: Flower's number of it; empty before it was started.
    """

    state: State
    reason: str
    at: int
    pid: int
    flower_run: str

    @property
    def resumable(self) -> bool:
        """Whether `tacit server run --resume` can go on with it."""
        return self.state in ("failed", "stopped", "interrupted")


def write_state(run_dir: Path, state: State, *, reason: str = "", flower_run: str | None = None) -> None:
    """Writes where a run stands; the first cause of a failure is kept by what comes later."""
    before = _read(run_dir)
    kept = str(before.get("flower_run", "")) if flower_run is None else flower_run
    write_json(
        run_dir / FILE,
        {"state": state, "reason": reason, "at": int(time.time()), "pid": os.getpid(), "flower_run": kept},
    )


def write_stopped(run_dir: Path) -> None:
    """Writes that somebody stopped a run."""
    write_state(run_dir, "stopped", reason=f"It was stopped. Go on with `tacit server run --resume {run_dir.name}`.")


def read_state(run_dir: Path) -> RunState | None:
    """Where a run stands; None where the folder holds none."""
    found = _read(run_dir)
    if not found:
        return None
    state, pid = found["state"], int(found["pid"])
    reason = str(found["reason"])
    if state in OPEN and not alive(pid):
        state = "interrupted"
        reason = f"The server's process ended without a word. Go on with `tacit server run --resume {run_dir.name}`."
    return RunState(state, reason, int(found["at"]), pid, str(found["flower_run"]))


def _read(run_dir: Path) -> dict[str, Any]:
    try:
        found = json.loads((run_dir / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) and {"state", "reason", "at", "pid", "flower_run"} <= set(found) else {}
