"""The files with which an operator runs a server: the proxy's configuration, systemd units, a compose file.

They name the server's folder by its absolute path and hold no secret. The proxy ends TLS on the public port and forwards
what nodes need, `/v1/fleet/`, and nothing else: the rest of a SuperLink's interface starts runs and registers nodes, without
asking who calls.

What never lives here: starting anything. The templates are beside this file.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from server.home import ServerHome
from server.settings import ServerSettings
from shared.errors import ConfigError
from shared.files import write_atomically

NAMES: Final = ("nginx.conf", "tacit-server.service", "tacit-node.service", "compose.yaml")
# Flower sends arrays in pieces of 5 MiB, and each message and piece is a request of its own.
LARGEST_REQUEST_MEGABYTES: Final = 16
# What neither nginx, systemd nor YAML reads as anything but itself.
_PLAIN_PATH = re.compile(r"/[\w./@+-]*")
_TEMPLATES = Path(__file__).parent / "templates"


def verify_path(folder: Path) -> Path:
    """The absolute path of a folder, if configurations of other programs can name it.

    Raises:
        ConfigError: If it holds a blank or another mark.
    """
    path = folder.resolve()
    if not _PLAIN_PATH.fullmatch(str(path)):
        raise ConfigError(
            "Expected a folder whose path has letters, digits and . _ - + @ alone, got another one. nginx and systemd read "
            "its name: choose another folder."
        )
    return path


def write_service_files(folder: Path, home: ServerHome, settings: ServerSettings, program: Path) -> None:
    """Writes all of them.

    Args:
        folder: Where to.
        home: The server's folder, whose absolute path they name.
        settings: Hosts and ports.
        program: The command `tacit` of this installation.
    """
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES), undefined=StrictUndefined, keep_trailing_newline=True, autoescape=False
    )
    values = {
        "home": home,
        "settings": settings,
        "program": program,
        "server_names": " ".join(f"[{host}]" if ":" in host else host for host in settings.hosts),
        "largest_request": f"{LARGEST_REQUEST_MEGABYTES}m",
        "user": f"{os.getuid()}:{os.getgid()}",
    }
    for name in NAMES:
        _write(folder / name, environment.get_template(name).render(values))


def _write(path: Path, text: str) -> None:
    write_atomically(path, lambda stream: stream.write(text.encode()))
