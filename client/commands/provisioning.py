"""`tacit node request` and `tacit node install`: how a node joins a federation, and renews its kit.

Nothing heavy is imported at the top. What never lives here: the rules (`client/provisioning.py`).
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from client.commands.options import Home
from shared.command_line.output import Json, print_json

if TYPE_CHECKING:
    from client.home import NodeHome

_HOME = Path("~/.tacit/node")


def request(
    name: Annotated[str, typer.Option("--name", help="Name of the node: lower-case letters, digits, hyphens.")],
    out: Annotated[Path, typer.Option("--out", help="File of the request; must not exist.")],
    home: Home = _HOME,
    json: Json = False,
) -> None:
    """Make this node's keys, and a request for the server's operator.

    The secret keys stay in the folder `keys`. Keys that are there already are used again.
    """
    from client import provisioning

    made = provisioning.request(_home(home), name, out, now=_now())
    if json:
        print_json({"name": name, "request": str(out), "new_keys": made})
        return
    keys = "Made this node's keys" if made else "Used the keys that this node has"
    _say(f"{keys}, and wrote a request for {name}: {out}")
    _say("Send it to the server's operator. It holds no secret.")


def install(
    kit: Annotated[Path, typer.Argument(help="File that `tacit server approve` or `tacit server renew` wrote.")],
    fingerprint: Annotated[str, typer.Option("--fingerprint", help="What the server's operator told you, 64 digits.")],
    home: Home = _HOME,
    json: Json = False,
) -> None:
    """Install the kit that the server's operator signed for this node.

    A newer kit takes the place of an older one. Settings that are there stay as they are.
    """
    from client import provisioning
    from shared.provisioning.fields import endpoint
    from shared.provisioning.validity import date

    installed = provisioning.install(_home(home), kit, fingerprint, now=_now())
    server = endpoint(installed.hosts[0], installed.port)
    if json:
        print_json({"name": installed.name, "server": server, "valid_until": installed.valid_until})
        return
    _say(f"Installed the kit of {installed.name}, for the server at {server}. It holds until {date(installed.valid_until)}.")


def _home(folder: Path) -> NodeHome:
    from client.home import NodeHome

    return NodeHome(folder.expanduser().absolute())


def _now() -> int:
    return int(time.time())


def _say(text: str) -> None:
    print(text)  # noqa: T201
