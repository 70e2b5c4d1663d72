"""`tacit node start`: the SuperNode's process, and the worker that answers what it receives, until the node is told to end.

What never lives here: what is answered (`worker.py`).
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import httpx

from client.home import NodeHome
from client.node.in_force import PolicyInForce
from client.node.settings import Settings, read_settings
from client.node.supernode import pause
from client.provisioning import verify_kit, warnings
from shared import running
from shared.errors import ConfigError, TacitError
from shared.files import write_atomically
from shared.processes import child, listens

if TYPE_CHECKING:
    from client.node.runtime import Runtime
    from client.node.worker import Worker

_log = logging.getLogger("tacit.node")
_SECRET = 0o600
_READY_SECONDS = 60.0
# After a SuperNode that ended soon, e.g. because the server does not know the node, each wait is twice as long.
_RESTART_SECONDS, _LONGEST_RESTART_SECONDS, _SOON_SECONDS = 5.0, 300.0, 60.0


def start(home: NodeHome, tell: Callable[[str], None]) -> None:
    """Runs the node until an interruption.

    Args:
        home: Of the node.
        tell: Shows a line to the owner.

    Raises:
        ConfigError: If the node is not provisioned, its kit does not hold now, a setting is wrong, or it runs already.
        PrivacyError: If the ledger cannot be used.
    """
    settings, policy = read_settings(home), PolicyInForce(home)
    verify_kit(home, now=int(time.time()))
    with running.held(home.running, "node"):
        word = policy().approve  # a policy that cannot be read is told now
        _log_to(home.path / "node.log", tell)
        for warning in warnings(home, now=int(time.time())):
            tell(warning)
        how = "by hand" if word == "by-hand" else "within policy.toml"
        tell(f"{settings.name} looks for the server at {settings.server}; runs are approved {how}. Ctrl-C ends it.")
        secret = home.running / "runtime.secret"
        write_atomically(secret, lambda stream: stream.write(secrets.token_bytes(32)), mode=_SECRET)
        try:
            _run(home, settings, policy, secret)
        finally:
            secret.unlink(missing_ok=True)


def _run(home: NodeHome, settings: Settings, policy: PolicyInForce, secret: Path) -> None:
    from client.node.runtime import Runtime
    from client.node.worker import Worker

    port = settings.runtime_port or _free_port()
    worker, wait = Worker(home, settings, policy), _RESTART_SECONDS
    try:
        while True:
            started = time.monotonic()
            with _supernode(home, settings, port, secret) as supernode:
                runtime = _connected(supernode, port, secret, Runtime)
                running.write_ready(home.running, port=port)
                _serve(supernode, runtime, worker, settings.poll_seconds)
            wait = _RESTART_SECONDS if time.monotonic() - started > _SOON_SECONDS else wait
            _log.warning("Not connected; tried again in %.0f seconds. %s", wait, why_not_connected(home))
            time.sleep(wait)
            wait = min(2 * wait, _LONGEST_RESTART_SECONDS)
    finally:
        worker.stop()


def why_not_connected(home: NodeHome) -> str:
    """What the owner can do about a SuperNode that ended: it ends the same way if the server is away or refuses the node."""
    try:
        verify_kit(home, now=int(time.time()))
    except ConfigError as error:
        return str(error)
    return (
        "The server is away, or does not know this node's keys: `tacit node preflight` shows whether it is there. "
        "Flower's own words are in supernode.log."
    )


def _serve(supernode: subprocess.Popen[bytes], runtime: Runtime, worker: Worker, poll_seconds: float) -> None:
    """Answers messages while the SuperNode runs."""
    last = -math.inf
    try:
        while supernode.poll() is None:
            task = None
            try:
                task = runtime.next_task()
                if task is not None:
                    worker.answer(task)
                    last = time.monotonic()
                    continue
            except Exception as error:
                ending = isinstance(error, httpx.TransportError) and task is None  # the loop sees it, and says why
                level = logging.INFO if ending else logging.WARNING
                _log.log(level, "No message could be taken or answered: %s", type(error).__name__)
                if not ending:
                    return  # SuperNode waits for an answer that does not come, so it begins anew
            worker.idle()
            # Each look costs both processes; without a run they look as rarely as Flower does.
            time.sleep(pause(time.monotonic() - last, poll_seconds))
    finally:
        runtime.close()


def _supernode(
    home: NodeHome, settings: Settings, port: int, secret: Path
) -> contextlib.AbstractContextManager[subprocess.Popen[bytes]]:
    arguments = [
        *("--root-certificates", home.authority, "--auth-supernode-private-key", home.supernode_key),
        *("--superlink", settings.server, "--isolation", "process", "--port", port),
        *("--superexec-auth-secret-file", secret),
    ]
    command = [sys.executable, "-m", "client.node.supernode", os.getpid(), settings.poll_seconds, *arguments]
    return child(command, log=home.path / "supernode.log", environment={"FLWR_HOME": str(home.path / "flwr")})


def _connected(supernode: subprocess.Popen[bytes], port: int, secret: Path, kind: type[Runtime]) -> Runtime:
    """The runtime interface, once it listens.

    Raises:
        TacitError: If SuperNode ends before; with the status of a failure, after which systemd starts the node again.
    """
    if listens(supernode, port, seconds=_READY_SECONDS):
        return kind(f"127.0.0.1:{port}", secret)
    raise TacitError(
        "Expected Flower's SuperNode to start, it ended or did not listen. Its log is supernode.log in the node's folder."
    )


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


class _Telling(logging.Handler):
    """Shows warnings to the owner."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        super().__init__(logging.WARNING)
        self._tell = tell

    def emit(self, record: logging.LogRecord) -> None:
        """Shows one."""
        self._tell(record.getMessage())


def _log_to(path: Path, tell: Callable[[str], None]) -> None:
    """Everything goes to the file, and warnings to the owner too."""
    handler = logging.FileHandler(path)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    _log.addHandler(handler)
    _log.addHandler(_Telling(tell))
    _log.setLevel(logging.INFO)
