"""An audit in the terminal: progress while the twin runs, and the results in a table."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from shared import wording
from shared.audit.document import AuditDocument
from shared.privacy.claims import WHO
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


def print_research(records: Mapping[str, dict[str, Any]]) -> None:
    """Prints the research records, each under its stamp."""
    shown: dict[str, Callable[[dict[str, Any]], None]] = {
        "linkage": _print_linkage,
        "attributes": _print_attributes,
        "membership": partial(_print_membership, of="Membership", told="members told by"),
        "windows": partial(_print_membership, of="Windows", told="windows told by"),
    }
    for name, show in shown.items():
        if name in records:
            show(records[name])


def _print_linkage(held: dict[str, Any]) -> None:
    """Prints how far parts of the recommender give planted pairs away; nothing where there were too few."""
    if not held["rows"]:
        return
    console, table = Console(), Table(box=None, pad_edge=False)
    for name in ("pairs told by", "area under the curve", "lower bound", "claimed"):
        table.add_column(name)
    rows = [(row["part"], row, held["claimed"]) for row in held["rows"]]
    rows += [
        (f"statistics alone, epsilon {wording.epsilon_text(one['epsilon'])}", one["rows"][-1], one["claimed"])
        for one in held["frontier"]
        if one["rows"]
    ]
    for name, row, claim in rows:
        bounds = row.get("lower_bounds")
        reached = wording.MISSING if bounds is None else wording.at_least(max(bounds.values()))
        table.add_row(name, _rate(row["area"]), reached, wording.MISSING if claim is None else wording.at_most(claim))
    print_text(console, f"Planted pairs in the released recommender. {held['stamp']}", "bold")
    console.print(table)


def _print_attributes(held: dict[str, Any]) -> None:
    """Prints what lists give away of users' attributes; nothing where the data have none."""
    if not held["rows"]:
        return
    console, table = Console(), Table(box=None, pad_edge=False)
    for name in ("attribute", "guessed from", "right", "most frequent value", "area under the curve"):
        table.add_column(name)
    for row in held["rows"]:
        shares = (f"{share:.1%}" for share in (row["accuracy"]["value"], row["prior"]))
        table.add_row(plain(row["attribute"]), row["seen"], *shares, _rate(row["area"]))
    print_text(console, f"Attributes of real users. {held['stamp']}", "bold")
    console.print(table)


def _print_membership(held: dict[str, Any], *, of: str, told: str) -> None:
    """Prints how well what was in is told from what was left out; nothing where there was too little."""
    if not held["attacks"]:
        return
    console, table = Console(), Table(box=None, pad_edge=False)
    for name in (told, "area under the curve", "found at 1 % false alarms", "at 0.1 %"):
        table.add_column(name)
    for row in held["attacks"]:
        rates = ("not measurable" if rate is None else _rate(rate) for rate in row["found"].values())
        table.add_row(row["attack"], _rate(row["area"]), *rates)
    print_text(console, f"{of} of real users. {held['stamp']}", "bold")
    console.print(table)


def _rate(rate: dict[str, float]) -> str:
    return f"{rate['value']:.3f} ({rate['low']:.3f} to {rate['high']:.3f})"


def compared(first: AuditDocument, second: AuditDocument) -> list[tuple[str, Any, Any]]:
    """What two audits say, row by row: the name, and the value of each; None where one has no such row."""
    rows: dict[str, list[Any]] = {}
    for place, held in enumerate((first, second)):
        for name, value in _facts(held).items():
            rows.setdefault(name, [None, None])[place] = value
    return [(name, one, other) for name, (one, other) in rows.items()]


def _facts(held: AuditDocument) -> dict[str, Any]:
    results = held.results
    return {
        "run": held.name,
        "created": held.created,
        "verdict": results.verdict,
        "failures": len(results.failures),
        "warnings": len(results.warnings),
        "canaries": held.protocol.canaries,
        "unit": held.statement.unit,
        "neighboring relation": held.statement.neighboring_relation,
        "delta": wording.delta_text(held.statement.delta),
        "releases counted": sum(one.steps for one in (*held.statement.earlier_events, *held.statement.events)),
        **{
            f"claim against {WHO[claim.adversary]}": claim.epsilon if claim.protected else None
            for claim in held.statement.claims
        },
        **{f"lower bound, {one.method}, {one.view}": one.epsilon for one in results.bounds},
        **{f"estimate, {one.method}, {one.view}": one.epsilon for one in results.estimates},
        **{f"area under the curve, {one.view}": one.area.value for one in results.rates if one.area is not None},
    }


def print_comparison(rows: Sequence[tuple[str, Any, Any]]) -> None:
    """Prints two audits side by side."""
    table = Table(box=None, pad_edge=False)
    for name in ("", "first", "second"):
        table.add_column(name)
    for name, *values in rows:
        table.add_row(plain(name), *(_value(value) for value in values))
    Console().print(table)


def _value(value: Any) -> str:
    if value is None:
        return wording.MISSING
    return f"{value:.3f}" if isinstance(value, float) else plain(value)


def _row(table: Table, what: str, row: dict[str, Any], epsilon: str) -> None:
    table.add_row(what, row["view"], epsilon, wording.at_most(row["claimed"]))


def _interval(row: dict[str, Any]) -> str:
    high = "" if row["high"] is None else f" to {wording.at_most(row['high'])}"
    return f"{wording.at_most(row['epsilon'])} ({wording.at_least(row['low'])}{high})"
