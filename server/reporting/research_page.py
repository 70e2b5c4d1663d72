"""The page of an audit's research records: what attacks on real users, and on a copy's recommender, achieved.

Lives here: which number of which record stands where. Never here: a number that is in none of them, or anything of the
signed audit. The page says NOT PRIVATE first: nobody's ledger was charged for what it shows.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from server.reporting import document
from server.reporting.charts import Bar, Reference, bar_chart
from shared import wording
from shared.errors import CheckpointError

PAGE: Final = "audit-research.html"
RECORDS: Final = {name: f"audit-{name}.json" for name in ("black-box", "linkage", "attributes", "membership", "windows")}
# Records that say why an attack was not made.
_SKIPPED = ("linkage", "membership", "windows")
_RECOVERED = ("recovered", "recovered_without")
_STAMP: Final = "NOT PRIVATE: measured on real users, and on copies of the run that are in nobody's ledger. Do not publish."

Records = Mapping[str, dict[str, Any]]


def research_records(run_dir: Path) -> dict[str, dict[str, Any]]:
    """Reads the records that an audit left in a run's folder; those that are absent are left out. (private)

    Raises:
        CheckpointError: If one is damaged.
    """
    found = {}
    for name, file in RECORDS.items():
        path = run_dir / file
        if path.exists():
            try:
                found[name] = dict(json.loads(path.read_text("utf-8")))
            except ValueError:
                raise CheckpointError(f"Expected JSON in {file}, found other content. Audit the run again.") from None
    return found


def write_research_page(run_dir: Path, name: str, records: Records) -> Path:
    """Renders the records to `audit-research.html` in a folder; whole or not at all."""
    return document.write_page(run_dir / PAGE, render_research(name, records))


def render_research(name: str, records: Records) -> str:
    """Renders the records as one HTML page that needs no network and no other file.

    Guarantee:
        Text of the records is escaped, and the page holds no script and no reference that a browser loads.

    Args:
        name: Of the run.
        records: By name. (private)
    """
    linkage, attributes = records.get("linkage", {}), records.get("attributes", {})
    return document.render(
        "research.html",
        name=name,
        stamp=_STAMP,
        black_box=_black_box(records.get("black-box")),
        linkage=[_linked(row) for row in linkage.get("rows", [])],
        frontier=_frontier([row for row in linkage.get("frontier", []) if row["rows"]]),
        claimed=None if linkage.get("claimed") is None else wording.at_most(linkage["claimed"]),
        attributes=[_attribute(row) for row in attributes.get("rows", [])],
        skipped=sorted(attributes.get("skipped", {}).items()),
        membership=[_member(row) for row in records.get("membership", {}).get("attacks", [])],
        windows=[_member(row) for row in records.get("windows", {}).get("attacks", [])],
        window_length=records.get("windows", {}).get("length"),
        left_out=[
            record["skipped"]
            for key in ("linkage", "membership", "windows")
            if "skipped" in (record := records.get(key, {}))
        ],
    )


def _black_box(held: dict[str, Any] | None) -> tuple[str, str, str] | None:
    if held is None:
        return None
    area = wording.MISSING if held["area"] is None else _number(held["area"])
    return area, wording.at_least(max(held["lower_bounds"].values())), wording.at_most(held["claimed"])


def _linked(row: dict[str, Any]) -> tuple[str, ...]:
    bounds = row.get("lower_bounds")
    reached = wording.MISSING if bounds is None else wording.at_least(max(bounds.values()))
    return row["part"], _number(row["area"]), reached, _share(row.get("recovered")), _share(row.get("recovered_without"))


def _frontier(held: list[dict[str, Any]]) -> dict[str, Any]:
    """What all parts together give away at each epsilon, as bars with intervals and in a table."""
    bars, rows = [], []
    for one in held:
        together = one["rows"][-1]
        area, asked = together["area"], wording.epsilon_text(one["epsilon"])
        bars.append(Bar(f"ε = {asked}", area["value"], f"{area['value']:.3f}", low=area["low"], high=area["high"]))
        ranked = [row for row in one["rows"] if "recovered" in row]
        best: Mapping[str, Any] = max(ranked, key=lambda row: float(row["recovered"]["value"]), default={})
        rows.append((asked, *_linked({**together, **{name: best.get(name) for name in _RECOVERED}})[1:]))
    chart = bar_chart(bars, label="Area under the curve at each epsilon", limit=Reference("chance", 0.5, "0.5"))
    return {"chart": chart, "rows": rows}


def _attribute(row: dict[str, Any]) -> tuple[str, ...]:
    facts = (wording.count_text(row["values"]), wording.count_text(row["users"]))
    shares = (f"{row['prior']:.1%}", _share(row["accuracy"]), _share(row["gain"]))
    return row["attribute"], row["seen"], *facts, *shares, _number(row["area"])


def _member(row: dict[str, Any]) -> tuple[str, ...]:
    rates = ("not measurable" if rate is None else _share(rate) for rate in row["found"].values())
    return row["attack"], wording.count_text(row["members"]), wording.count_text(row["others"]), _number(row["area"]), *rates


def _number(rate: dict[str, float]) -> str:
    return f"{rate['value']:.3f} ({rate['low']:.3f} to {rate['high']:.3f})"


def _share(rate: dict[str, float] | None) -> str:
    return wording.MISSING if rate is None else f"{rate['value']:.1%} ({rate['low']:.1%} to {rate['high']:.1%})"
