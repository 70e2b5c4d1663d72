"""`tacit server init`, `approve`, `renew`, `revoke` and `nodes`: who may take part in a federation.

Nothing heavy is imported at the top. What never lives here: the rules (`server/provisioning/`).
"""

from __future__ import annotations

import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from server.commands.options import Server
from shared.command_line.output import Json, print_json
from shared.errors import ConfigError

if TYPE_CHECKING:
    from server.home import ServerHome
    from server.provisioning.members import Revocation
    from shared.provisioning.kit import Kit

_HERE = Path()

Days = Annotated[int, typer.Option("--days", help="How many days it holds.")]
Out = Annotated[Path, typer.Option("--out", help="File of the kit; must not exist.")]
Passphrase = Annotated[
    Path | None,
    typer.Option(
        "--passphrase-file", help="File whose first line is the passphrase of the authority's key; default: ask for it."
    ),
]


def init(
    folder: Annotated[Path, typer.Argument(help="New or empty folder of the server.")],
    host: Annotated[
        list[str], typer.Option("--host", help="DNS name or address at which nodes reach the server; may be repeated.")
    ],
    port: Annotated[int, typer.Option("--port", help="Public port of the proxy.")] = 8443,
    superlink_port: Annotated[int, typer.Option("--superlink-port", help="Port of the SuperLink, on loopback.")] = 9091,
    days: Days = 365,
    passphrase_file: Passphrase = None,
    json: Json = False,
) -> None:
    """Make a server: certificate authority, certificate, keys, settings, and the files of its services.

    The authority's key is encrypted with a passphrase, which renewing the server's certificate asks for. Nodes compare the
    fingerprint that is printed.
    """
    from server.provisioning.authority import ends, read_certificate
    from server.provisioning.members import server_fingerprint
    from server.provisioning.new_server import make_server, verify_place, verify_settings
    from shared.provisioning.validity import date, verify_days

    settings = verify_settings(host, port, superlink_port)
    verify_place(folder)  # before a passphrase is asked for in vain
    verify_days(days, now=_now())
    passphrase = _passphrase(passphrase_file, new=True)
    home = make_server(folder, settings, days=days, passphrase=passphrase, now=_now())
    until = {name: ends(read_certificate(path)) for name, path in _certificates(home).items()}
    fingerprint = server_fingerprint(home)
    if json:
        print_json({"server": str(home.path), "fingerprint": fingerprint, **settings.model_dump(mode="json"), **until})
        return
    _say(f"Made a server in {home.path}; its certificate holds until {date(until['certificate_valid_until'])}.")
    _say(f"Fingerprint: {fingerprint}")
    _say("Tell it to the owners of nodes over a channel that they trust. Keep copies of authority/ and of the passphrase.")


def approve(
    request: Annotated[Path, typer.Argument(help="File that `tacit node request` wrote.")],
    out: Out,
    server: Server = _HERE,
    days: Days = 365,
    json: Json = False,
) -> None:
    """Approve a node's request and write its kit.

    Ask the node's owner first whether the request is theirs.
    """
    from server.provisioning import members
    from shared.provisioning.request import read_request

    home = _home(server)
    kit = members.approve(home, read_request(request), out, days=days, now=_now())
    _print_kit(home, kit, out, "Approved", json=json)


def renew(
    name: Annotated[str | None, typer.Argument(help="Name of the node whose kit is renewed.")] = None,
    certificate: Annotated[
        bool, typer.Option("--certificate", help="Renew the server's certificate instead of a node's kit.")
    ] = False,
    out: Annotated[Path | None, typer.Option("--out", help="File of the kit; must not exist.")] = None,
    server: Server = _HERE,
    days: Days = 365,
    passphrase_file: Passphrase = None,
    json: Json = False,
) -> None:
    """Renew a node's kit, for the same keys, or the server's certificate.

    The certificate is made for the hosts of server.toml, with the same key. nginx and the server take it when they are
    reloaded.
    """
    from server.provisioning import authority, members
    from server.settings import read_settings
    from shared.provisioning.validity import date

    home = _home(server)
    if (name is None) == (not certificate):
        raise ConfigError("Expected the name of a node or --certificate, and not both. Name what to renew.")
    if name is not None:
        if out is None:
            raise ConfigError("Expected --out, got none. Name the file of the new kit.")
        _print_kit(home, members.renew(home, name, out, days=days, now=_now()), out, "Renewed", json=json)
        return
    hosts = read_settings(home).hosts
    made = authority.renew_certificate(home, _passphrase(passphrase_file), hosts, days=days, now=_now())
    until = authority.ends(made)
    if json:
        print_json({"hosts": hosts, "certificate_valid_until": until})
    else:
        _say(f"Renewed the server's certificate; it holds until {date(until)}. Reload nginx and restart the server.")


