"""Options that the commands of a node share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Home = Annotated[Path, typer.Option("--home", envvar="TACIT_NODE_HOME", help="The node's folder.")]
