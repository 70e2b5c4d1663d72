"""An audit in the terminal: progress while the twin runs, and the results in a table."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from shared import wording
from shared.signing import Signed
from simulations.terminal import plain, print_text


@contextlib.contextmanager
def progress(*, silent: bool) -> Iterator[Callable[[str], None]]:
    """Shows on standard error which releases of the twin have been read."""
    console = Console(stderr=True, quiet=silent)
    with console.status("Running the twin ..."):
        yield lambda purpose: console.print(f"read {plain(purpose)}", highlight=False, markup=False)


def print_audit(signed: Signed, path: Path) -> None:
    """Prints what an audit found."""
    console, results = Console(), signed.body["results"]
    table = Table(box=None, pad_edge=False)
    for name in ("what", "seen of", "epsilon", "claimed"):
        table.add_column(name)
    for row in results["bounds"]:
        _row(table, f"lower bound, {row['method']}", row, wording.at_least(row["epsilon"]))
    for row in results["estimates"]:
        _row(table, f"estimate, {row['method']}", row, _interval(row))
    console.print(table)
    probes = [row for row in results["probes"] if row["p_value"] is not None]
    console.print(f"{len(probes)} probes, {sum(row['failed'] for row in results['probes'])} failed.", highlight=False)
    for failure in results["failures"]:
        print_text(console, failure, "bold red")
    for warning in results["warnings"]:
        print_text(console, f"Warning: {warning}", "yellow")
    print_text(console, f"Audit {results['verdict']}. Wrote {path}", "bold")


def _row(table: Table, what: str, row: dict[str, Any], epsilon: str) -> None:
    table.add_row(what, row["view"], epsilon, wording.at_most(row["claimed"]))


def _interval(row: dict[str, Any]) -> str:
    high = "" if row["high"] is None else f" to {wording.at_most(row['high'])}"
    return f"{wording.at_most(row['epsilon'])} ({wording.at_least(row['low'])}{high})"
