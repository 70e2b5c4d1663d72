"""Processes that belong together: a parent ends its child, and a child ends with its parent, however that one ends."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

_WATCH_SECONDS = 0.5


@contextlib.contextmanager
def child(
    command: Sequence[object], *, log: Path, environment: Mapping[str, str], patience: float = 15.0
) -> Iterator[subprocess.Popen[bytes]]:
    """A process for as long as the context lasts.

    Args:
        command: Program and arguments.
        log: File that its output is appended to.
        environment: Variables beside this process's own.
        patience: Seconds that it has to end by itself; then it is killed.
    """
    with log.open("ab") as output:
        process = subprocess.Popen(
            [str(part) for part in command],
            stdout=output,
            stderr=output,
            stdin=subprocess.DEVNULL,
            env={**os.environ, **environment},
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(patience)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def listens(process: subprocess.Popen[bytes], port: int, *, seconds: float) -> bool:
    """Waits until a child listens on a port of loopback; false where it ends before, or takes longer."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
        time.sleep(0.1)
    return False


def end_with(parent: int, *, patience: float = 0.0) -> None:
    """Ends this process within a second of its parent, also in the middle of a computation.

    Args:
        parent: Process number.
        patience: Seconds between SIGTERM, which lets the process close what is open, and the end.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_WATCH_SECONDS)
        if patience:
            signal.raise_signal(signal.SIGTERM)
            time.sleep(patience)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def end_after(other: int) -> None:
    """Ends this process within a second of another one that is not its parent.

    Args:
        other: Process number.
    """

    def watch() -> None:
        while alive(other):
            time.sleep(_WATCH_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and was not waited for does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    try:
        return " Z " not in Path(f"/proc/{pid}/stat").read_text()[-400:]
    except OSError:
        return True
