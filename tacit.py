"""The command line: mounts what `simulations` offers. Heavy imports happen inside the commands."""

from __future__ import annotations


def main() -> None:
    """Runs `tacit`."""
    from simulations.cli import run

    run()


if __name__ == "__main__":
    main()
