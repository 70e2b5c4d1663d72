"""Flower's own commands (`flwr`): start a run, list runs, stop one, register nodes.

They talk to the SuperLink over loopback, where nobody else may reach it. What never lives here: the SuperLink's process
(`superlink.py`).
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from server.home import ServerHome
from server.settings import read_settings
from shared.errors import TacitError
from shared.files import write_atomically

_CONNECTION = "tacit"
_LONGEST_SECONDS = 120.0


class FlowerFailed(TacitError):  # noqa: N818
    """A command of Flower failed, or its SuperLink cannot be reached."""


def flower(home: ServerHome, *arguments: str) -> dict[str, Any]:
    """Runs a command of `flwr` in a process of its own, and returns what it prints as JSON.

    Args:
        home: Of the server.
        arguments: Without `flwr` and the format.

    Raises:
        FlowerFailed: If it fails; the message is what Flower says.
    """
    try:
        done = subprocess.run(
            [str(Path(sys.executable).parent / "flwr"), *arguments, "--format", "json"],
            capture_output=True,
            text=True,
            env={**os.environ, "FLWR_HOME": str(home.flower.absolute())},
            timeout=_LONGEST_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise FlowerFailed(
            f"Flower's command gave no answer within {_LONGEST_SECONDS:.0f} seconds. `tacit server status` shows whether it "
            "was done; superlink.log in the server's folder may say why."
        ) from None
    found = _json(done.stdout)
    if done.returncode or not isinstance(found, dict) or not found.get("success"):
        said = found.get("error-message") if isinstance(found, dict) else done.stdout or done.stderr
        line = " ".join(str(said).split())[:300].rstrip(". ") or "it gave no reason"
        raise FlowerFailed(f"Flower's command failed: {line}. Is the server running (`tacit server start`)?")
    return found


def connection() -> str:
    """The name of the connection, as Flower's commands take it."""
    return _CONNECTION


def write_connection(home: ServerHome) -> None:
    """Writes Flower's configuration of the connection to this server's SuperLink."""
    port = read_settings(home).superlink_port
    text = (
        f'[superlink]\ndefault = "{_CONNECTION}"\n\n[superlink.{_CONNECTION}]\naddress = "localhost:{port}"\n'
        f"root-certificates = {json.dumps(str(home.authority.absolute()))}\n"
    )
    write_atomically(home.flower / "config.toml", lambda stream: stream.write(text.encode()))


def _json(text: str) -> Any:
    """The last JSON object of an output that may begin with other lines."""
    decoder = json.JSONDecoder()
    for place in (index for index, sign in enumerate(text) if sign == "{"):
        with contextlib.suppress(ValueError):
            return decoder.raw_decode(text[place:])[0]
    return None
