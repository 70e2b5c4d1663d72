"""Options that the commands of a node share."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from shared.errors import ConfigError, TacitError

Home = Annotated[Path, typer.Option("--home", envvar="TACIT_NODE_HOME", help="The node's folder.")]


def require_consent(question: str) -> None:
    """Passes if the owner says yes.

    Raises:
        TacitError: If the answer is no.
        ConfigError: If there is no terminal to ask at.
    """
    try:
        agreed = typer.confirm(question, default=False, err=True)
    except typer.Abort:
        if sys.stdin.isatty():
            raise
        print(file=sys.stderr)  # noqa: T201
        raise ConfigError("Expected an answer, found no terminal to ask at. Nothing was changed; use --yes.") from None
    if not agreed:
        raise TacitError("Nothing was changed: the answer was no.")
