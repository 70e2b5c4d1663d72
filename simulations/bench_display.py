"""`tacit bench` for people: the table of what came out.

Here lives what a person sees. Never here: what is measured, or whether a target was met (`bench.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from shared.wording import MISSING
from simulations.bench_progress import clock
from simulations.bench_run import Results
from simulations.terminal import plain

_WIDE = 116


def print_results(results: Results, console: Console) -> None:
    """Prints the table, why rows are missing, and what it was measured on.

    Args:
        results: Of `run_benchmarks`.
        console: Where to print; laid out for 80 columns and up.
    """
    wide = console.width >= _WIDE
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 2 if wide else 1, 0, 0), header_style="bold")
    table.add_column("measure" if wide else "measure\nagainst", overflow="fold")
    if wide:
        table.add_column("against", overflow="fold")
    for name in ("median [low, high]", "n", "target"):
        table.add_column(Text(name), justify="right", no_wrap=True)
    table.add_column("outcome", no_wrap=True)
    for row in results.rows.values():
        label, against = Text(row["label"]), Text(row["against"], style="dim")
        names = [label, against] if wide else [Text.assemble(label, "\n" if against else "", against)]
        table.add_row(*names, _result(row), Text(_times(row)), Text(_target(row)), _outcome(row))
    console.print(table)
    console.print()
    reasons: dict[str, list[str]] = {}
    for row in results.rows.values():
        if not row["measured"]:
            reasons.setdefault(row["reason"], []).append(row["label"])
    for reason, labels in reasons.items():
        _say(console, f"not measured: {'; '.join(labels)}", reason)
    about = results.machine
    _say(
        console, "machine", f"{about['cpu']}, {about['cores']} cores, {about['memory_gib']} GiB, load {about['load']} before"
    )
    _say(console, *(("GPU", about["gpu"]) if about["gpu"] else ("no GPU", "the rows of a GPU are not measured")))
    data = sorted({str(row["data"]) for row in results.rows.values() if "data" in row})
    if data:
        _say(console, "data", ", ".join(data))
    _say(console, "versions", ", ".join(f"{name} {version}" for name, version in results.versions.items()))
    _say(console, "date", f"{results.date}, took {clock(results.seconds)}")


def _say(console: Console, name: str, text: str) -> None:
    console.print(Text.assemble((f"{plain(name)}: ", "dim"), plain(text)))


def _result(row: Mapping[str, Any]) -> Text:
    if not row["measured"]:
        return Text("not measured", style="dim")
    unit = f" {row['unit']}" if row["unit"] else ""
    median, low, high = (_number(row[name]) for name in ("median", "low", "high"))
    spread = "" if row["low"] == row["high"] else f" [{low}, {high}]"
    return Text(f"{median}{spread}{unit}")


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _times(row: Mapping[str, Any]) -> str:
    return str(row.get("repeats") or MISSING)


def _target(row: Mapping[str, Any]) -> str:
    if row["target"] is None:
        return MISSING
    return f"{'<=' if row['target_is'] == 'at most' else '>='} {row['target']:g}"


def _outcome(row: Mapping[str, Any]) -> Text:
    if row["met"] is None:
        return Text("")
    return Text("met", style="green") if row["met"] else Text("missed", style="bold red")
