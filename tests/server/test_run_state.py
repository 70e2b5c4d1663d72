"""Where a run stands: the word outlives the process, and a process that died without one is noticed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from server.run_state import FILE, read_state, write_state


def test_a_state_keeps_flowers_number_and_the_first_cause(tmp_path: Path) -> None:
    assert read_state(tmp_path) is None
    write_state(tmp_path, "waiting", flower_run="77")
    write_state(tmp_path, "failed", reason="Too few nodes.")
    found = read_state(tmp_path)
    assert found is not None
    assert (found.state, found.reason, found.flower_run, found.pid) == ("failed", "Too few nodes.", "77", os.getpid())
    assert found.resumable


@pytest.mark.parametrize("state", ["waiting", "running"])
def test_an_open_run_without_its_process_is_interrupted(tmp_path: Path, state: str) -> None:
    code = "import sys, pathlib, server.run_state as s; s.write_state(pathlib.Path(sys.argv[1]), sys.argv[2])"
    subprocess.run([sys.executable, "-c", code, str(tmp_path), state], check=True, cwd=Path(__file__).parents[2])
    found = read_state(tmp_path)
    assert found is not None
    assert (found.state, found.resumable) == ("interrupted", True)
    write_state(tmp_path, state)  # type: ignore[arg-type]
    found = read_state(tmp_path)
    assert found is not None
    assert (found.state, found.resumable) == (state, False)


@pytest.mark.parametrize("content", ["", "{}", "[1]", '{"state": "running"}'])
def test_a_damaged_file_is_no_state(tmp_path: Path, content: str) -> None:
    (tmp_path / FILE).write_text(content)
    assert read_state(tmp_path) is None


def test_a_finished_run_stays_finished_whatever_became_of_its_process(tmp_path: Path) -> None:
    write_state(tmp_path, "finished")
    value = json.loads((tmp_path / FILE).read_text())
    (tmp_path / FILE).write_text(json.dumps({**value, "pid": 2**22 + 1}))
    found = read_state(tmp_path)
    assert found is not None
    assert found.state == "finished"
