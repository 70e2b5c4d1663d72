"""`tacit node budget`: the privacy ledger of a device as its owner sees it, and the limits that only the owner sets.

Nothing heavy is imported at the top. What never lives here: anything that
a server could call, and the rules of the ledger (`client/ledger/ledger.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from shared import wording
from shared.command_line.output import Json, print_json
from shared.errors import ConfigError

if TYPE_CHECKING:
    from client.ledger.ledger import Account, Ledger, Policy

app = typer.Typer(help="Show, limit and export the privacy ledger.", no_args_is_help=True, suggest_commands=False)

LedgerPath = Annotated[Path, typer.Option("--ledger", help="SQLite file of the ledger.")]
Owner = Annotated[str | None, typer.Option("--owner", help="One owner of a ledger that holds several; default: all.")]
User = Annotated[
    str | None, typer.Option("--user", help="The same, by the id of a user who is a client: whose account is `user-HASH`.")
]

# Rows of the table for people; `--json` has all of them.
_SHOWN_OWNERS = 10


@app.command("show")
def show(ledger: LedgerPath, owner: Owner = None, user: User = None, json: Json = False) -> None:
    """Show what was spent, and what the limits leave.

    Limits apply to the epsilon without amplification by sampling: it holds against somebody who knows who took part. "As
    recorded" counts the server's sampling, which a device cannot verify.
    """
    from client.ledger.ledger import EVERYONE, Policy
    from shared.errors import PrivacyError

    with _opened(ledger) as opened:
        owner = _owner(opened, owner, user)
        warning = None
        try:
            opened.verify_newest()
        except PrivacyError as error:
            warning = str(error)
        binding, policies = opened.binding, opened.policies()
        accounts = [account for account in opened.accounts() if owner in {None, account.owner}]
        if owner is not None and not accounts and owner not in {*opened.owners(), *policies}:
            raise ConfigError(
                f"Expected {'--user' if user else '--owner'} to name an owner in this ledger, found no event and no limit "
                "of it. Leave it out to see who is there."
            )
        default = policies.get(EVERYONE, Policy())
        rows = [_row(opened, account, policies.get(account.owner, default)) for account in accounts]
    value = {
        "ledger": ledger.name,
        "binding": None if binding is None else vars(binding),
        "limits": vars(policies.get(owner or EVERYONE, default)),
        "warning": warning,
        "owners": sorted(rows, key=lambda row: -(row["epsilon_known_participation"] or 0.0)),
    }
    if json:
        print_json(value)
    else:
        _print_table(value)


@app.command("set-limit")
def set_limit(
    ledger: LedgerPath,
    owner: Owner = None,
    user: User = None,
    epsilon: Annotated[float | None, typer.Option(help="Largest epsilon of all that was ever released.")] = None,
    unit: Annotated[str | None, typer.Option(help="The only unit that is served: user or window.")] = None,
    mechanism: Annotated[
        str | None, typer.Option(help="The only mechanisms that are served, e.g. dp-sgd,dp-ftrl-silo.")
    ] = None,
    adversary: Annotated[
        str | None, typer.Option(help="The weakest adversary that a plan must protect against, e.g. server.")
    ] = None,
    max_clip_norm: Annotated[float | None, typer.Option(help="Largest bound on one contribution.")] = None,
    min_noise_multiplier: Annotated[float | None, typer.Option(help="Smallest noise over that bound.")] = None,
    max_rounds: Annotated[int | None, typer.Option(help="Longest run.")] = None,
    max_delta: Annotated[float | None, typer.Option(help="Largest delta.")] = None,
    min_corrupt_fraction: Annotated[
        float | None, typer.Option(help="Smallest part of a cohort that a secure sum must assume to collude.")
    ] = None,
    max_dropout_fraction: Annotated[
        float | None, typer.Option(help="Largest part of a cohort that a secure sum may assume to drop out.")
    ] = None,
    clear: Annotated[bool, typer.Option("--clear", help="First take all limits away.")] = False,
    json: Json = False,
) -> None:
    """Set hard limits for this node. Options left out keep their value.

    A plan that asks for more is refused whole, before its first release. A limit on epsilon alone also refuses mechanisms
    that do not protect against the server (central, dp-ftrl-central, distributed); --mechanism or --adversary allows them.

    Limits hold for every owner that has none of its own. One that gets some with --owner (or --user) starts from those of
    everyone, and follows them no longer; `--owner NAME --clear` undoes that. One whose kind the ledger does not hold (a user
    where silos were charged) is refused. A ledger that does not exist yet is made.
    """
    from dataclasses import replace

    from client.ledger.ledger import EVERYONE, Policy

    given: dict[str, Any] = {
        "epsilon": epsilon,
        "unit": unit,
        "mechanisms": None if mechanism is None else tuple(name.strip() for name in mechanism.split(",")),
        "adversary": adversary,
        "l2_clip_norm_at_most": max_clip_norm,
        "noise_multiplier_at_least": min_noise_multiplier,
        "rounds_at_most": max_rounds,
        "delta_at_most": max_delta,
        "corrupt_fraction_at_least": min_corrupt_fraction,
        "dropout_fraction_at_most": max_dropout_fraction,
    }
    given = {name: value for name, value in given.items() if value is not None}
    if not given and not clear:
        raise ConfigError("Expected a limit, got none. Name one, e.g. --epsilon 8, or take all away with --clear.")
    Policy(**given)  # a value out of range is refused before a file is made
    with _opened(ledger) as opened:
        owner = _owner(opened, owner, user)
        whose = owner or EVERYONE
        if given:
            _verify_guards(opened, whose)
        opened.change_policy(lambda before: replace(Policy() if clear else before, **given) if given else None, whose)
        limits = vars(opened.policy(whose))
    if json:
        print_json({"ledger": ledger.name, "owner": whose, "limits": limits})
    else:
        print(f"Limits for {'everyone' if owner is None else 'this owner'}: {_in_words(limits)}.")  # noqa: T201


@app.command("export")
def export(
    ledger: LedgerPath,
    owner: Owner = None,
    user: User = None,
    out: Annotated[Path | None, typer.Option(help="JSON file to write; default: standard output.")] = None,
    json: Json = False,
) -> None:
    """Write all events, limits and epsilons as JSON.

    The events say when this device took part: whoever has them and knows the server's data learns more than from a released
    adapter. Faulty updates are not in it.
    """
    from shared.files import write_json

    with _opened(ledger) as opened:
        value = opened.export(_owner(opened, owner, user))
    if out is None:
        print_json(value)
        return
    write_json(out, value)
    if json:
        print_json({"export": str(out), "events": len(value["events"])})
    else:
        print(f"Wrote {len(value['events'])} events to {out}")  # noqa: T201


def _opened(path: Path) -> closing[Ledger]:
    from client.ledger.ledger import Ledger

    return closing(Ledger(path))


def _owner(ledger: Ledger, owner: str | None, user: str | None) -> str | None:
    """The account that is meant; None for all.

    Raises:
        ConfigError: If it is named twice, or the ledger is one of silos, in which no user has an account.
    """
    from client.ledger.accounts import account_of_user

    if user is None:
        return owner
    if owner is not None:
        raise ConfigError("Expected --owner or --user, got both. Name the account once.")
    if ledger.kinds() - {"user"}:
        raise ConfigError(
            "Expected a ledger of users who are clients with --user, found one of silos. A silo's account counts for all of "
            "its users: use --owner with a name that `tacit node budget show` lists, e.g. client-0."
        )
    return account_of_user(user)


def _verify_guards(ledger: Ledger, owner: str) -> None:
    """Raises where limits of an account would guard nobody, because those that were charged are of another kind.

    Raises:
        ConfigError: If they are.
    """
    from client.ledger.rows import kind_of

    kind = kind_of(owner)
    if kind and ledger.kinds() - {kind}:
        raise ConfigError(
            "Expected an owner of the same kind as the accounts in this ledger (users, silos by number, or silos by an "
            "attribute's values), got one of another kind. Limits of it would guard nobody: name an owner that `tacit node "
            "budget show` lists, or leave it out for everyone."
        )


def _row(ledger: Ledger, account: Account, policy: Policy) -> dict[str, Any]:
    epsilons = ledger.epsilons(account.spent)
    known, limit = epsilons["known_participation"], policy.epsilon
    return {
        "owner": account.owner,
        "events": account.entries,
        "epsilon_known_participation": known,
        "epsilon_as_recorded": epsilons["as_recorded"],
        "limit": limit,
        "remaining": None if limit is None or known is None else max(0.0, limit - known),
        "faults": account.faults,
    }


def _print_table(value: Mapping[str, Any]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console, binding, rows = Console(highlight=False), value["binding"], value["owners"]
    about = "no run yet"
    if binding is not None:
        about = f"data {binding['data_name']}, unit {binding['unit']}, {binding['relation']}, delta {binding['delta']:g}"
    console.print(f"{value['ledger']}: {about}", markup=False)
    if value["warning"]:
        console.print(value["warning"], markup=False)
    console.print(f"Limits: {_in_words(value['limits'])}.", markup=False)
    if not rows:
        console.print("Nothing was spent.")
        return
    table = Table()
    table.add_column("owner")
    for name in ("events", f"epsilon {wording.WITHOUT_AMPLIFICATION}", "epsilon as recorded", "limit", "left", "faults"):
        table.add_column(name, justify="right")
    numbers = ("epsilon_known_participation", "epsilon_as_recorded", "limit", "remaining")
    for row in rows[:_SHOWN_OWNERS]:
        # What was spent is rounded up and what is left down, so that no row promises more than there is.
        written = (wording.at_most, wording.at_most, wording.at_least, wording.at_least)
        cells = ("-" if row[name] is None else write(row[name]) for name, write in zip(numbers, written, strict=True))
        table.add_row(escape(row["owner"]), str(row["events"]), *cells, str(row["faults"]))
    console.print(table)
    if len(rows) > _SHOWN_OWNERS:
        console.print(f"The {_SHOWN_OWNERS} highest of {len(rows)} owners; --json lists all.")


def _in_words(limits: Mapping[str, Any]) -> str:
    words = [f"{name}={_word(value)}" for name, value in limits.items() if value is not None]
    return ", ".join(words) or "none"


def _word(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float | int) else value if isinstance(value, str) else "+".join(value)
