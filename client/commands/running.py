"""`tacit node start`, `approve`, `status`, `leave`: a node that takes part, and its owner's word.

Nothing heavy is imported at the top. What never lives here: the rules (`client/node/`).
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from client.commands.options import Home, require_consent
from shared.command_line.output import Json, print_json

_DEFAULT = Path("~/.tacit/node")


def start(home: Home = _DEFAULT) -> None:
    """Start the node: it connects to its server, and answers what the owner allows. Ends with Ctrl-C."""
    from client.home import NodeHome
    from client.node.start import start

    start(NodeHome(home.expanduser()), lambda line: print(line, file=sys.stderr, flush=True))  # noqa: T201


def approve(
    run: Annotated[str, typer.Argument(help="A run file, or the beginning of a proposed run's digest; default: list.")] = "",
    yes: Annotated[bool, typer.Option("--yes", help="Approve without asking.")] = False,
    home: Home = _DEFAULT,
    json: Json = False,
) -> None:
    """Show what a server proposes, in plain words, and approve it.

    Everything that is shown about privacy is computed on this node from the run's settings.
    """
    from client.home import NodeHome
    from client.node.approval import approve, explained, found_run, listed

    node = NodeHome(home.expanduser())
    if not run:
        rows = listed(node)
        if json:
            print_json({"runs": rows})
            return
        for row in rows:
            print(f"{row['run'][:16]}  {row['name']}  {row['state']}  {row['purpose']}")  # noqa: T201
        if not rows:
            print("No run was proposed.")  # noqa: T201
        return
    proposal = found_run(node, run)
    words = explained(node, proposal)
    if not json:
        print("\n".join(words["text"]))  # noqa: T201
    if not yes:
        require_consent("Approve this run?")
    approve(node, proposal)
    if json:
        print_json({**words, "approved": True})
    else:
        print(f"Approved run {proposal.digest[:16]}.")  # noqa: T201


def status(home: Home = _DEFAULT, json: Json = False) -> None:
    """Show whether the node runs, what it took part in, what is left of the budget, and what was received last."""
    from client.home import NodeHome
    from client.node.overview import overview

    found = overview(NodeHome(home.expanduser()), now=int(time.time()))
    if json:
        print_json(found)
        return
    print("\n".join(_lines(found)))  # noqa: T201


def preflight(home: Home = _DEFAULT, json: Json = False) -> None:
    """Check what this node needs to run: kit, names, port, certificate, clock, disk, data, ledger, weights."""
    from client.home import NodeHome
    from client.node.preflight import examine
    from shared.command_line.output import print_checks

    print_checks(examine(NodeHome(home.expanduser()), now=int(time.time())), json=json)


def recommend(
    user: Annotated[str, typer.Option("--user", help="A user of this node.")],
    k: Annotated[int, typer.Option("-k", min=1, max=1000, help="Length of the list.")] = 10,
    home: Home = _DEFAULT,
    json: Json = False,
) -> None:
    """Recommend items to a user of this node, from the last recommender that it received; needs no connection."""
    from client.home import NodeHome
    from client.recommendation import OwnRecommender
    from client.store.settings import open_store

    node = NodeHome(home.expanduser())
    items = OwnRecommender(node).recommend(user, k)
    if not open_store(node).history(user):
        note = "This node holds no interactions of that user: the list is that of a new user."
        print(note, file=sys.stderr)  # noqa: T201
    if json:
        print_json({"items": items})
        return
    for one in items:
        print(f"{one['rank']:>3}  {one['item']}  {one['text']}")  # noqa: T201


def rollback(home: Home = _DEFAULT, json: Json = False) -> None:
    """Use the recommender before the current one."""
    from client.home import NodeHome
    from client.recommendation import OwnRecommender

    digest = OwnRecommender(NodeHome(home.expanduser())).roll_back()
    if json:
        print_json({"run": digest})
    else:
        print(f"The recommender of run {digest[:16]} is used now.")  # noqa: T201


def leave(
    wipe: Annotated[bool, typer.Option("--wipe", help="Delete interactions and released recommenders too.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Leave without asking.")] = False,
    home: Home = _DEFAULT,
    json: Json = False,
) -> None:
    """Leave the federation: take part in nothing more, and write a signed statement of what was contributed."""
    from client.home import NodeHome
    from client.node.leaving import leave

    if not yes:
        require_consent("Leave the federation for good?")
    found = leave(NodeHome(home.expanduser()), wipe=wipe, now=int(time.time()))
    if json:
        print_json(found)
    else:
        print(f"Left. The signed statement is in {found['statement']}; send it to the server's operator.")  # noqa: T201


def _lines(found: dict[str, Any]) -> list[str]:
    lines = ["The node is running." if found["running"] else "The node is not running."]
    lines += found["warnings"]
    lines.append(f"Replies: {found['sent']}, refusals: {found['refused']}, bytes in 24 hours: {found['bytes_today']}.")
    if found["last_refusal"]:
        lines.append(f"  The last refusal, {found['last_refusal']}")
    for run in found["runs"]:
        after = f" Epsilon after it: at most {run['epsilon_after']}." if run["epsilon_after"] else ""
        lines.append(f"Run {run['run'][:16]} ({run['name']}): {run['state']}, {run['contributions']} contributions.{after}")
    spent, left = found["epsilon_spent"], found["epsilon_left"]
    lines.append(
        f"Spent: {'nothing' if spent is None else f'epsilon {spent}'}; left: {'no limit is set' if left is None else left}."
    )
    received = found["received"]
    lines.append(
        f"Last recommender: {received['name']}, received {received['at']}." if received else "No recommender was received."
    )
    lines.append(f"Hours: {', '.join(found['windows']) or 'always'} (UTC). Installed code: {found['code'][:16]}.")
    return lines
