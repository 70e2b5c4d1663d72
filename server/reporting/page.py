"""The report page: a run record rendered to one self-contained HTML file.

Lives here: which numbers of the record stand where. Never here: a metric, an epsilon or a bound computed
from data; the only arithmetic is that of layout (the share that a histogram bin is of its total, positions
in a chart). This page is the research record: what may be handed out is on the other one (`release_page.py`),
which shares its style, its table of claims and its promise to load nothing.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup

from server.reporting import cold_items, comparison, document, protection, records, released, secure_sums, sentences
from server.reporting.charts import Bar, Point, Reference, bar_chart, histogram, line_chart
from server.reporting.comparison import ModelRow
from server.reporting.document import digest_text, scalar_text
from server.reporting.reading import entries, section
from server.reporting.records import RunRecord
from shared import wording
from shared.privacy.statement import Statement
from shared.wording import finite

_LINKABLE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)*/?")


def render_report(run: RunRecord) -> str:
    """Renders a run record as one HTML page that needs no network and no other file.

    Guarantee:
        Text of the record is escaped, and the page holds no script and no reference that a browser loads.

    Args:
        run: The run record; null is shown as missing. (private: exact metrics; the page is stamped so)

    Returns:
        The page.
    """
    record = run.as_json()
    return document.render(
        "report.html",
        header=_header(run, record),
        statistics=_statistics(run) if _is_statistics_alone(run) else None,
        learning=_learning_charts(record),
        spending=_spending(run, record),
        secure_sums=secure_sums.sum_rows(run.secure_sums),
        comparison=_comparison(record),
        distribution=_distribution(record),
        cold=cold_items.laid_out(record),
        protection=_protection(run.privacy),
        facts=_facts(record, trains=not _is_statistics_alone(run)),
        rounds=entries(record, "rounds"),
        config=dict(_flat(section(record, "config"))),
        artifacts=_artifacts(record),
    )


def write_report(run_dir: Path) -> Path:
    """Renders `run.json` of a run to `report.html` beside it.

    Guarantee:
        The page appears whole or not at all; an older page is replaced in one step.

    Args:
        run_dir: The directory of a run.

    Returns:
        The path of the page.

    Raises:
        CheckpointError: If `run.json` is absent, damaged or of another schema.
    """
    return document.write_page(run_dir / "report.html", render_report(records.read_run(run_dir)))


def _header(run: RunRecord, record: Mapping[str, Any]) -> dict[str, Any]:
    ndcg, hr = comparison.metric_name(record, "ndcg"), comparison.metric_name(record, "hr")
    own = comparison.model_rows(record)[0]
    return {
        "name": run.name or "unnamed run",
        "created": document.date_text(record.get("created")),
        "interrupted": run.status != "complete",
        "planned_rounds": run.privacy.mechanism.rounds,
        "extent": wording.rounds_text(0 if _is_statistics_alone(run) else len(run.rounds)),
        "stamp": run.stamp,
        "stamp_reason": _stamp_reason(run.stamp),
        "ndcg": own.estimate("test", ndcg),
        "hr": own.estimate("test", hr),
        "ndcg_name": ndcg,
        "hr_name": hr,
        "quality": comparison.quality_sentence(record),
        "claim": protection.headline(run.privacy),
        "release": _release(run),
        "verdict": comparison.verdict(record),
        "sentence": sentences.claim_sentence(run.privacy),
    }


def _is_statistics_alone(run: RunRecord) -> bool:
    """Whether the run was planned without training; a run that was interrupted before its first round is none of these."""
    return not run.privacy.mechanism.rounds and not run.rounds


def _statistics(run: RunRecord) -> dict[str, Any]:
    """What a run without training released, and what the noised comparison of candidates said."""
    selection = run.selection
    half = 1.96 * (selection.noise_stddev or 0.0) if selection is not None else 0.0
    bars = [
        Bar(
            released.CANDIDATES.get(name, name),
            gain,
            wording.signed_text(gain),
            low=gain - half if half else None,
            high=gain + half if half else None,
            highlighted=selection is not None and name == selection.chosen,
        )
        for name, gain in (selection.gains.items() if selection is not None else ())
    ]
    return {
        "rows": released.release_rows(run.privacy),
        "spent": released.spent_sentence(run.privacy),
        "chart": bar_chart(bars, label="Gain of each candidate in NDCG on validation") if bars else None,
        "selected": released.selection_sentence(selection.model_dump()) if selection is not None else "",
    }


def _learning_charts(record: Mapping[str, Any]) -> list[tuple[str, Markup]]:
    rows = _numbered_rounds(record)
    charts = [
        (
            "Training loss",
            line_chart(
                [Point(at, y := finite(row.get("training_loss")), _note(at, "loss", y)) for at, row in rows],
                label="Training loss by round",
                x_label="round",
            ),
        )
    ]
    for stem in ("ndcg", "hr"):
        name = comparison.metric_name(record, stem)
        label = comparison.metric_label(name)
        points = []
        for at, row in rows:
            y = finite(section(row, "validation").get(name))
            points.append(Point(at, y, _note(at, label, y)))
        references = [
            Reference(row.label, mean, f"{mean:.3f}", row.key.startswith("text"))
            for row in comparison.model_rows(record)
            if not row.own and (mean := row.mean("validation", name)) is not None
        ]
        charts.append(
            (
                f"Validation {label}",
                line_chart(points, label=f"Validation {label} by round", x_label="round", references=references),
            )
        )
    return charts


def _spending(run: RunRecord, record: Mapping[str, Any]) -> dict[str, Any]:
    privacy, rows = run.privacy, _numbered_rounds(record)
    total = privacy.target_epsilon
    points = []
    for at, row in rows:
        y = finite(row.get("epsilon_spent"))
        points.append(Point(at, y, f"round {at:g}: epsilon {wording.epsilon_text(y)}"))
    chart = None
    if any(point.y is not None for point in points):
        limit = [] if total is None else [Reference("budget", total, wording.epsilon_text(total), True)]
        chart = line_chart(
            points,
            label="Epsilon spent by round",
            x_label="round",
            references=limit,
            from_zero=True,
            width=440,
        )
    return {
        "is_private": privacy.is_private,
        "why_not": privacy.reason_why_not,
        "chart": chart,
        "spent": _spent(privacy),
        "mechanism": protection.mechanism_rows(privacy),
        "unit": privacy.unit,
        "ledger": [*_ledger(run), *_continued(run)],
    }


def _spent(privacy: Statement) -> list[tuple[str, str]]:
    """What was spent as a whole, for a run whose spending has no course over rounds; nothing where nothing is claimed."""
    if not privacy.is_private or privacy.mechanism.rounds:
        return []
    checked = privacy.rdp_cross_check
    return [
        ("epsilon asked for", wording.asked_text(privacy.target_epsilon)),
        ("epsilon spent, all releases together", wording.epsilon_text(privacy.epsilon_of_this_run)),
        *([] if checked is None else [("the same by other mathematics (Rényi)", wording.epsilon_text(checked))]),
        ("delta", wording.delta_text(privacy.delta)),
    ]


def _continued(run: RunRecord) -> list[tuple[str, str]]:
    """Which run this one continues, and what each cost; nothing where it continues none."""
    if run.continues is None:
        return []
    rows = [("continues the model with the manifest", run.continues.manifest_digest[:12])]
    if not run.privacy.is_private:
        return rows
    return [
        *rows,
        ("epsilon that it claimed", wording.epsilon_text(run.continues.epsilon)),
        ("epsilon of this run alone", wording.epsilon_text(run.privacy.epsilon_of_this_run)),
        ("epsilon of all runs together", wording.epsilon_text(run.privacy.epsilon)),
    ]


def _ledger(run: RunRecord) -> list[tuple[str, str]]:
    """What the clients' own ledgers hold; nothing where no ledger was kept."""
    ledger = run.privacy.ledger
    if ledger is None:
        return []
    name = f"largest epsilon of one client, {wording.WITHOUT_AMPLIFICATION}"
    return [
        ("clients with a ledger", wording.count_text(ledger.owners)),
        (
            name if run.privacy.is_private else f"{name} (arithmetic only)",
            wording.epsilon_text(ledger.epsilon_known_participation),
        ),
        ("faulty contributions, replaced by zero", wording.count_text(ledger.faults)),
    ]


