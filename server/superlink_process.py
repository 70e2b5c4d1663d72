"""The SuperLink's process: Flower's own, ended with the command that started it.

Started as `python -m server.superlink_process PARENT ...` with the arguments of `flower-superlink`.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time

from shared.command_line.environment import prepare_environment

_WATCH_SECONDS = 0.5


def main() -> None:
    """Runs Flower's SuperLink."""
    parent = int(sys.argv[1])
    prepare_environment()
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    from flwr.superlink.cli import flower_superlink

    sys.argv = ["flower-superlink", *sys.argv[2:]]
    flower_superlink()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_WATCH_SECONDS)
    signal.raise_signal(signal.SIGTERM)
    time.sleep(10)
    os._exit(1)


if __name__ == "__main__":
    main()
