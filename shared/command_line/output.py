"""What every command prints alike: JSON on stdout, and nothing else there, for programs.

Never here: what a command says to people.
"""

from __future__ import annotations

import json as jsonlib
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from shared.command_line.checks import Check

Json = Annotated[bool, typer.Option("--json", help="Print JSON alone on stdout.")]


def print_json(value: Any) -> None:
    """Prints ASCII alone: JSON's own escapes are read everywhere, whatever the encoding of the terminal or file."""
    print(jsonlib.dumps(value, indent=1, allow_nan=False))  # noqa: T201


def print_checks(checks: Sequence[Check], *, json: bool) -> None:
    """Prints the rows of a preflight; ends with status 1 where something is not right."""
    wrong = [check for check in checks if check.ok is False]
    if json:
        print_json({"ok": not wrong, "checks": [asdict(check) for check in checks]})
    else:
        for check in checks:
            mark = {True: "ok", False: "NO", None: "--"}[check.ok]
            advice = "" if check.ok or not check.advice else f"  -> {check.advice}"
            print(f"{mark:>3}  {check.name}: {check.value}{advice}")  # noqa: T201
    if wrong:
        raise SystemExit(1)
