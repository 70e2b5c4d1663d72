"""The SuperLink's process: Flower's own, ended with the command that started it.

Started as `python -m server.superlink_process PARENT ...` with the arguments of `flower-superlink`.
"""

from __future__ import annotations

import sys

from shared.command_line.environment import prepare_environment
from shared.processes import end_with


def main() -> None:
    """Runs Flower's SuperLink."""
    parent = int(sys.argv[1])
    prepare_environment()
    end_with(parent, patience=10)
    from flwr.superlink.cli import flower_superlink

    sys.argv = ["flower-superlink", *sys.argv[2:]]
    flower_superlink()


if __name__ == "__main__":
    main()
