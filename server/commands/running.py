"""`tacit server publish`, `start`, `propose`, `run`, `status`, `stop`, `logs`: a federation that runs.

Nothing heavy is imported at the top. What never lives here: the rules (`server/superlink.py`, `server/runs.py`).
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer

from server.commands.options import Server
from shared.command_line.output import Json, print_json
from shared.errors import ConfigError

_HERE = Path()

Continues = Annotated[str, typer.Option("--from", help="Name of a finished run that the new one continues.")]


def publish(
    catalog: Annotated[Path, typer.Argument(help="Items: CSV, TSV or Parquet with columns item and text.")],
    users: Annotated[int, typer.Option(min=1, help="Users of all nodes together, as you declare them in public.")],
    nodes: Annotated[int, typer.Option(min=1, help="Nodes that take part, at most.")],
    server: Server = _HERE,
    json: Json = False,
) -> None:
    """Publish the catalog and the sizes of the population: all that a server knows about a federation's data."""
    from server.home import ServerHome
    from server.runs import publish_facts

    facts = publish_facts(ServerHome(server), catalog, users=users, nodes=nodes)
    _say(json, facts, f"Published {facts['items']} items, {users} users, {nodes} nodes.")


def start(server: Server = _HERE) -> None:
    """Start the server: Flower's SuperLink on loopback, with TLS, node authentication and a database. Ends with Ctrl-C."""
    from server.home import ServerHome
    from server.superlink import start

    start(ServerHome(server), lambda line: print(line, file=sys.stderr, flush=True))  # noqa: T201


def propose(
    config: Annotated[Path, typer.Argument(help="TOML with [proposal] and the settings of the run.")],
    out: Annotated[Path, typer.Option("--out", help="File of the signed run file; must not exist.")],
    continues: Continues = "",
    server: Server = _HERE,
    json: Json = False,
) -> None:
    """Sign a run file, which nodes' owners can approve before the run starts."""
    from server.home import ServerHome
    from server.runs import proposed
    from shared.files import verify_unused

    verify_unused(out)
    run = proposed(ServerHome(server), config, now=int(time.time()), continues=continues)
    run.document.write(out)
    _say(json, {"run": run.digest, "file": str(out)}, f"Wrote {out}. Run {run.digest[:16]}.")


def run(
    config: Annotated[Path | None, typer.Argument(help="federation.toml, or a signed run file.")] = None,
    resume: Annotated[str, typer.Option("--resume", help="Name of a run that was interrupted.")] = "",
    continues: Continues = "",
    deadline: Annotated[float | None, typer.Option("--deadline", help="With --resume: seconds to wait for answers.")] = None,
    quorum: Annotated[int | None, typer.Option("--quorum", help="With --resume: nodes that have to answer.")] = None,
    server: Server = _HERE,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until the run has ended.")] = False,
    json: Json = False,
) -> None:
    """Start a run, or go on with one that was interrupted.

    With --from the run starts from what a finished one released, and counts only what users have done since. Settings that
    the file does not name are those of that run. Its privacy comes on top of what the nodes have spent.
    """
    from server.home import ServerHome
    from server.runs import begin, resumed, waited
    from server.terms import UNCHANGED, Terms

    home, terms = ServerHome(server), Terms(deadline, quorum)
    if terms != UNCHANGED and not resume:
        raise ConfigError(
            "Expected --deadline and --quorum with --resume, got a new run. Set federation.timeout_seconds and "
            "federation.minimum_clients in its file."
        )
    begun = resumed(home, resume, terms) if resume else begin(home, config, now=int(time.time()), continues=continues)
    try:
        found = waited(home, begun) if wait else begun
    except KeyboardInterrupt:
        name = begun["run"]
        print(f"Run {name} goes on without this command. `tacit server stop {name}` ends it.", file=sys.stderr)  # noqa: T201
        raise
    told = found["reason"]
    if found["state"] == "proposed":
        told = f"`tacit server logs {found['run']} --follow` shows what happens."
    _say(json, found, f"Run {found['run']}: {found['state']}. {told}".strip())
    if found["state"] == "failed":
        raise SystemExit(1)


def status(server: Server = _HERE, json: Json = False) -> None:
    """Show whether the server runs, who may take part, and where each run stands."""
    from server.home import ServerHome
    from server.runs import overview

    found = overview(ServerHome(server), now=int(time.time()))
    if json:
        print_json(found)
        return
    print("\n".join(_lines(found)))  # noqa: T201


def preflight(server: Server = _HERE, json: Json = False) -> None:
    """Check what this server needs to run: names, ports, certificate, clock, disk, catalog, nodes."""
    from server.home import ServerHome
    from server.preflight import examine
    from shared.command_line.output import print_checks

    print_checks(examine(ServerHome(server), now=int(time.time())), json=json)


def stop(name: Annotated[str, typer.Argument(help="Name of the run.")], server: Server = _HERE, json: Json = False) -> None:
    """Stop a run; what it finished is kept, and it can be resumed."""
    from server.home import ServerHome
    from server.runs import stop

    found = stop(ServerHome(server), name)
    _say(json, found, f"Run {found['run']}: {found['state']}.")


def logs(
    name: Annotated[str, typer.Argument(help="Name of the run.")],
    follow: Annotated[bool, typer.Option("--follow", help="Go on until the run has ended.")] = False,
    server: Server = _HERE,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object a line, alone on stdout.")] = False,
) -> None:
    """Show what happened in a run, one event a line."""
    from server.home import ServerHome
    from server.runs import events, in_words

    for event in events(ServerHome(server), name, follow=follow):
        if json:
            import json as jsonlib

            print(jsonlib.dumps(event), flush=True)  # noqa: T201
        else:
            print(in_words(event), flush=True)  # noqa: T201


def _lines(found: dict[str, Any]) -> list[str]:
    lines = ["The server is running." if found["running"] else "The server is not running."]
    lines += found["warnings"]
    states = Counter(found["nodes"].values())
    lines.append(f"Nodes: {', '.join(f'{number} {state}' for state, number in states.items()) or 'none approved'}.")
    lines += [f"{name} has left; it contributed {number} times." for name, number in found["left"].items()]
    for one in found["runs"]:
        answered = f", {one['answered']} answered" if one["answered"] else ""
        done = f"; {one['progress']}{answered}" if one["progress"] else ""
        lines.append(f"Run {one['run']}: {one['state']} since {one['since']}{done}.")
        lines += [f"  {reason}" for reason in (one["reason"], *one["waits_because"]) if reason]
    return lines if found["runs"] else [*lines, "No run yet."]


def _say(json: bool, value: Any, text: str) -> None:
    if json:
        print_json(value)
    else:
        print(text)  # noqa: T201
