"""What was released and why, in words, from the events of a run and from its privacy statement."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from shared import wording
from shared.privacy.statement import Statement

# Release -> its name on pages.
RELEASES: dict[str, str] = {
    "popularity": "popularity prior",
    "pairs": "pairs of items",
    "transitions": "transitions",
    "refinement": "refinement of one of them",
    "blending": "weights of the scores",
    "selection": "selection",
    "training": "training",
    "metrics": "released metrics",
}
# Event -> the statistic that it names, for people.
STATISTICS: dict[str, str] = {
    "popularity": "popularity of items",
    "pairs": "pairs of items",
    "transitions": "transitions between texts and factors",
    "blending": "weights of the scores",
    "selection": "comparison of candidates",
    "validation": "validation metrics",
    "test": "test metrics",
}
# Candidate -> its description.
CANDIDATES: dict[str, str] = {
    "untrained": "the untrained recommender: text similarity and popularity",
    "weighted": "text and popularity with learned weights",
    "pairs": "the recommender with pairs, without transitions",
    "transitions": "the recommender with transitions, without pairs",
    "statistics": "the recommender with statistics",
    "trained": "the recommender with the trained adapter",
}


def release_rows(statement: Statement) -> list[tuple[str, str, str, str, str]]:
    """A row per release beside training: name, times, noise multiplier, noise in each sum, share of the budget.

    Args:
        statement: The privacy statement of a run or a plan. (public)
    """
    shares = {one.release: one for one in statement.shares}
    return [
        (
            RELEASES.get(one.name, one.name),
            wording.count_text(one.times),
            wording.rounded_text(one.noise_multiplier, up=False, digits=4) if one.noise_multiplier else "no noise",
            f"{wording.metric_text(shares[one.name].noise_in_the_sum, 2)} users" if one.name in shares else wording.MISSING,
            wording.percent_text(shares[one.name].share, 0) if one.name in shares else wording.MISSING,
        )
        for one in statement.releases
    ]


def spent_sentence(statement: Statement) -> str:
    """How much of the epsilon asked for a private run spent, and on how many releases; empty for any other run."""
    if not statement.is_private:
        return ""
    releases, rounds = sum(one.times for one in statement.releases), statement.mechanism.rounds
    on = f"{releases} release{'' if releases == 1 else 's'}" + (f" and {wording.rounds_text(rounds)}" if rounds else "")
    return (
        f"Spent on {on}: epsilon {wording.epsilon_text(statement.epsilon_of_this_run)} of "
        f"{wording.asked_text(statement.target_epsilon)} asked for, at delta {wording.delta_text(statement.delta)}."
    )


def selection_of(events: Iterable[Mapping[str, Any]]) -> dict[str, Any] | None:
    """What the noised comparison chose, as reports hold it; None where there was none."""
    found = [event for event in events if event.get("event") == "selected"]
    refined = [str(event["statistic"]) for event in events if event.get("event") == "refined"]
    if not found:
        return None
    last = {key: value for key, value in found[-1].items() if key != "event"}
    return {**last, "refined": refined[-1] if refined else None}


def asked_sentence(purpose: str) -> str:
    """What clients were asked for."""
    refines = purpose.startswith("refine-")
    name = STATISTICS.get(purpose.removeprefix("refine-"), purpose)
    return f"Asked all clients for {'more of the ' if refines else ''}{name}."


def selection_sentence(selection: Mapping[str, Any]) -> str:
    """What is released, and what the comparison on validation interactions says for it."""
    chosen = str(selection.get("chosen", ""))
    gains, half = selection.get("gains") or {}, 1.96 * float(selection.get("noise_stddev") or 0.0)
    best = max(gains, key=lambda name: gains[name], default=None)
    if best is None:
        return f"Released is {CANDIDATES.get(chosen, chosen)}."
    noise = f" ± {half:.4f} of noise" if half else ""
    said = f"on validation its NDCG is {gains[best]:+.4f}{noise} against the untrained one"
    if chosen != "untrained":
        return f"Released is {CANDIDATES.get(chosen, chosen)}: {said}."
    return (
        f"Released is {CANDIDATES['untrained']}. Nothing that was learned did better: {said}. More users, a larger epsilon "
        "or fewer rounds would help."
    )
