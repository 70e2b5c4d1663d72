"""The release report's page: `release.json` rendered to one self-contained HTML file that may be handed out.

Lives here: which accounted or public value stands where. Never here: a value of the research record, or a link to its page;
an epsilon that was not read. What a privacy officer is given must not promise more than the run does: where the run is not
private the page says so before anything else and shows no epsilon, and where the headline bound rests on something that is
missing it is called arithmetic.
"""

from pathlib import Path
from typing import Any

from markupsafe import Markup

from server.reporting import document, protection, reading, records, released
from server.reporting.charts import Bar, Point, Reference, bar_chart, line_chart
from server.reporting.records import ReleaseRecord
from shared import wording

# The page of an audit, beside the release report's.
AUDIT_PAGE = "audit.html"
_STAMP_WITHOUT_PRIVACY = "This run makes no claim, and nothing of it may be released as private."
# What stands elsewhere on the page, or says nothing to people.
_NOT_IDENTITY = {"schema", "epsilon", "delta"}


def render_release(report: ReleaseRecord, *, audited: bool = False) -> str:
    """Renders a release report as one HTML page that needs no network and no other file.

    Guarantee:
        Text of the report is escaped, the page holds no script and no reference that a browser loads, and where the run is
        not private it shows no epsilon as a bound.

    Args:
        report: The release report; null is shown as missing, an epsilon that is null as infinity. (public)
        audited: Whether the page of an audit stands beside it, to be linked.

    Returns:
        The page.
    """
    claim = protection.headline(report)
    return document.render(
        "release.html",
        name=report.name or "unnamed run",
        audited=audited,
        is_private=report.is_private,
        stamp=report.stamp if report.is_private else _STAMP_WITHOUT_PRIVACY,
        trains=bool(report.mechanism.rounds),
        round_number=wording.finite(report.identity.get("round_number")),
        claim=claim,
        claims=protection.claim_rows(report),
        bounds=protection.bounds(report),
        epsilon=_epsilon_charts(report, claim) if report.is_private else None,
        spending=_spending(report) if report.is_private else None,
        releases=released.release_rows(report) if report.is_private else [],
        selected=released.selection_sentence(report.selection.model_dump()) if report.selection is not None else "",
        metrics=_metrics(report) if report.is_private else [],
        cutoff=wording.count_text(report.k),
        mechanism=_mechanism(report),
        sent=protection.sent_rows(report),
        identity=_identity(report),
        safeguards=protection.safeguards(report),
    )


def write_release_page(run_dir: Path) -> Path:
    """Renders `release.json` of a run to `release.html` beside it.

    Guarantee:
        The page appears whole or not at all; an older page is replaced in one step.

    Args:
        run_dir: The directory of a run.

    Returns:
        The path of the page.

    Raises:
        CheckpointError: If `release.json` is absent, damaged or of another schema.
    """
    page = render_release(records.read_release(run_dir), audited=(run_dir / AUDIT_PAGE).exists())
    return document.write_page(run_dir / "release.html", page)


def _epsilon_charts(report: ReleaseRecord, claim: protection.Headline) -> dict[str, Any]:
    rounds = [(row.round_number, row.epsilon) for row in report.epsilon_over_rounds]
    curve = sorted((row.delta, row.epsilon) for row in report.delta_curve)
    target = report.target_epsilon
    quoted = []
    if claim.epsilon is not None:
        at_delta = f"at delta {wording.delta_text(claim.delta)}:"
        quoted.append(Reference(at_delta, claim.epsilon, wording.epsilon_text(claim.epsilon), True))
    return {
        "over_rounds": line_chart(
            [Point(at, y, f"after round {at:g}: epsilon {wording.epsilon_text(y)}") for at, y in rounds],
            label="Epsilon over rounds",
            x_label="round",
            references=[] if target is None else [Reference("asked for:", target, wording.epsilon_text(target), True)],
            from_zero=True,
            width=440,
        ),
        "over_deltas": protection.delta_curve(curve, quoted),
        "rounds": [(wording.count_text(at), wording.epsilon_text(y)) for at, y in rounds],
        "deltas": [(wording.delta_text(at), wording.epsilon_text(y)) for at, y in reversed(curve)],
    }


def _spending(report: ReleaseRecord) -> dict[str, Any]:
    """What each kind of release would cost alone, beside all together and the cross-check."""
    spending = report.spending
    rows = [
        Bar(f"{released.RELEASES.get(name, name)}, alone", value, "none" if value == 0 else wording.epsilon_text(value))
        for name, value in spending.alone.items()
    ]
    together = "all together, as quoted" if report.continues is None else "all of this run together"
    rows.append(Bar(together, spending.together, wording.epsilon_text(spending.together), highlighted=True))
    checked = spending.rdp_cross_check
    if checked is not None:
        rows.append(Bar("all together, cross-check by Rényi accounting", checked, wording.epsilon_text(checked)))
    return {
        "chart": bar_chart(rows, label="Epsilon of each kind of release"),
        "rows": rows,
        "checked": checked is not None,
        "equal": checked is not None and checked == spending.together,
    }


def _metrics(report: ReleaseRecord) -> list[dict[str, str]]:
    return [
        {
            "target": row.target,
            "round_number": wording.count_text(row.round_number),
            "hr": _released(row.hr),
            "ndcg": _released(row.ndcg),
            "noise": _released(row.noise_half_width, sign="±\N{NO-BREAK SPACE}"),
            "users": "withheld" if row.users is None else wording.count_text(row.users),
        }
        for row in report.metrics
    ]


def _released(value: float | None, *, sign: str = "") -> str:
    return "withheld" if value is None else sign + wording.metric_text(value)


def _mechanism(report: ReleaseRecord) -> list[tuple[str, str]]:
    """What was done; without what was asked for where the run does not keep it."""
    without = frozenset() if report.is_private else frozenset({"target_epsilon", "delta"})
    return protection.mechanism_rows(report, without=without)


def _identity(report: ReleaseRecord) -> dict[str, Any]:
    """What was released: digests in full, for comparison with those of the files."""
    held = report.identity
    return {
        "rows": [
            (name, Markup("<code>{}</code>").format(value) if name.endswith("digest") else value)
            for name, value in document.scalar_rows({key: held[key] for key in held if key not in _NOT_IDENTITY})
        ],
        "files": [(name, str(digest or wording.MISSING)) for name, digest in reading.section(held, "files").items()],
        "versions": document.scalar_rows(reading.section(held, "versions")),
    }
