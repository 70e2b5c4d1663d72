"""Options that the commands of a server share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Server = Annotated[Path, typer.Option("--server", envvar="TACIT_SERVER_HOME", help="The server's folder.")]
