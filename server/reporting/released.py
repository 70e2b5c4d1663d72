"""What was released and why, in words, from the events of a run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

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
_CHOSEN: dict[str, str] = {
    "untrained": "the untrained recommender: text similarity and popularity",
    "weighted": "text and popularity with learned weights",
    "pairs": "the recommender with pairs, without transitions",
    "transitions": "the recommender with transitions, without pairs",
    "statistics": "the recommender with statistics",
    "trained": "the recommender with the trained adapter",
}


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
        return f"Released is {_CHOSEN.get(chosen, chosen)}."
    noise = f" ± {half:.4f} of noise" if half else ""
    said = f"on validation its NDCG is {gains[best]:+.4f}{noise} against the untrained one"
    if chosen != "untrained":
        return f"Released is {_CHOSEN.get(chosen, chosen)}: {said}."
    return (
        f"Released is {_CHOSEN['untrained']}. Nothing that was learned did better: {said}. More users, a larger epsilon "
        "or fewer rounds would help."
    )
