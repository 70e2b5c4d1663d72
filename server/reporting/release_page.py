"""The release report's page: `release.json` rendered to one self-contained HTML file that may be handed out.

Lives here: which accounted or public value stands where. Never here: a value of the research record, or a link to its page;
an epsilon that was not read. What a privacy officer is given must not promise more than the run does: where the run is not
private the page says so before anything else and shows no epsilon, not even one that a damaged report holds, and where the
headline bound rests on something that is missing it is called arithmetic.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup

from server.reporting import document, protection, sentences
from server.reporting.charts import Bar, Point, Reference, bar_chart, line_chart
from server.reporting.sentences import entries, finite, section

_STAMP = "Accounted or public values only."
_STAMP_WITHOUT_PRIVACY = "This run makes no claim, and nothing of it may be released as private."
_PARTS = {
    "popularity": "popularity prior",
    "pairs": "pairs of items",
    "transitions": "transitions",
    "refinement": "refinement of one of them",
    "blending": "weights of the scores",
    "selection": "selection",
    "training": "training",
    "metrics": "released metrics",
}
_TOGETHER = "all together, as quoted"
# What stands elsewhere on the page, or says nothing to people.
_NOT_IDENTITY = {"schema", "epsilon", "delta"}


def render_release(report: dict[str, Any]) -> str:
    """Renders a release report as one HTML page that needs no network and no other file.

    Guarantee:
        Text of the report is escaped, the page holds no script and no reference that a browser loads, and where the run is
        not private it shows no epsilon as a bound.

    Args:
        report: A release report of schema `tacit-release-1`, of which every part but the schema may be missing; null, NaN
            and infinity are shown as missing, an epsilon that is missing as infinity. (public)

    Returns:
        The page.

    Raises:
        CheckpointError: If the report is of another schema.
    """
    sentences.check_schema(report, schema=sentences.RELEASE_SCHEMA, name="release.json")
    is_private = report.get("is_private") is True
    claim = protection.headline(report)
    return document.render(
        "release.html",
        name=str(report.get("name") or "unnamed run"),
        is_private=is_private,
        stamp=str(report.get("stamp") or _STAMP) if is_private else _STAMP_WITHOUT_PRIVACY,
        round_number=finite(section(report, "identity").get("round_number")),
        claim=claim,
        claims=protection.claim_rows(report),
        bounds=protection.bounds(report),
        epsilon=_epsilon_charts(report, claim) if is_private else None,
        spending=_spending(report) if is_private else None,
        metrics=_metrics(report) if is_private else [],
        cutoff=sentences.count_text(report.get("k")),
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
        CheckpointError: If `release.json` is absent, not JSON, or of another schema.
    """
    report = document.read_object(
        run_dir / "release.json", advice="Only a finished run has one: continue it with `tacit simulate --resume RUN_DIR`."
    )
    return document.write_page(run_dir / "release.html", render_release(report))


def _epsilon_charts(report: Mapping[str, Any], claim: protection.Headline) -> dict[str, Any]:
    rounds = [
        (at, finite(row.get("epsilon")))
        for row in entries(report, "epsilon_over_rounds")
        if (at := finite(row.get("round_number"))) is not None
    ]
    curve = sorted(
        (at, finite(row.get("epsilon")))
        for row in entries(report, "delta_curve")
        if (at := finite(row.get("delta"))) is not None and 0 < at < 1
    )
    target = finite(section(report, "mechanism").get("target_epsilon"))
    quoted = []
    if claim.epsilon is not None:
        at_delta = f"at delta {sentences.delta_text(claim.delta)}:"
        quoted.append(Reference(at_delta, claim.epsilon, sentences.epsilon_text(claim.epsilon), True))
    return {
        "over_rounds": line_chart(
            [
                Point(at, y, f"after round {at:g}: epsilon {sentences.epsilon_text(y)}")
                for at, y in sorted(rounds, key=_first)
            ],
            label="Epsilon over rounds",
            x_label="round",
            references=[] if target is None else [Reference("asked for:", target, sentences.epsilon_text(target), True)],
            from_zero=True,
            width=440,
        ),
        "over_deltas": line_chart(
            [
                Point(math.log10(at), y, f"delta {sentences.delta_text(at)}: epsilon {sentences.epsilon_text(y)}")
                for at, y in curve
            ],
            label="Epsilon at each delta",
            x_label="δ",
            x_text=lambda exponent: f"1e{exponent:.0f}",
            references=quoted,
            labels="left",
            from_zero=True,
            width=440,
        ),
        "rounds": [(sentences.count_text(at), sentences.epsilon_text(y)) for at, y in rounds],
        "deltas": [(sentences.delta_text(at), sentences.epsilon_text(y)) for at, y in reversed(curve)],
    }


def _first(pair: tuple[float, float | None]) -> float:
    return pair[0]


def _spending(report: Mapping[str, Any]) -> dict[str, Any]:
    """What each kind of release would cost alone, beside all together and the cross-check."""
    spending = section(report, "spending")
    alone = section(spending, "alone")
    rows = [
        Bar(f"{_PARTS.get(name, name)}, alone", finite(value), "none" if value == 0 else sentences.epsilon_text(value))
        for name, value in alone.items()
    ]
    checked = finite(spending.get("rdp_cross_check"))
    if "together" in spending:
        together = spending["together"]
        rows.append(Bar(_TOGETHER, finite(together), sentences.epsilon_text(together), highlighted=True))
    if checked is not None:
        rows.append(Bar("all together, cross-check by Rényi accounting", checked, sentences.epsilon_text(checked)))
    return {
        "chart": bar_chart(rows, label="Epsilon of each kind of release"),
        "rows": rows,
        "checked": checked is not None,
        "equal": checked is not None and checked == finite(spending.get("together")),
    }


def _metrics(report: Mapping[str, Any]) -> list[dict[str, str]]:
    return [
        {
            "target": str(row.get("target") or "not stated"),
            "round_number": sentences.count_text(row.get("round_number")),
            "hr": _released(row, "hr"),
            "ndcg": _released(row, "ndcg"),
            "noise": _released(row, "noise_half_width", sign="±\N{NO-BREAK SPACE}"),
            "users": sentences.count_text(row.get("users")) if finite(row.get("users")) is not None else "withheld",
        }
        for row in entries(report, "metrics")
    ]


def _released(row: Mapping[str, Any], name: str, *, sign: str = "") -> str:
    return "withheld" if finite(row.get(name)) is None else sign + sentences.metric_text(row[name])


def _mechanism(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What was done; without what was asked for where the run does not keep it."""
    held = section(report, "mechanism")
    if report.get("is_private") is not True:
        held = {key: value for key, value in held.items() if key not in ("target_epsilon", "delta")}
    return protection.mechanism_rows({"mechanism": held})


def _identity(report: Mapping[str, Any]) -> dict[str, Any]:
    """What was released: digests in full, because somebody will compare them."""
    held = section(report, "identity")
    return {
        "rows": [
            (name, Markup("<code>{}</code>").format(value) if name.endswith("digest") else value)
            for name, value in document.scalar_rows({key: held[key] for key in held if key not in _NOT_IDENTITY})
        ],
        "files": [(name, str(digest or sentences.MISSING)) for name, digest in section(held, "files").items()],
        "versions": document.scalar_rows(section(held, "versions")),
    }
