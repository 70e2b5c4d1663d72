"""What a person sees of `tacit data preview` and `tacit data convert`.

Lives here: their tables and their progress. Never here: reading or writing of data. Texts go through `plain`, as in
`display.py`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from shared.data.readers import Dataset
from shared.data.readers.convert import Conversion
from simulations.terminal import plain

# A step that is shorter needs no line of its own.
_WORTH_TELLING_SECONDS = 2.0
_LONGEST = 60


class Steps:
    """Progress on stderr: a spinner on a terminal, and a line with the time for each step that took long.

    Args:
        console: Where to print.
    """

    def __init__(self, console: Console) -> None:
        self._console = console

    @contextmanager
    def step(self, what: str) -> Iterator[None]:
        """Shows that something is going on, and how long it took."""
        started = time.monotonic()
        with self._console.status(Text(plain(what))):
            yield
        seconds = time.monotonic() - started
        if seconds >= _WORTH_TELLING_SECONDS:
            self._console.print(Text(f"{plain(what)}: {seconds:.1f} s", style="dim"))


def print_preview(shown: Mapping[str, Any], console: Console) -> None:
    """Prints roles and rows.

    Args:
        shown: As `shared.data.readers.preview.preview` gives it. (private)
        console: Where to print.
    """
    of = "all" if shown["whole"] else "the first"
    seen = f"{of} {shown['interactions_looked_at']:,} interactions"
    console.print(
        Text.assemble((plain(shown["name"]), "bold"), f" as {shown['format']}, {seen}. ", ("NOT PRIVATE.", "yellow"))
    )
    roles = [
        {"file": file, "column": column, "is": role}
        for file, columns in shown["roles"].items()
        for role, column in columns.items()
    ]
    if roles:
        _print_table(console, "", roles)
    for name in ("interactions", "items", "users"):
        if shown[name]:
            _print_table(console, name, shown[name])
    if shown["positional"]:
        console.print(Text("Times are positions in each history."))
    for warning in shown["warnings"]:
        console.print(Text(plain(warning), style="yellow"))
    for what, count in shown["repairs"].items():
        console.print(Text(f"{count:,} {plain(what)}", style="dim"))


def _print_table(console: Console, title: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Prints rows of the same columns; a file's name once."""
    table = Table(box=SIMPLE_HEAD, title=title or None, title_justify="left", title_style="bold", pad_edge=False)
    for name in rows[0]:
        table.add_column(Text(plain(name)), overflow="fold")
    before = None
    for row in rows:
        cells = [_cell(value) for value in row.values()]
        if "file" in row:
            cells[0], before = "" if row["file"] == before else cells[0], row["file"]
        table.add_row(*map(Text, cells))
    console.print(table)


def _cell(value: object) -> str:
    """A value in one line, long ones cut."""
    text = "–" if value is None else ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    text = plain(text)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


def print_conversion(dataset: Dataset, destination: Path, format: str, conversion: Conversion, console: Console) -> None:
    """Prints what was written, what lies beside it and what was lost.

    Args:
        dataset: What was read. (private; only counts are shown)
        destination: Where it was written.
        format: As what.
        conversion: What `convert` gave.
        console: Where to print.
    """
    read = dataset.interactions
    console.print(
        f"Wrote {read.num_interactions:,} interactions of {read.num_users:,} users with {dataset.catalog.num_items:,} items "
        f"as {format} to {plain(destination)}/",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
    for file, size in conversion.files.items():
        console.print(Text(f"  {plain(file):<32} {_bytes(size):>10}", style="dim"))
    for what in conversion.beside:
        console.print(Text(f"Beside, because files of {format} cannot hold it: {plain(what)}."))
    for what in conversion.lost:
        console.print(Text(f"Left out: {plain(what)}.", style="yellow"))
    for warning in dataset.warnings:
        console.print(Text(plain(warning), style="yellow"))
    for what, count in read.repairs.items():
        console.print(Text(f"When reading: {count:,} {plain(what)}.", style="dim"))


def conversion_as_json(dataset: Dataset, destination: Path, format: str, conversion: Conversion) -> dict[str, Any]:
    """The same in JSON types."""
    return {
        "folder": str(destination),
        "format": format,
        "interactions": dataset.interactions.num_interactions,
        "users": dataset.interactions.num_users,
        "items": dataset.catalog.num_items,
        "files": conversion.files,
        "beside": list(conversion.beside),
        "lost": list(conversion.lost),
        "repairs": dict(dataset.interactions.repairs),
    }


def _bytes(size: int) -> str:
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:,.0f} {unit}" if unit == "B" else f"{size:,.1f} {unit}"
        size /= 1000  # type: ignore[assignment]
    return f"{size:,.2f} GB"
