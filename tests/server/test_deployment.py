"""The app of a deployment: it leaves the state of a run alone that was stopped, or that another process works on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Context, RecordDict

from server.deployment import main
from server.home import HOME_VARIABLE, ServerHome
from server.run_state import read_state, write_state
from shared.errors import ConfigError

_HOLD = """
import sys, time
from pathlib import Path
from shared.folder_claim import claimed
with claimed(Path(sys.argv[1]), lambda folder: None):
    print("held", flush=True)
    time.sleep(300)
"""


def _begin(home: ServerHome, monkeypatch: pytest.MonkeyPatch) -> None:
    """Starts the app as Flower's run 7; without a run file it cannot get far."""
    monkeypatch.setenv(HOME_VARIABLE, str(home.path))
    grid: Any = None
    main(grid, Context(run_id=7, node_id=0, node_config={}, state=RecordDict(), run_config={"folder": "autumn"}))


def test_a_run_that_was_stopped_before_its_app_came_to_work_stays_stopped(
    server_home: ServerHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir = server_home.runs / "autumn"
    write_state(run_dir, "stopped", flower_run="7")
    before = read_state(run_dir)
    _begin(server_home, monkeypatch)
    assert read_state(run_dir) == before
    write_state(run_dir, "stopped", flower_run="6")  # and resumed by run 7, which begins and fails for want of a run file
    with pytest.raises(ConfigError, match=r"run-file\.json"):
        _begin(server_home, monkeypatch)
    found = read_state(run_dir)
    assert found is not None
    assert (found.state, found.flower_run) == ("failed", "7")


def test_a_second_app_leaves_the_state_of_a_live_run_alone(server_home: ServerHome, monkeypatch: pytest.MonkeyPatch) -> None:
    run_dir: Path = server_home.runs / "autumn"
    write_state(run_dir, "running", flower_run="6")
    before = read_state(run_dir)
    with subprocess.Popen([sys.executable, "-c", _HOLD, str(run_dir)], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(ConfigError, match="no other process"):
            _begin(server_home, monkeypatch)
        holder.kill()
    assert read_state(run_dir) == before
