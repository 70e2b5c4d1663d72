"""The frontier's page: `frontier.json` rendered to one self-contained HTML file.

Lives here: which of its numbers stands where. Never here: a number that is not in the file. The page is a research record:
it says NOT PRIVATE first, because its metrics are exact and its runs spent a budget each.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from server.reporting import comparison, document, records
from server.reporting.charts import Estimate, Reference, interval_chart
from server.reporting.reading import entries, section
from shared import wording
from shared.wording import finite

SCHEMA = "tacit-frontier-1"
LIMITS = {"item_knn": "item-kNN, not private", "no_privacy": "this model, not private"}
# The absence of a stamp makes nothing private.
_DEFAULT_STAMP = "NOT PRIVATE: this page shows exact values that no noise protects."
# Beside the largest epsilon stands the run without privacy, so many doublings to its right.
_BEYOND = 1.5


def write_frontier_page(path: Path, frontier: Mapping[str, Any]) -> Path:
    """Renders a frontier and writes the page."""
    return document.write_page(path, render_frontier(frontier))


def render_frontier(frontier: Mapping[str, Any]) -> str:
    """Renders a frontier as one HTML page that needs no network and no other file.

    Guarantee:
        Text of the frontier is escaped, and the page holds no script and no reference that a browser loads.

    Args:
        frontier: Of schema `tacit-frontier-1`. (private: exact metrics)

    Returns:
        The page.

    Raises:
        CheckpointError: If it is of another schema.
    """
    records.check_schema(frontier, schema=SCHEMA, name="frontier.json")
    names = [str(name) for name in frontier.get("metrics") or []]
    ndcg = next((name for name in names if name.startswith("ndcg")), "ndcg@10")
    facts = [
        ("Users", wording.count_text(frontier.get("users"))),
        ("Items", wording.count_text(frontier.get("items"))),
        ("Interactions", wording.count_text(frontier.get("interactions"))),
        ("Clients", wording.count_text(frontier.get("clients"))),
        ("Split", str(frontier.get("split"))),
        ("Unit of privacy", str(frontier.get("unit"))),
        ("Seeds", ", ".join(str(seed) for seed in frontier.get("seeds") or [])),
    ]
    return document.render(
        "frontier.html",
        data=frontier.get("data"),
        stamp=frontier.get("stamp") or _DEFAULT_STAMP,
        created=document.date_text(frontier.get("created")),
        headline=comparison.metric_label(ndcg),
        charts=[
            (comparison.metric_label(name), _chart(frontier, name)) for name in (ndcg, *(n for n in names if n != ndcg))
        ],
        rows=[_summary_row(one, ndcg, names) for one in entries(frontier, "summary")],
        other_names=[comparison.metric_label(name) for name in names if name != ndcg],
        limits=[(label, wording.metric_text(value)) for label, value in _limits(frontier, ndcg)],
        runs=[_run_row(one, ndcg) for one in entries(frontier, "runs")],
        facts=facts,
        settings=document.scalar_rows(section(frontier, "settings")),
        versions=document.scalar_rows(section(frontier, "versions")),
    )


def positions(epsilons: list[float | None]) -> list[float]:
    """Where epsilons stand on a logarithmic axis; infinity stands to the right of all others."""
    known = [math.log2(epsilon) for epsilon in epsilons if epsilon is not None]
    beyond = max(known, default=0.0) + _BEYOND
    return [beyond if epsilon is None else math.log2(epsilon) for epsilon in epsilons]


def _chart(frontier: Mapping[str, Any], name: str) -> Any:
    summaries = entries(frontier, "summary")
    places = positions([finite(one.get("epsilon")) for one in summaries])
    lines = [
        (style, [_estimate(place, one, which, name, words) for place, one in zip(places, summaries, strict=True)])
        for style, which, words in (("own", "test", "this model"), ("other", "free_baseline", "free baseline"))
    ]
    return interval_chart(
        lines,
        label=f"Test {comparison.metric_label(name)} at each epsilon",
        x_label="epsilon (logarithmic)",
        x_ticks=[(place, wording.asked_text(one.get("epsilon"))) for place, one in zip(places, summaries, strict=True)]
        or [(0, "")],
        references=[Reference(label, value, wording.metric_text(value)) for label, value in _limits(frontier, name)],
    )


def _estimate(place: float, summary: Mapping[str, Any], which: str, name: str, words: str) -> Estimate:
    held = section(summary, which, name)
    interval = wording.interval_text(held)
    note = (
        f"epsilon {wording.asked_text(summary.get('epsilon'))}, {words}: {wording.metric_text(held.get('mean'))} {interval}"
    )
    return Estimate(place, finite(held.get("mean")), finite(held.get("low")), finite(held.get("high")), note.strip())


def _limits(frontier: Mapping[str, Any], name: str) -> list[tuple[str, float]]:
    """Labels and means of the limits that were measured."""
    found = [(label, finite(section(frontier, "limits", key, name).get("mean"))) for key, label in LIMITS.items()]
    return [(label, value) for label, value in found if value is not None]


def _summary_row(summary: Mapping[str, Any], ndcg: str, names: list[str]) -> dict[str, Any]:
    ratio, difference = section(summary, "ratio", ndcg), section(summary, "difference", ndcg)
    chosen = section(summary, "chosen")
    return {
        "epsilon": wording.asked_text(summary.get("epsilon")),
        "own": _cell(section(summary, "test", ndcg)),
        "free": _cell(section(summary, "free_baseline", ndcg)),
        "ratio": (wording.metric_text(ratio.get("mean"), 2), wording.interval_text(ratio, 2)),
        "difference": (wording.signed_text(difference.get("mean")), wording.p_value_text(difference.get("p_value"))),
        "others": [_cell(section(summary, "test", name)) for name in names if name != ndcg],
        "chosen": ", ".join(f"{name} ({count})" for name, count in chosen.items()),
    }


def _cell(estimate: Mapping[str, Any]) -> tuple[str, str]:
    return wording.metric_text(estimate.get("mean")), wording.interval_text(estimate)


def _run_row(run: Mapping[str, Any], ndcg: str) -> dict[str, Any]:
    return {
        "epsilon": wording.asked_text(run.get("epsilon")),
        "seed": run.get("seed"),
        "own": wording.metric_text(section(run, "test").get(ndcg)),
        "free": wording.metric_text(section(run, "free_baseline").get(ndcg)),
        "chosen": run.get("chosen"),
        "seconds": wording.seconds_text(run.get("seconds")),
        "folder": run.get("folder"),
        "stopped": run.get("stopped"),
    }
