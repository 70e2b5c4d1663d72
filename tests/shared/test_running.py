"""Whether a server or a node runs, between real processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from shared import running
from shared.errors import ConfigError

_HOLD = """
import sys, time
from pathlib import Path
from shared import running
with running.held(Path(sys.argv[1]), "node"):
    running.write_ready(Path(sys.argv[1]), port=1)
    print("ready", flush=True)
    time.sleep(300)
"""


def test_a_process_is_known_while_it_runs_and_no_longer_after_it_was_killed(tmp_path: Path) -> None:
    assert running.process(tmp_path) is None
    with subprocess.Popen([sys.executable, "-c", _HOLD, str(tmp_path)], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"ready\n"
        assert running.process(tmp_path) == holder.pid
        with pytest.raises(ConfigError, match=r"^Expected a node that is not running, found its process at work\."):
            running.held(tmp_path, "node").__enter__()
        holder.kill()
    assert (tmp_path / "status.json").exists()
    assert running.process(tmp_path) is None


def test_a_process_that_is_not_ready_yet_is_not_said_to_run(tmp_path: Path) -> None:
    (tmp_path / "status.json").write_text('{"pid": 1}')  # of one that was killed
    with running.held(tmp_path, "server"):
        assert running.process(tmp_path) is None
        running.write_ready(tmp_path)
        assert running.process(tmp_path) == os.getpid()
    assert not (tmp_path / "status.json").exists()
