"""The release report: what may be said about a run in public, accounted or public values only.

The counterpart of the research record: nothing here was computed from a user's data without noise that is in the account.
Counts of who was asked and who answered are not here, because knowing them voids the amplification that an outsider's claim
rests on. The numbers are composed here from the plan and from what was asked (`event_log.py`); `reporting/` lays them out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from server.checkpoints import asked_in
from server.event_log import Asked, EventLog
from server.reporting.released import selection_of
from shared.config import RunConfig
from shared.errors import UnsupportedMechanism
from shared.files import finite, write_json
from shared.privacy import accounting, claims
from shared.privacy.assumptions import assumptions
from shared.privacy.events import Event, with_known_participation
from shared.privacy.plan import PrivacyPlan
from shared.privacy.releases import KINDS
from shared.privacy.sent import sent_by_a_client
from shared.privacy.shapes import StatisticShapes
from shared.run_folder import EVENTS, RELEASE
from shared.versions import versions

SCHEMA = "tacit-release-1"
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
    everything = [*earlier, *events]
    found = claims.claims(plan, everything)
    report: dict[str, Any] = {
        "schema": SCHEMA,
        "name": config.run.name,
        "stamp": STAMP if plan.is_private else STAMP_WITHOUT_PRIVACY,
        "is_private": plan.is_private,
        "why_not": plan.why_not_private(),
        "identity": {
            **{name: value for name, value in facts.items() if name not in _NOT_IDENTITY},
            **({"continued_manifest_digest": facts["continues"]["manifest_digest"]} if "continues" in facts else {}),
            "manifest_digest": _digest(run_dir / "adapter" / "manifest.json"),
            "versions": versions(),
        },
        "scope": claims.RELEASE_SCOPE,
        "adversary": plan.adversary,
        "claims": [asdict(claim) for claim in found],
        "group": {"accounts": 2, "epsilon": claims.group_claim(plan, everything), "delta": plan.delta},
        "mechanism": mechanism(plan),
        "spending": _spending(plan, events),
        "epsilon_over_rounds": _over_rounds(plan, asked, log),
        "delta_curve": [{"delta": delta, "epsilon": epsilon} for delta, epsilon in claims.curve(plan, everything)],
        "continues": facts.get("continues"),
        "epsilon_of_this_run": facts.get("epsilon_of_this_run"),
        "per_client": per_client(plan, everything),
        "assumptions": assumption_rows(plan, config),
        "sent": [asdict(row) for row in sent_by_a_client(plan, shapes.message_bytes(plan))],
        "warnings": claims.warnings(plan, found),
        "metrics": [
            {key: value for key, value in event.items() if key != "event"}
            for event in log.read()
            if event.get("event") == "noised_metrics"
        ]
        if plan.is_private
        else [],
        "selection": selection_of(log.read()) if plan.is_private else None,
        "k": config.evaluation.k,
        "not_protected": list(claims.NOT_PROTECTED),
    }
    report = finite(report)
    write_json(run_dir / RELEASE, report)
    return report


def mechanism(plan: PrivacyPlan) -> dict[str, Any]:
    """The numbers of a plan that say what was done; every one a public constant."""
    return {
        "name": plan.mechanism,
        "unit": plan.unit,
        "relation": plan.relation,
        "secure_aggregation": plan.secure_aggregation,
        "windows_per_user": plan.windows_per_user,
        "population": plan.population,
        "clients": plan.num_clients,
        "rounds": plan.rounds,
        "steps_per_round": plan.steps_per_round,
        "sampling_rate": plan.sampling_rate,
        "expected_cohort": plan.expected_cohort if plan.clips_whole_updates else plan.num_clients,
        "cohort_cap": plan.cohort_cap,
        "minimum_survivors": plan.minimum_survivors,
        "min_separation": plan.min_separation,
        "noise_multiplier": plan.noise_multiplier,
        "l2_clip_norm": plan.l2_clip_norm,
        "clipping": "adaptive" if plan.clipping_share else "fixed",
        "statistics": ",".join(plan.statistics),
        **{kind.setting: plan.noise_of(kind.name) for kind in KINDS},
        "evaluations": plan.evaluations,
        "delta": plan.delta,
        "target_epsilon": plan.target_epsilon,
    }


def assumption_rows(plan: PrivacyPlan, config: RunConfig) -> list[dict[str, Any]]:
    """What the claims rest on, each with whether it holds in this run and whose claim is void where it does not."""
    return [asdict(found) for found in assumptions(plan, config)]


def per_client(plan: PrivacyPlan, events: list[Event]) -> dict[str, float | None]:
    """The two bounds of one client: for who does not know when it took part, and for who knows that it always did.

    The second is the worst case over clients, a public number; how often one client took part is not.
    """
    if not plan.is_private:
        return {"with_amplification": None, "known_participation": None}

    def bound(spent: list[Event]) -> float:
        return accounting.epsilon(spent, delta=plan.delta, relation=plan.relation)

    return {"with_amplification": bound(events), "known_participation": bound(with_known_participation(events))}


def _spending(plan: PrivacyPlan, events: list[Event]) -> dict[str, Any]:
    """What each kind of release would cost alone, and all together with the cross-check by other mathematics."""
    if not plan.is_private:
        return {}
    parts: dict[str, list[Event]] = {
        one.name: plan.events(rounds=0, released={one.name: one.times}) for one in plan.releases
    }
    if plan.rounds:
        parts["training"] = plan.events(released={})
    return {
        "alone": {name: plan.epsilon_against(plan.adversary, part) for name, part in parts.items()},  # type: ignore[arg-type]
        "together": plan.epsilon_against(plan.adversary, events),  # type: ignore[arg-type]
        "rdp_cross_check": cross_check(plan, events),
    }


def cross_check(plan: PrivacyPlan, events: list[Event]) -> float | None:
    """The Renyi bound on the same events; None where no Renyi bound is known for the mechanism."""
    seen = plan.seen_by(plan.adversary, events) if plan.is_private else None  # type: ignore[arg-type]
    if seen is None:
        return None
    try:
        return accounting.rdp_epsilon(seen, delta=plan.delta, relation=plan.relation)
    except UnsupportedMechanism:
        return None


def _over_rounds(plan: PrivacyPlan, asked: Asked, log: EventLog) -> list[dict[str, float]]:
    """Epsilon after the statistics, and after rounds, with the metrics that were released up to then."""
    if not plan.is_private:
        return []
    judged = [
        int(event["round_number"])
        for event in log.read()
        if event.get("event") == "noised_metrics" and event["target"] == "validation"
    ]
    return [
        {
            "round_number": done,
            "epsilon": plan.epsilon_after(
                done,
                repeated=min(asked.repeated, done),
                released={
                    **{name: times for name, times in asked.released.items() if name not in ("selection", "metrics")},
                    "metrics": sum(round_number <= done for round_number in judged),
                },
            ),
        }
        for done in sorted({round(part * asked.rounds / _CURVE_POINTS) for part in range(_CURVE_POINTS + 1)})
    ]


def _digest(path: Path) -> str | None:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else None
