"""The command line: mounts what `simulations` offers. Heavy imports happen inside the commands."""

from __future__ import annotations

import sys


def main() -> None:
    """Runs `tacit`."""
    try:
        from simulations.cli import run

        run()
    except KeyboardInterrupt:  # while modules were loading
        print("tacit: Interrupted.", file=sys.stderr)  # noqa: T201
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
