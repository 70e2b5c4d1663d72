"""The rounds of a run as rows: what the server announced of each, and what the simulator measured.

Lives here: reading both files. Never here: measuring (`evaluation.py`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from server.event_log import EventLog
from shared.errors import CheckpointError
from shared.run_folder import EVENTS

FOLDER: Final = "evaluation"
ROUNDS: Final = "rounds.jsonl"


def read_rounds(run_dir: Path) -> list[dict[str, Any]]:
    """The finished rounds of a run with what the simulator measured of each; a repeated round counts with its last result.

    Raises:
        CheckpointError: If the event file, or the file of what was measured, is damaged.
    """
    measured = measured_rounds(run_dir)
    rounds: dict[int, dict[str, Any]] = {}
    for event in EventLog(run_dir / EVENTS).read():
        if event["event"] == "round":
            row = {key: value for key, value in event.items() if key != "event"}
            number = row["round_number"]
            rounds[number] = {"training_loss": None, "validation": None, **row, **measured.get(number, {})}
    return [rounds[number] for number in sorted(rounds)]


def measured_rounds(run_dir: Path) -> dict[int, Mapping[str, Any]]:
    """What was measured after each round, by its number; a round that was repeated counts with its last result.

    Raises:
        CheckpointError: If the file is damaged.
    """
    path = run_dir / FOLDER / ROUNDS
    if not path.exists():
        return {}
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        return {int(row["round_number"]): row for row in rows}
    except (ValueError, KeyError, TypeError):
        raise CheckpointError(
            f"Expected one JSON object a line in {FOLDER}/{ROUNDS}, found something else. The file is damaged; remove it to "
            "do without what it says of earlier rounds."
        ) from None
