"""The release report: what may be said about a run in public, accounted or public values only.

The counterpart of the research record: nothing here was computed from a user's data without noise that is in the account.
Counts of who was asked and who answered are not here, because knowing them voids the amplification that an outsider's claim
rests on. The statement of privacy (`shared/privacy/statement.py`) is composed from the plan and from what was asked
(`server/event_log.py`); what the budget was spent on is computed here, and `reporting/` lays it out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from server.checkpoints import asked_in
from server.event_log import Asked, EventLog
from server.reporting.records import (
    Continued,
    EpsilonAfter,
    EpsilonAt,
    ReleasedMetrics,
    ReleaseRecord,
    Selection,
    Spending,
)
from server.reporting.released import selection_of
from shared.config import RunConfig
from shared.files import finite, write_json
from shared.privacy.claims import curve
from shared.privacy.events import Event
from shared.privacy.plan import PrivacyPlan
from shared.privacy.shapes import StatisticShapes
from shared.privacy.statement import Statement, cross_check, statement_of
from shared.run_folder import EVENTS, RELEASE
from shared.versions import versions

# Each point composes anew, and a curve needs no more.
_CURVE_POINTS = 40
# Of the manifest: what the report says elsewhere.
_NOT_IDENTITY = frozenset({"events", "earlier_events", "continues", "epsilon_of_this_run"})
STAMP = "Accounted or public values only."
STAMP_WITHOUT_PRIVACY = "NOT PRIVATE: this run makes no claim, and nothing of it may be released as private."


def write_release_report(
    run_dir: Path,
    config: RunConfig,
    plan: PrivacyPlan,
    shapes: StatisticShapes,
    *,
    facts: dict[str, Any],
    earlier: Sequence[Event] = (),
) -> dict[str, Any]:
    """Composes `release.json` from the plan and the run's events, and writes it.

    Guarantee:
        Every claim is over all that the released recommender was made from: the events of this run, and of the runs that it
        continues. What each kind of release cost, and epsilon over rounds, are this run's alone.

    Args:
        run_dir: The run's folder.
        config: The run. (public)
        plan: Its plan. (public)
        shapes: How large its statistics are. (public)
        facts: The released adapter's manifest. (public)
        earlier: What the runs that are continued released. (public)

    Returns:
        The report.
    """
    log = EventLog(run_dir / EVENTS)
    asked = asked_in(run_dir)
    events = plan.events(**vars(asked))
    statement = statement_of(plan, events, config=config, earlier=earlier, message_bytes=shapes.message_bytes(plan))
    report = ReleaseRecord(
        **{name: getattr(statement, name) for name in Statement.model_fields},
        name=config.run.name,
        stamp=STAMP if plan.is_private else STAMP_WITHOUT_PRIVACY,
        identity=finite(_identity(run_dir, facts)),
        spending=_spending(plan, statement, events),
        epsilon_over_rounds=tuple(_over_rounds(plan, asked, log)),
        delta_curve=tuple(
            EpsilonAt(delta=delta, epsilon=finite(epsilon)) for delta, epsilon in curve(plan, [*earlier, *events])
        ),
        continues=Continued(**facts["continues"]) if facts.get("continues") else None,
        metrics=tuple(
            ReleasedMetrics(**{key: value for key, value in finite(event).items() if key != "event"})
            for event in log.read()
            if event.get("event") == "noised_metrics"
        )
        if plan.is_private
        else (),
        selection=_selection(log) if plan.is_private else None,
        k=config.evaluation.k,
    )
    held = report.as_json()
    write_json(run_dir / RELEASE, held)
    return held


def _identity(run_dir: Path, facts: dict[str, Any]) -> dict[str, Any]:
    """What was released: the manifest without what the report says elsewhere, its digest, and versions."""
    continued = {"continued_manifest_digest": facts["continues"]["manifest_digest"]} if "continues" in facts else {}
    return {
        **{name: value for name, value in facts.items() if name not in _NOT_IDENTITY},
        **continued,
        "manifest_digest": _digest(run_dir / "adapter" / "manifest.json"),
        "versions": versions(),
    }


def _selection(log: EventLog) -> Selection | None:
    found = selection_of(log.read())
    return None if found is None else Selection(**finite(found))


def _spending(plan: PrivacyPlan, statement: Statement, events: list[Event]) -> Spending:
    """What each kind of release of this run would cost alone, and all together with the cross-check by other mathematics."""
    if not plan.is_private:
        return Spending(alone={}, together=None, rdp_cross_check=None)
    parts: dict[str, list[Event]] = {
        one.name: plan.events(rounds=0, released={one.name: one.times}) for one in plan.releases
    }
    if plan.rounds:
        parts["training"] = plan.events(released={})
    return Spending(
        alone={name: finite(plan.epsilon_against(plan.adversary, part)) for name, part in parts.items()},  # type: ignore[arg-type]
        together=statement.epsilon_of_this_run,
        rdp_cross_check=cross_check(plan, events),
    )


def _over_rounds(plan: PrivacyPlan, asked: Asked, log: EventLog) -> list[EpsilonAfter]:
    """Epsilon after the statistics, and after rounds, with the metrics that were released up to then."""
    if not plan.is_private:
        return []
    judged = [
        int(event["round_number"])
        for event in log.read()
        if event.get("event") == "noised_metrics" and event["target"] == "validation"
    ]
    return [
        EpsilonAfter(
            round_number=done,
            epsilon=finite(
                plan.epsilon_after(
                    done,
                    repeated=min(asked.repeated, done),
                    released={
                        **{name: times for name, times in asked.released.items() if name not in ("selection", "metrics")},
                        "metrics": sum(round_number <= done for round_number in judged),
                    },
                )
            ),
        )
        for done in sorted({round(part * asked.rounds / _CURVE_POINTS) for part in range(_CURVE_POINTS + 1)})
    ]


def _digest(path: Path) -> str | None:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else None
