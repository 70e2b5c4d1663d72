"""The command line, and what Python code may call: mounts what `simulations` offers. Heavy imports happen inside."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any


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


def frontier(
    data: str = "synthetic",
    epsilons: Sequence[float] = (0.5, 1.0, 2.0, 4.0, 8.0, float("inf")),
    seeds: int = 3,
    out: str | Path = "frontier",
    **settings: Any,
) -> dict[str, Any]:
    """Measures quality against epsilon; see `simulations.frontier.frontier`.

    Args:
        data: File, folder, or 'synthetic'.
        epsilons: Bounds of the runs; infinity is a run without privacy.
        seeds: Runs of each epsilon.
        out: Folder to write.
        **settings: Any other setting of a run, with two underscores for its dot: `federation__clients=0`.

    Returns:
        The content of `frontier.json`.
    """
    from simulations.frontier import frontier as measure

    return measure(data, epsilons, seeds, out, **settings)


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
