"""The command line: mounts what `simulations` offers. Heavy imports happen inside the commands."""

from __future__ import annotations

import contextlib
import os
import sys
import threading


def main() -> None:
    """Runs `tacit`."""
    try:
        from simulations.output import occupy_standard_descriptors

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
