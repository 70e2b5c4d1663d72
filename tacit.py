"""The command line, and what Python code may call: `tacit.simulate("ml-100k", epsilon=8).recommender().recommend(["50"])`.

Lives here: names alone; what they stand for is loaded when it is first used, so that `tacit --help` answers at once.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from shared.errors import ConfigError, DataError, PrivacyError, TacitError
    from simulations.finished_run import Run
    from simulations.frontier import frontier
    from simulations.interface import compare, load, plan, read, simulate
    from simulations.recommendation import Recommendation, Recommender

__all__ = [
    "ConfigError",
    "DataError",
    "PrivacyError",
    "Recommendation",
    "Recommender",
    "Run",
    "TacitError",
    "compare",
    "frontier",
    "load",
    "main",
    "plan",
    "read",
    "simulate",
]

_HOMES = {
    "simulations.interface": ("simulate", "load", "read", "plan", "compare"),
    "simulations.frontier": ("frontier",),
    "simulations.finished_run": ("Run",),
    "simulations.recommendation": ("Recommender", "Recommendation"),
    "shared.errors": ("TacitError", "ConfigError", "DataError", "PrivacyError"),
}


def __getattr__(name: str) -> Any:
    """Loads a name of the Python interface when it is first used."""
    for module, names in _HOMES.items():
        if name in names:
            found = getattr(importlib.import_module(module), name)
            globals()[name] = found
            return found
    raise AttributeError(f"module 'tacit' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)


def main() -> None:
    """Runs `tacit`."""
    try:
        from shared.command_line.streams import occupy_standard_descriptors

        occupy_standard_descriptors()
        from simulations.cli import run

        run()
    except KeyboardInterrupt:  # while modules were loading
        print("tacit: Interrupted.", file=sys.stderr)  # noqa: T201
        raise SystemExit(130) from None
    except SystemExit as error:
        _leave(error)


def _leave(error: SystemExit) -> None:
    """Leaves with the status of a command that failed, also where a library's threads would keep the process for ever."""
    if error.code and any(thread is not threading.main_thread() and not thread.daemon for thread in threading.enumerate()):
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()
        os._exit(error.code if isinstance(error.code, int) else 1)
    raise error


if __name__ == "__main__":
    main()