def _comparison(record: Mapping[str, Any]) -> dict[str, Any]:
    rows = comparison.model_rows(record)
    names = [comparison.metric_name(record, "ndcg"), comparison.metric_name(record, "hr")]
    ranked = sorted(rows, key=lambda row: -(row.mean("test", names[0]) or 0.0))
    ceiling = section(record, "data", "ceiling")
    charts = []
    for name in names:
        best = finite(ceiling.get(name))
        limit = None if best is None else Reference("best achievable", best, f"{best:.3f}", True)
        charts.append(
            (
                f"Test {comparison.metric_label(name)}",
                bar_chart(
                    [_bar(row, name) for row in ranked if row.mean("test", name) is not None],
                    label=f"Test {comparison.metric_label(name)} by model, with 95 % intervals",
                    limit=limit,
                ),
            )
        )
    every = list(dict.fromkeys(name for row in rows for split in row.metrics for name in section(row.metrics, split)))
    return {
        "rows": rows,
        "charts": charts,
        "columns": [
            ("validation", names[1]),
            ("validation", names[0]),
            ("test", names[1]),
            ("test", names[0]),
        ],
        "ndcg_name": names[0],
        "every_metric": every,
        "splits": [split for split in ("test", "validation") if any(section(row.metrics, split) for row in rows)],
        "ceiling": {name: mean for name in names if (mean := finite(ceiling.get(name))) is not None},
    }


