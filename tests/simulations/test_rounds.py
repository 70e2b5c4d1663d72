"""The rows of a run's rounds."""

from __future__ import annotations

import json
from pathlib import Path

from simulations.rounds import read_rounds


def test_rounds_are_read_once_each_and_half_a_line_is_skipped(tmp_path: Path) -> None:
    assert read_rounds(tmp_path) == []
    lines = [
        {"event": "started"},
        {"event": "round", "round_number": 1, "seconds": 3.0},
        {"event": "round", "round_number": 2, "seconds": 2.0},
        {"event": "round", "round_number": 2, "seconds": 1.0},
    ]
    measured = [{"round_number": 1, "training_loss": 4.0, "validation": {"hr@5": 0.5}}]
    (tmp_path / "evaluation").mkdir()
    (tmp_path / "evaluation" / "rounds.jsonl").write_text(json.dumps(measured[0]) + "\n", encoding="utf-8")
    text = "\n".join(json.dumps(line) for line in lines) + '\n{"event": "round", "round_nu'
    (tmp_path / "events.jsonl").write_text(text, encoding="utf-8")
    assert read_rounds(tmp_path) == [
        {"round_number": 1, "seconds": 3.0, "training_loss": 4.0, "validation": {"hr@5": 0.5}},
        {"round_number": 2, "seconds": 1.0, "training_loss": None, "validation": None},
    ]
