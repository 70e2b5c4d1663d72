"""`tacit report`, `recommend`, `export` and `schema`: from a finished run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from shared.command_line.output import Json, print_json
from simulations.commands.options import Data, Format


def report(run_dir: Annotated[Path, typer.Argument(help="A folder written by simulate.")], json: Json = False) -> None:
    """Verify the epsilons of release.json, and render report.html and release.html of a run again.

    A run under Flower has no research record, so release.html alone is rendered.
    """
    from server.reporting.page import write_report
    from server.reporting.records import read_release
    from server.reporting.release_page import write_release_page
    from server.reporting.verification import verify_release
    from shared.run_folder import RECORD, RELEASE

    released = (run_dir / RELEASE).exists()  # an interrupted run has none
    if released:
        verify_release(read_release(run_dir))
    # A server under Flower has no exact metric and leaves no research record.
    pages = {"report": write_report(run_dir)} if (run_dir / RECORD).exists() or not released else {}
    if released:
        pages["release"] = write_release_page(run_dir)
    if json:
        print_json({name: str(path) for name, path in pages.items()})
    else:
        for path in pages.values():
            print(f"Wrote {path}")  # noqa: T201


def schema(
    file: Annotated[
        Literal["run", "release", "plan"], typer.Argument(help="run.json, release.json, or `tacit privacy plan --json`.")
    ],
    json: Json = False,
) -> None:
    """Print the JSON schema of a file; it is JSON with and without --json."""
    from simulations.schemas import json_schema

    print_json(json_schema(file))


def recommend(
    run_dir: Annotated[Path, typer.Argument(help="A folder written by simulate.")],
    history: Annotated[
        str | None,
        typer.Option(help="Item ids in time order, separated by commas; quotation marks around an id that holds one."),
    ] = None,
    history_file: Annotated[Path | None, typer.Option(help="Text file with one item id a line, in time order.")] = None,
    user: Annotated[str | None, typer.Option(help="A user of --data, or of the run's own data.")] = None,
    data: Data = None,
    format: Format = None,
    columns: Annotated[str | None, typer.Option("--columns", help="Column map of --data; default: that of the run.")] = None,
    new_items: Annotated[
        Path | None, typer.Option(help="CSV, TSV or Parquet file of items that came after training, ranked with the others.")
    ] = None,
    k: Annotated[int, typer.Option("-k", "--k", min=1, help="Length of the list.")] = 10,
    json: Json = False,
) -> None:
    """Recommend items from a saved run, for a user never seen in training too."""
    from rich.console import Console

    from simulations.display import print_recommendations
    from simulations.recommendation import recommend_items

    rows = recommend_items(
        run_dir,
        history=history,
        history_file=history_file,
        user=user,
        data=data,
        format=format,
        columns=columns,
        new_items=new_items,
        k=k,
    )
    if json:
        print_json({"recommendations": rows})
    else:
        print_recommendations(rows, Console())


def export(
    run_dir: Annotated[Path, typer.Argument(help="A folder written by simulate.")],
    destination: Annotated[Path, typer.Argument(help="A new folder.")],
    rank: Annotated[
        int | None, typer.Option("--rank", min=1, help="Cut every learned change to this rank; the error is stated.")
    ] = None,
    json: Json = False,
) -> None:
    """Write a finished run as a plain transformers model with a model card: for use without Tacit."""
    from server.export import export as export_run

    exported = export_run(run_dir, destination, rank=rank)
    if json:
        print_json(exported.to_json())
        return
    print(f"Wrote {', '.join(exported.files)} to {destination}/")  # noqa: T201
    if exported.rank is not None:
        for module, cut in exported.cuts.items():
            print(f"{cut.share:8.2%} of {module}")  # noqa: T201
        print(f"{exported.overall:8.2%} of all learned changes was cut off (Frobenius norm, rank {rank}).")  # noqa: T201
