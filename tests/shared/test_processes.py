"""Processes that belong together, as they end in each way."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from shared.processes import alive, child, listens

ROOT = Path(__file__).parents[2]
STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"


def _until(what: object, seconds: float = 30.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if what():  # type: ignore[operator]
            return True
        time.sleep(0.05)
    return False


def test_a_child_ends_with_its_context_and_its_words_are_kept(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "import os, time; print(os.environ['TOLD'], flush=True); time.sleep(60)"]
    with child(command, log=tmp_path / "log", environment={"TOLD": "something"}) as process:
        assert _until(lambda: (tmp_path / "log").read_text() == "something\n")
        assert process.poll() is None
    assert process.poll() is not None


def test_a_child_that_does_not_end_is_killed(tmp_path: Path) -> None:
    with child([sys.executable, "-c", STUBBORN], log=tmp_path / "log", environment={}, patience=0.2) as process:
        assert _until(lambda: (tmp_path / "log").read_text() == "up\n")
    assert process.returncode == -9


def test_a_port_that_nobody_listens_on_and_a_child_that_ends_are_told(tmp_path: Path) -> None:
    with child([sys.executable, "-c", ""], log=tmp_path / "log", environment={}) as process:
        assert not listens(process, 1, seconds=30)
    serving = """
import socket, time
s = socket.create_server(("127.0.0.1", 0))
print(s.getsockname()[1], flush=True)
time.sleep(60)
"""
    with child([sys.executable, "-c", serving], log=tmp_path / "port", environment={}) as process:
        assert _until(lambda: (tmp_path / "port").read_text().endswith("\n"))
        assert listens(process, int((tmp_path / "port").read_text()), seconds=30)


@pytest.mark.parametrize("patience", [0, 5])
def test_a_child_does_not_outlive_a_parent_that_was_killed(patience: int) -> None:
    grandchild = f"""
import os
from shared.processes import end_with
end_with(os.getppid(), patience={patience})
print(os.getpid(), flush=True)
while True: sum(range(10000))
"""
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {grandchild!r}])"
    process = subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, cwd=ROOT)
    assert process.stdout is not None
    pid = int(process.stdout.readline())
    assert psutil.pid_exists(pid)
    process.kill()
    process.wait()
    assert _until(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)


def test_a_process_does_not_outlive_another_one_that_it_depends_on() -> None:
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    code = f"import time; from shared.processes import end_after; end_after({other.pid}); time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
    try:
        time.sleep(2)
        assert process.poll() is None
        assert alive(other.pid)
        other.kill()
        other.wait()
        assert not alive(other.pid)
        assert process.wait(30) == 1
    finally:
        other.kill()
        process.kill()