def revoke(
    name: Annotated[str, typer.Argument(help="Name of the node.")], server: Server = _HERE, json: Json = False
) -> None:
    """Revoke a node's keys, at once and permanently. The record of the node stays."""
    from server.provisioning import members

    home = _home(server)
    revocation = members.revoke(home, name, now=_now())
    withdrawn = withdraw_from_superlink(home, revocation)
    if json:
        print_json({"name": name, "state": "revoked", "already": revocation.already, "withdrawn": withdrawn})
        return
    _say(f"{name} was revoked already." if revocation.already else f"Revoked {name}.")
    if not withdrawn:
        _say("No running server was told; one that runs elsewhere notices within seconds, one that starts knows it.")


def left(
    statement: Annotated[Path, typer.Argument(help="What `tacit node leave` wrote.")],
    server: Server = _HERE,
    json: Json = False,
) -> None:
    """Take in the signed statement of a node that has left, and revoke the node's keys."""
    from server.provisioning import departures, members
    from shared.wording import at_most

    home = _home(server)
    found = departures.take(home, statement)
    withdrawn = withdraw_from_superlink(home, members.revoke(home, found.node, now=_now()))
    contributions = sum(run.contributions for run in found.runs)
    if json:
        print_json({**found.model_dump(), "contributions": contributions, "withdrawn": withdrawn})
        return
    spent = "" if found.epsilon is None else f", at most epsilon {at_most(found.epsilon)}"
    _say(f"{found.node} has left. It contributed {contributions} times{spent}. Its keys count no more.")


def nodes(server: Server = _HERE, json: Json = False) -> None:
    """List the nodes: name, state, validity, warnings; and the server's fingerprint."""
    from server.provisioning import members
    from server.provisioning.authority import ends, read_certificate
    from shared.provisioning.validity import date

    home, now = _home(server), _now()
    found = members.members(home)
    rows = [
        {
            "name": member.name,
            "state": member.state(now),
            "valid_from": member.valid_from,
            "valid_until": member.valid_until,
            "kit": member.kit_number,
            "warning": members.member_warning(member, now=now),
        }
        for member in found
    ]
    value = {
        "fingerprint": members.server_fingerprint(home),
        **{name: ends(read_certificate(path)) for name, path in _certificates(home).items()},
        "nodes": rows,
        "warnings": members.warnings(home, now=now),
    }
    if json:
        print_json(value)
        return
    _say(f"Fingerprint: {value['fingerprint']}")
    width = max([4, *(len(member.name) for member in found)])
    for member in found:
        _say(f"{member.name:{width}}  {member.state(now):7}  until {date(member.valid_until)}")
    if not found:
        _say("No node was approved yet.")
    for warning in members.warnings(home, now=now):
        _say(warning)


def withdraw_from_superlink(home: ServerHome, revocation: Revocation) -> bool:
    """Tells a running SuperLink that a key counts no more; returns whether one was told.

    Revoking calls this once the records are written. A SuperLink that was not reached learns of it from the process that
    started it, within seconds, or when it starts.
    """
    from server.flower_commands import FlowerFailed
    from server.superlink import synchronize
    from shared import running

    if not running.process(home.running):
        return False
    try:
        synchronize(home)
    except FlowerFailed:
        return False
    return True


def _certificates(home: ServerHome) -> dict[str, Path]:
    return {"authority_valid_until": home.authority, "certificate_valid_until": home.certificate}


def _print_kit(home: ServerHome, kit: Kit, out: Path, done: str, *, json: bool) -> None:
    from shared.provisioning.validity import date

    if json:
        value = {"name": kit.name, "kit": str(out), "valid_until": kit.valid_until, "fingerprint": kit.fingerprint}
        print_json(value)
        return
    _say(f"{done} {kit.name} until {date(kit.valid_until)}. Kit: {out}")
    _say(f"It is installed with: tacit node install {shlex.quote(out.name)} --fingerprint {kit.fingerprint}")


def _passphrase(path: Path | None, *, new: bool = False) -> str:
    """The passphrase of a file or of the terminal. (private)

    Raises:
        ConfigError: If the file cannot be read, or others can read it, or there is no terminal.
    """
    from server.provisioning.authority import SHORTEST_PASSPHRASE
    from shared.files import read_text, verify_owner_alone

    if path is not None:
        try:
            verify_owner_alone(path)
            lines = read_text(path).splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(
                f"Expected a passphrase in {path.name}, could not read it ({type(error).__name__}). Name another file with "
                "--passphrase-file."
            ) from None
        return lines[0] if lines else ""
    if not sys.stdin.isatty():
        raise ConfigError("Expected a terminal to ask for the passphrase, found none. Name a file with --passphrase-file.")
    question = "Passphrase of the authority's key"
    if new:
        question = f"{question} (at least {SHORTEST_PASSPHRASE} characters)"
    asked: Any = typer.prompt(question, hide_input=True, confirmation_prompt=new, err=True)
    return str(asked)


def _home(folder: Path) -> ServerHome:
    from server.home import ServerHome

    return ServerHome(folder.expanduser().absolute())


def _now() -> int:
    return int(time.time())


def _say(text: str) -> None:
    print(text)  # noqa: T201
