"""`running/` of a server or a node: held by its process, which says in `status.json` that it is ready.

A process that was killed leaves `status.json` behind, and its number may be another program's by now. So the lock on the
folder tells whether the process is there, and the file alone tells nothing. What never lives here: what the process does.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

from shared.errors import ConfigError
from shared.files import write_json
from shared.folder_claim import claimed, is_claimed

_STATUS = "status.json"


@contextlib.contextmanager
def held(folder: Path, what: str) -> Iterator[None]:
    """Holds the folder for this process; `status.json` is there only from `write_ready` to the end.

    Args:
        folder: `running/`.
        what: `server` or `node`, for the message.

    Raises:
        ConfigError: If another process holds it.
    """
    if is_claimed(folder):
        raise ConfigError(
            f"Expected a {what} that is not running, found its process at work. `tacit {what} status` shows it; end it "
            "before another start."
        )
    with claimed(folder, lambda _: None):
        (folder / _STATUS).unlink(missing_ok=True)  # of a process that was killed
        try:
            yield
        finally:
            (folder / _STATUS).unlink(missing_ok=True)


def write_ready(folder: Path, **fields: int) -> None:
    """Says that this process is ready."""
    write_json(folder / _STATUS, {"pid": os.getpid(), "since": int(time.time()), **fields})


def process(folder: Path) -> int | None:
    """The number of the process that holds the folder and is ready; None where there is none."""
    if not is_claimed(folder):
        return None
    try:
        return int(json.loads((folder / _STATUS).read_text(encoding="utf-8"))["pid"])
    except (OSError, ValueError, KeyError):
        return None
