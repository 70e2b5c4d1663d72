"""What several commands have in common: options, and the ends that are no error of ours."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

# The run, or the plan, is whole; the claim against its own adversary rests on an assumption that does not hold.
_NOT_PROTECTED = 3

Quiet = Annotated[bool, typer.Option("--quiet", help="Show no progress.")]
Declared = Annotated[
    int | None,
    typer.Option(
        "--population", min=1, help="Number of users to declare in public; default: the number found, rounded down."
    ),
]
ConfigFile = Annotated[Path | None, typer.Option("--config", help="TOML file; see `tacit config`.")]
Assignments = Annotated[list[str] | None, typer.Option("--set", help="section.key=value, repeatable; see `tacit config`.")]
Data = Annotated[str | None, typer.Option("--data", help="File, folder, or 'synthetic'.")]
Format = Annotated[
    str | None,
    typer.Option("--format", help="auto, recbole, movielens, amazon, mind, steam, goodreads, huggingface or tabular."),
]
Columns = Annotated[str, typer.Option("--columns", help="Column map of a table, e.g. 'user=uid,item=asin,timestamp=t'.")]
PublicCatalog = Annotated[
    bool | None,
    typer.Option(
        "--public-catalog/--no-public-catalog",
        help="Whether items and texts exist independently of these users; simulate asks at a terminal and records it.",
    ),
]
Vectors = Annotated[
    str, typer.Option("--vectors", help="Files of item vectors, e.g. 'image=images.npy,audio=audio.parquet'.")
]
FileOrder = Annotated[
    Literal["time", "file"],
    typer.Option("--order", help="file: each user's rows stand in the order in which they happened; times are not read."),
]
Rows = Annotated[
    Literal["refuse", "drop"],
    typer.Option("--bad-rows", help="drop: leave rows out whose ids, time or value cannot be read, and count them."),
]


class Interrupted(Exception):  # noqa: N818
    """Ctrl-C, with what there is to say; a KeyboardInterrupt loses its message on its way through typer."""


def leave_unless_kept(privacy: dict[str, Any]) -> None:
    """Ends with a status of its own where a private run, or plan, does not protect as it was asked to."""
    if reason := privacy["not_kept"]:
        print(f"tacit: {reason}", file=sys.stderr)  # noqa: T201
        raise SystemExit(_NOT_PROTECTED)


def with_catalog_declared(settings: Any, said: bool | None, *, silent: bool) -> tuple[Any, str]:
    """Asks at a terminal whether the catalog is public, where nothing is said of it; returns settings and a note."""
    from rich.console import Console

    from simulations.public_catalog import declared, someone_answers

    console = Console(stderr=True)
    return declared(
        settings,
        said=said,
        may_ask=not silent and someone_answers(),
        confirm=lambda question: typer.confirm(question, default=False, err=True),
        tell=lambda text: console.print(text, highlight=False),
    )


def progress_lines(*, silent: bool) -> Any:
    """What shows a line of progress on standard error."""
    from rich.console import Console

    from simulations.terminal import plain

    console = Console(stderr=True, quiet=silent, soft_wrap=True)
    return lambda line: console.print(plain(line), highlight=False, markup=False)
