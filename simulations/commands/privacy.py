"""`tacit privacy`: what a configuration promises."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from shared.command_line.output import Json, print_json
from simulations.commands.options import (
    Assignments,
    ConfigFile,
    Data,
    FileOrder,
    Format,
    PublicCatalog,
    Rows,
    leave_unless_kept,
)

app = typer.Typer(
    help="Print the privacy guarantees of a configuration, per adversary, and the cost of stronger ones.",
    no_args_is_help=True,
    suggest_commands=False,
)


@app.command("plan")
def plan(
    data: Data = None,
    format: Format = None,
    order: FileOrder | None = None,
    bad_rows: Rows | None = None,
    config: ConfigFile = None,
    set_: Assignments = None,
    epsilon: Annotated[float | None, typer.Option(help="Privacy bound of the run; inf turns privacy off.")] = None,
    rounds: Annotated[int | None, typer.Option(help="Rounds of the federation.")] = None,
    clients: Annotated[int | None, typer.Option(help="Number of silos; 0 makes every user a client.")] = None,
    users: Annotated[int | None, typer.Option(min=1, help="Population, instead of looking at the data.")] = None,
    public_catalog: PublicCatalog = None,
    json: Json = False,
) -> None:
    """Say what a configuration promises to whom, how much noise that takes, and what changing each knob would cost.

    Nothing is run. Without options it speaks of the embedded data.
    """
    from rich.console import Console

    from shared.config import RunConfig, parse_assignments
    from simulations.plan_display import print_plan
    from simulations.preparing import population_of
    from simulations.privacy_plan import explain

    given = {
        "data.path": data,
        "data.format": format,
        "data.order": order,
        "data.bad_rows": bad_rows,
        "federation.rounds": rounds,
        "federation.clients": clients,
        "privacy.epsilon": epsilon,
        "data.public_catalog": public_catalog,
    }
    overrides = {**parse_assignments(set_ or []), **{key: value for key, value in given.items() if value is not None}}
    settings = RunConfig.from_toml(config, overrides=overrides) if config else RunConfig.from_mapping(overrides)
    settings, num_users, num_clients, name, num_items = population_of(settings, users=users)
    explained = explain(settings, num_users=num_users, num_clients=num_clients, data_name=name, num_items=num_items)
    if json:
        print_json(explained)
    else:
        print_plan(explained, Console())
    if reason := explained.get("refused"):
        print(f"tacit: {reason}", file=sys.stderr)  # noqa: T201
        raise SystemExit(explained["exit_status"])
    leave_unless_kept(explained)