def _bar(row: ModelRow, name: str) -> Bar:
    estimate = row.estimate("test", name)
    return Bar(
        label=row.label + (" (private)" if row.private else ""),
        value=row.mean("test", name),
        text=wording.metric_text(estimate.get("mean")),
        low=finite(estimate.get("low")),
        high=finite(estimate.get("high")),
        highlighted=row.own,
    )


def _distribution(record: Mapping[str, Any]) -> dict[str, Any] | None:
    """Lays out the histogram of the target's rank; a bin runs from its edge to just below the next one."""
    held = section(record, "distribution", "test")
    edges = [int(edge) for edge in held.get("edges") or [] if finite(edge) is not None]
    counts = [int(finite(count) or 0) for count in held.get("counts") or []]
    total = sum(counts)
    if not total or len(edges) < len(counts):
        return None
    lasts = [edge - 1 for edge in edges[1 : len(counts) + 1]]
    bounds: list[tuple[int, int | None]] = [
        (edge, lasts[index] if index < len(lasts) else None) for index, edge in enumerate(edges[: len(counts)])
    ]
    while len(counts) > 1 and counts[-1] == 0:
        counts, bounds = counts[:-1], bounds[:-1]
    cutoff = int(comparison.metric_name(record, "ndcg").partition("@")[2])
    bars, running, half, first = [], 0, None, 0
    for (low, last), count in zip(bounds, counts, strict=True):
        name = f"{low:,}+" if last is None else f"{low:,}" if last == low else f"{low:,}–{last:,}"
        inside = last is not None and last <= cutoff
        share = wording.percent_text(count / total)
        bars.append(Bar(name, float(count), f"{count:,} ({share})", highlighted=inside))
        running += count
        first += count if inside else 0
        half = name if half is None and 2 * running >= total else half
    return {
        "chart": histogram(bars, label="Users by the rank of their held-out item"),
        "bars": bars,
        "users": total,
        "cutoff": cutoff,
        "cutoff_is_edge": any(last == cutoff for _, last in bounds),
        "first_share": wording.percent_text(first / total),
        "half_bin": half,
        "worst_bin": bars[-1].label,
        "worst_share": wording.percent_text(counts[-1] / total),
    }


def _protection(privacy: Statement) -> dict[str, Any]:
    return {
        "claims": protection.claim_rows(privacy),
        "bounds": protection.bounds(privacy),
        **protection.safeguards(privacy),
    }


