"""`tacit data`: interactions, described, converted and spread over clients."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from shared.command_line.output import Json, print_json
from simulations.commands.options import (
    Assignments,
    Columns,
    ConfigFile,
    Data,
    Declared,
    FileOrder,
    Format,
    Rows,
    Vectors,
)

app = typer.Typer(help="Look at interactions and spread them over clients.", no_args_is_help=True, suggest_commands=False)


@app.command("describe")
def describe(
    path: Annotated[str, typer.Argument(help="File, folder, or 'synthetic'.")],
    format: Format = None,
    columns: Columns = "",
    vectors: Vectors = "",
    order: FileOrder = "time",
    bad_rows: Rows = "refuse",
    json: Json = False,
) -> None:
    """Say what a data file holds, with warnings of leakage."""
    from rich.console import Console

    from simulations.datasets import load_dataset
    from simulations.describe import describe as describe_dataset
    from simulations.display import print_description

    description = describe_dataset(
        load_dataset(path, format=format or "auto", columns=columns, vectors=vectors, order=order, bad_rows=bad_rows)
    )
    if json:
        print_json(description)
    else:
        print_description(description, Console())


@app.command("preview")
def preview(
    path: Annotated[str, typer.Argument(help="File, folder, or 'synthetic'.")],
    format: Format = None,
    columns: Columns = "",
    vectors: Vectors = "",
    order: FileOrder = "time",
    bad_rows: Rows = "refuse",
    rows: Annotated[int, typer.Option(min=1, help="Rows of each table to show.")] = 5,
    json: Json = False,
) -> None:
    """Show which column plays which role, and the first rows as understood; NOT PRIVATE.

    A dry run: nothing is written, and of a big file only the head is read.
    """
    from rich.console import Console

    from simulations.data_display import print_preview
    from simulations.datasets import preview as preview_dataset

    shown = preview_dataset(
        path, format=format or "auto", columns=columns, vectors=vectors, rows=rows, order=order, bad_rows=bad_rows
    )
    if json:
        print_json(shown)
    else:
        print_preview(shown, Console())


@app.command("convert")
def convert(
    source: Annotated[str, typer.Argument(help="File, folder, or 'synthetic'.")],
    destination: Annotated[Path, typer.Argument(help="A folder to make.")],
    to: Annotated[
        str,
        typer.Option(
            "--to",
            metavar="FORMAT",
            help="parquet, csv, recbole, movielens, amazon-2014, amazon-2018, amazon-2023, mind, steam, goodreads, "
            "huggingface.",
        ),
    ],
    format: Format = None,
    columns: Columns = "",
    vectors: Vectors = "",
    order: FileOrder = "time",
    bad_rows: Rows = "refuse",
    lossy: Annotated[bool, typer.Option("--lossy", help="Leave out values where the format has no field for them.")] = False,
    json: Json = False,
) -> None:
    """Write a data set in another format, so that reading it gives the same.

    What the format has no field for lies in modalities.parquet and users.parquet beside it, and is read with it.
    """
    from rich.console import Console

    from shared.data.readers.convert import check_destination
    from shared.data.readers.convert import convert as convert_dataset
    from simulations.data_display import Steps, conversion_as_json, print_conversion
    from simulations.datasets import load_dataset

    check_destination(destination, to)
    steps = Steps(Console(stderr=True))
    with steps.step(f"Reading {source}"):
        dataset = load_dataset(
            source, format=format or "auto", columns=columns, vectors=vectors, order=order, bad_rows=bad_rows
        )
    with steps.step(f"Writing {dataset.interactions.num_interactions:,} interactions as {to}"):
        conversion = convert_dataset(dataset, destination, to, lossy=lossy)
    if json:
        print_json(conversion_as_json(dataset, destination, to, conversion))
    else:
        print_conversion(dataset, destination, to, conversion, Console())


@app.command("partition")
def partition(
    out: Annotated[Path, typer.Option(help="Folder to write; give it to flwr run as data.population.")],
    data: Data = None,
    format: Format = None,
    order: FileOrder | None = None,
    bad_rows: Rows | None = None,
    config: ConfigFile = None,
    set_: Assignments = None,
    clients: Annotated[int | None, typer.Option(help="Number of silos; 0 makes every user a client.")] = None,
    population: Declared = None,
    json: Json = False,
) -> None:
    """Spread interactions over clients: the folder that `flwr run .` and nodes open."""
    from shared.config import RunConfig, parse_assignments
    from simulations.preparing import write_partitions

    given = {
        "data.path": data,
        "data.format": format,
        "data.order": order,
        "data.bad_rows": bad_rows,
        "federation.clients": clients,
        "privacy.population": population,
    }
    overrides = {**parse_assignments(set_ or []), **{key: v for key, v in given.items() if v is not None}}
    settings = RunConfig.from_toml(config, overrides=overrides) if config else RunConfig.from_mapping(overrides)
    summary = write_partitions(settings, out)
    if json:
        print_json({"folder": str(out), "clients": summary.num_clients, "users": summary.num_users})
    else:
        print(f"Wrote {summary.num_users} users as {summary.num_clients} clients to {out}/")  # noqa: T201
