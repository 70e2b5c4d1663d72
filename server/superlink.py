"""`tacit server start`: Flower's SuperLink on loopback, with TLS, node authentication and a database, and the nodes that may
connect to it.

Nodes are registered and unregistered as the records say (`provisioning/members.py`), every few seconds and at once after a
command that changes them. What never lives here: a run (`deployment.py`).
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from server.flower_commands import FlowerFailed, connection, flower, write_connection
from server.home import HOME_VARIABLE, PROCESS_VARIABLE, ServerHome
from server.provisioning.members import Member, members
from server.provisioning.members import warnings as expiry_warnings
from server.settings import read_settings
from shared import running
from shared.errors import ConfigError
from shared.files import write_json
from shared.processes import child, listens

_log = logging.getLogger("tacit.server")
_READY_SECONDS = 60.0
_SYNC_SECONDS = 5.0


def start(home: ServerHome, tell: Callable[[str], None]) -> None:
    """Runs the SuperLink until an interruption.

    Args:
        home: Of the server.
        tell: Shows a line to the operator.

    Raises:
        ConfigError: If the folder is no server's, the port is taken, or it runs already.
        FlowerFailed: If the SuperLink does not start, or ends by itself.
    """
    settings = read_settings(home)
    for warning in expiry_warnings(home, now=int(time.time())):
        tell(warning)
    with running.held(home.running, "server"):
        _verify_free(settings.superlink_port)
        write_connection(home)
        with _superlink(home, settings.superlink_port) as process:
            if not listens(process, settings.superlink_port, seconds=_READY_SECONDS):
                raise FlowerFailed(
                    "Expected Flower's SuperLink to start, it did not. Its log is superlink.log in the server's folder."
                )
            synchronize(home)
            running.write_ready(home.running)
            tell(
                f"The server listens on 127.0.0.1:{settings.superlink_port}; nodes reach it through the proxy (nginx.conf)."
            )
            _watch(home, process)


def synchronize(home: ServerHome) -> list[str]:
    """Makes the SuperLink's list of nodes that of the records; returns what was done, in words.

    Raises:
        FlowerFailed: If the SuperLink cannot be reached.
    """
    wanted = {member.name: member for member in members(home) if member.state(int(time.time())) == "active"}
    known, done = _registered(home), []
    for name, one in list(known.items()):
        if name not in wanted or wanted[name].keys.supernode_key != one["key"]:
            _unregister(home, one["number"])
            del known[name]
            _note(home, known)
            done.append(f"{name} may not connect any more")
    for name, member in wanted.items():
        if name not in known:
            known[name] = {"number": _register(home, member), "key": member.keys.supernode_key}
            _note(home, known)
            done.append(f"{name} may connect")
    return done


def _registered(home: ServerHome) -> dict[str, dict[str, str]]:
    """Name -> Flower's number and the public key of each registered node, as far as Flower's database still knows it."""
    try:
        noted = json.loads(home.registered.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        noted = {}
    numbers = _numbers(home)
    return {name: one for name, one in noted.items() if one["number"] in numbers}


def _numbers(home: ServerHome) -> set[str]:
    """Flower's numbers of the nodes that may connect."""
    listed = flower(home, "supernode", "list", connection())["nodes"]
    return {node["node-id"] for node in listed if node["status"] not in ("deleted", "unregistered")}


def _unregister(home: ServerHome, number: str) -> None:
    """Unregisters a node; the server's process and a command may do so at once, and the later one finds it done."""
    try:
        flower(home, "supernode", "unregister", number, connection())
    except FlowerFailed:
        if number in _numbers(home):
            raise


def _note(home: ServerHome, known: Mapping[str, Mapping[str, str]]) -> None:
    write_json(home.registered, known)


def _register(home: ServerHome, member: Member) -> str:
    """Registers a node; returns Flower's number of it."""
    with tempfile.NamedTemporaryFile("w", suffix=".pub") as file:
        file.write(member.keys.supernode_key + "\n")
        file.flush()
        return str(flower(home, "supernode", "register", file.name, connection(), "--name", member.name)["node-id"])


def _watch(home: ServerHome, process: subprocess.Popen[bytes]) -> None:
    """Keeps the list of nodes right while the SuperLink runs.

    Raises:
        FlowerFailed: If the SuperLink ends by itself; with the status of a failure, after which systemd starts it again.
    """
    changed = _stamp(home)
    while process.poll() is None:
        time.sleep(_SYNC_SECONDS)
        found = _stamp(home)
        if found == changed:
            continue
        try:
            for line in synchronize(home):
                _log.info(line)
            changed = found
        except (FlowerFailed, ConfigError) as error:
            _log.warning("%s", error)
    raise FlowerFailed("Expected Flower's SuperLink to run, it ended. Its own log is superlink.log in the server's folder.")


def _stamp(home: ServerHome) -> tuple[object, ...]:
    """What tells whether a record has changed, or has come to its end."""
    hour = int(time.time()) // 3600
    files = sorted(home.nodes.glob("*.json")) if home.nodes.is_dir() else []
    return (hour, *((path.name, path.stat().st_mtime_ns) for path in files))


def _superlink(home: ServerHome, port: int) -> contextlib.AbstractContextManager[subprocess.Popen[bytes]]:
    arguments = [
        *("--ssl-ca-certfile", home.authority, "--ssl-certfile", home.certificate, "--ssl-keyfile", home.certificate_key),
        *("--enable-supernode-auth", "--host", "127.0.0.1", "--port", port, "--database", home.superlink_database),
        "--disable-runtime-dependency-installation",
    ]
    command = [sys.executable, "-m", "server.superlink_process", os.getpid(), *arguments]
    environment = {
        "FLWR_HOME": str(home.flower.absolute()),
        HOME_VARIABLE: str(home.path.absolute()),
        PROCESS_VARIABLE: str(os.getpid()),
        # Flower starts its helpers by name.
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
    }
    return child(command, log=home.path / "superlink.log", environment=environment)


def _verify_free(port: int) -> None:
    with socket.socket() as found:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            found.bind(("127.0.0.1", port))
        except OSError:
            raise ConfigError(
                f"Expected a free port, found superlink_port={port} taken. End what listens there, or set another in "
                "server.toml."
            ) from None
