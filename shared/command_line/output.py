"""What every command prints alike: JSON on stdout, and nothing else there, for programs.

Never here: what a command says to people.
"""

from __future__ import annotations

import json as jsonlib
from typing import Annotated, Any

import typer

Json = Annotated[bool, typer.Option("--json", help="Print JSON alone on stdout.")]


def print_json(value: Any) -> None:
    """Prints ASCII alone: JSON's own escapes are read everywhere, whatever the encoding of the terminal or file."""
    print(jsonlib.dumps(value, indent=1, allow_nan=False))  # noqa: T201