def _facts(record: Mapping[str, Any], *, trains: bool) -> dict[str, Any]:
    data, model = section(record, "data"), section(record, "model")
    timings = section(record, "timings")
    density = finite(data.get("density"))
    return {
        "data": [
            ("data set", str(data.get("name") or wording.MISSING)),
            ("users", wording.count_text(data.get("users"))),
            ("items", wording.count_text(data.get("items"))),
            ("interactions", wording.count_text(data.get("interactions"))),
            ("density", wording.MISSING if density is None else wording.percent_text(density, 3)),
            ("clients", wording.count_text(data.get("clients"))),
            ("split", str(data.get("split") or wording.MISSING)),
            ("an item's vector is made of", ", ".join(map(str, data.get("modalities") or [])) or wording.MISSING),
            ("catalog declared public", _declared(data.get("public_catalog"))),
            ("digest", digest_text(data.get("digest"))),
        ],
        "repairs": [(name, wording.count_text(count)) for name, count in section(data, "repairs").items()],
        "model": [
            ("backbone", str(model.get("backbone") or wording.MISSING)),
            ("layers used", wording.count_text(model.get("layers"))),
            *(_trained(model) if trains else []),
            ("backbone digest", digest_text(model.get("backbone_digest"))),
            *(_aggregation(record) if trains else []),
        ],
        "timings": [
            (key.removesuffix("_seconds").replace("_", " "), wording.seconds_text(value)) for key, value in timings.items()
        ],
        "versions": [(key, str(value)) for key, value in section(record, "versions").items()],
        "machine": [(key, str(value)) for key, value in section(record, "machine").items()],
        "config_digest": digest_text(record.get("config_digest")),
    }


def _trained(model: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [
        ("adapter parameters", wording.count_text(model.get("adapter_parameters"))),
        ("of these trained", wording.count_text(model.get("trained_parameters"))),
        ("largest upload of training, per client and round", wording.bytes_text(model.get("upload_bytes"))),
    ]


def _aggregation(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    """How the server took the mean, and what the last round's rank could not hold of it."""
    adapter = section(record, "config", "adapter")
    rounds = _numbered_rounds(record)
    name = str(adapter.get("aggregation") or "auto")
    rows = [("mean of", "the clients' products BA" if name in ("stack", "residual") else "the clients' tensors")]
    last = rounds[-1][1] if rounds else {}
    lost, cut = finite(last.get("aggregation_error")), finite(last.get("aggregation_cut"))
    if lost is not None:
        rows.append(("lost beyond the rank, last round", f"{wording.percent_text(lost)} of the norm"))
    if cut is not None and name == "residual":
        rows.append(("kept in the frozen weights, last round", f"{wording.percent_text(cut)} of the norm"))
    return rows


def _declared(public: object) -> str:
    if public is None:
        return wording.MISSING
    return "yes" if public is True else "no: that an item is in it may tell of a user"


def _artifacts(record: Mapping[str, Any]) -> list[tuple[str, str, bool]]:
    """Lists name, path and whether the path is safe to link: relative and inside the run directory."""
    return [
        (str(name), str(path), _LINKABLE.fullmatch(str(path)) is not None)
        for name, path in section(record, "artifacts").items()
    ]


def _release(run: RunRecord) -> str | None:
    """The release report's page beside this one, where the run got as far as releasing something."""
    return "release.html" if run.artifacts.get("release") and run.status == "complete" else None


def _numbered_rounds(record: Mapping[str, Any]) -> list[tuple[float, dict[str, Any]]]:
    return [(at, row) for row in entries(record, "rounds") if (at := finite(row.get("round_number"))) is not None]


def _note(at: float, label: str, value: float | None) -> str:
    return f"round {at:g}: {label} {wording.metric_text(value)}"


def _flat(mapping: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in mapping.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", scalar_text(value)


def _stamp_reason(stamp: str) -> str:
    """The stamp without its first words, which the page sets in bold itself."""
    reason = re.sub(r"^NOT PRIVATE\W*(research record\W*)?", "", stamp) or stamp
    return reason[:1].upper() + reason[1:]
