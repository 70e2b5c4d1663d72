"""The table of `tacit bench`.

Lives here: what a person sees of a record. Never here: a measurement, or whether its target is met.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from shared.wording import MISSING, seconds_text
from simulations.terminal import plain

_OUTCOMES = {None: Text(""), True: Text("met", style="green"), False: Text("missed", style="bold red")}


def print_table(record: Mapping[str, Any], console: Console) -> None:
    """Prints the numbers, the reasons for missing ones, and the machine.

    Args:
        record: Of `run_benchmarks`.
        console: 80 columns wide or more.
    """
    rows = [value for value in record.values() if isinstance(value, Mapping) and "measured" in value]
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="bold")
    table.add_column("measure · against", overflow="fold")
    for name in ("median [low, high]", "n", "target"):
        table.add_column(Text(name), justify="right", no_wrap=True)
    table.add_column("outcome", no_wrap=True)
    for row in rows:
        measure = Text.assemble(row["label"], (f" · {row['against']}" if row["against"] else "", "dim"))
        table.add_row(measure, _result(row), str(row.get("repeats", MISSING)), _target(row), _OUTCOMES[row["met"]])
    console.print(table)
    console.print()
    reasons: dict[str, list[str]] = {}
    for row in rows:
        if not row["measured"]:
            reasons.setdefault(row["reason"], []).append(row["label"])
    about = record["machine"]
    said = [(f"not measured: {'; '.join(labels)}", reason) for reason, labels in reasons.items()]
    said += [
        ("machine", f"{about['cpu']}, {about['cores']} cores, {about['memory_gib']} GiB, load {about['load']} before"),
        ("GPU", about["gpu"]) if about["gpu"] else ("no GPU", "the rows of a GPU are not measured"),
        ("data", ", ".join(sorted({str(row["data"]) for row in rows if "data" in row})) or MISSING),
        ("versions", ", ".join(f"{name} {version}" for name, version in record["versions"].items())),
        ("date", f"{record['date']}, took {seconds_text(record['seconds'])}"),
    ]
    for subject, text in said:
        console.print(Text.assemble((f"{plain(subject)}: ", "dim"), plain(text)))


def _result(row: Mapping[str, Any]) -> Text:
    if not row["measured"]:
        return Text("not measured", style="dim")
    median, low, high = (_number(row[name]) for name in ("median", "low", "high"))
    spread = "" if row["low"] == row["high"] else f" [{low}, {high}]"
    return Text(f"{median}{spread} {row['unit']}".rstrip())


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _target(row: Mapping[str, Any]) -> str:
    return MISSING if row["target"] is None else f"{'<=' if row['target_is'] == 'at most' else '>='} {row['target']:g}"
