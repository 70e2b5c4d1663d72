"""Tables of several runs in the terminal: `tacit compare` and `tacit frontier`.

Lives here: layout. Never here: a number that is not in the result that is shown.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from server.reporting import comparison
from server.reporting.frontier_page import LIMITS
from server.reporting.reading import entries, section
from shared import wording
from simulations.terminal import plain


def print_comparison(compared: Mapping[str, Any], console: Console) -> None:
    """Prints the runs that `comparison.compare_runs` compared. (private: exact metrics)"""
    names = [str(name) for name in compared["metrics"]]
    ndcg = next(name for name in names if name.startswith("ndcg"))
    table = _table("run", "epsilon", *(f"test\n{comparison.metric_label(name)}" for name in names))
    table.add_column(f"minus the first\n{comparison.metric_label(ndcg)}", justify="right", no_wrap=True)
    for row in compared["runs"]:
        epsilon = wording.epsilon_text(row["epsilon"]) if row["is_private"] else "not private"
        table.add_row(
            Text(plain(row["name"])),
            epsilon,
            *(_estimate(section(row, "test", name)) for name in names),
            _difference(section(row, "difference", ndcg)) if row["difference"] else "",
        )
    _print(table, f"{compared['stamp']} {compared['data']}, {wording.count_text(compared['users'])} users.", console)


def print_frontier(frontier: Mapping[str, Any], console: Console) -> None:
    """Prints the summary of a frontier. (private: exact metrics)"""
    ndcg = next(str(name) for name in frontier["metrics"] if name.startswith("ndcg"))
    label = comparison.metric_label(ndcg)
    table = _table("epsilon", f"test\n{label}", f"free baseline\n{label}", "ratio", "minus free\nbaseline", "released")
    for row in entries(frontier, "summary"):
        ratio = section(row, "ratio", ndcg)
        table.add_row(
            wording.asked_text(row["epsilon"]),
            _estimate(section(row, "test", ndcg)),
            _estimate(section(row, "free_baseline", ndcg)),
            _two(wording.metric_text(ratio.get("mean"), 2), wording.interval_text(ratio, 2)),
            _difference(section(row, "difference", ndcg)),
            ", ".join(f"{name} ({count})" for name, count in section(row, "chosen").items()),
        )
    for key, words in LIMITS.items():
        if held := section(frontier, "limits", key, ndcg):
            table.add_row(Text(words), _estimate(held), "", "", "", "", style="dim")
    _print(table, "NOT PRIVATE: exact metrics; intervals over users and seeds.", console)


def _table(*columns: str) -> Table:
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left", overflow="fold")
    return table


def _estimate(estimate: Mapping[str, Any]) -> Text:
    return _two(wording.metric_text(estimate.get("mean")), wording.interval_text(estimate))


def _difference(held: Mapping[str, Any]) -> Text:
    return _two(wording.signed_text(held.get("mean")), wording.p_value_text(held.get("p_value")))


def _two(first: str, second: str) -> Text:
    return Text.assemble(first, "\n", Text(second, style="dim not bold")) if second else Text(first)


def _print(table: Table, below: str, console: Console) -> None:
    console.print()
    console.print(table)
    console.print()
    console.print(plain(below), highlight=False, markup=False)
