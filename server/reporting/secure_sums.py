"""The secure sums of a run in words: how many clients were asked, how many dropped out and when, and the cost."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import Any

from server.reporting.records import SecureSum
from server.reporting.released import STATISTICS
from shared import wording

# Stage of the protocol -> when a client that is missing from it dropped out.
_MISSED = {
    "advertise": "before it began",
    "choose holders": "before the shares",
    "share": "before the shares",
    "mask": "before their contribution",
    "acknowledge": "after it",
    "open": "after it",
}
_NOBODY = "nobody"


def secure_sums_of(events: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The secure sums among a run's events, as `run.json` holds them."""
    return [{name: event[name] for name in SecureSum.model_fields} for event in events if event.get("event") == "secure_sum"]


def name_of(one: SecureSum) -> str:
    """What was added up."""
    if one.release == "train":
        return f"round {wording.count_text(one.round_number)} of training"
    refines = "more of the " if one.release.startswith("refine-") else ""
    return refines + STATISTICS.get(one.release.removeprefix("refine-"), one.release)


def dropped_out(one: SecureSum) -> str:
    """How many clients dropped out, and when; empty if none did."""
    counts = [one.asked, *one.answered.values()]
    lost: dict[str, int] = {}
    for stage, (before, after) in zip(one.answered, pairwise(counts), strict=True):
        when = _MISSED.get(stage, stage)
        lost[when] = lost.get(when, 0) + before - after
    return ", ".join(f"{wording.count_text(count)} {when}" for when, count in lost.items() if count > 0)


def sum_rows(sums: Iterable[SecureSum]) -> list[tuple[str, str, str, str, str, str]]:
    """A row per sum: name, clients in it, clients that dropped out, mean bytes to a client and from a client, time."""
    return [
        (
            name_of(one),
            f"{wording.count_text(one.survivors)} of {wording.count_text(one.asked)}",
            dropped_out(one) or _NOBODY,
            wording.bytes_text(one.bytes_down // max(one.asked, 1)),
            wording.bytes_text(one.bytes_up // max(one.asked, 1)),
            wording.seconds_text(one.seconds),
        )
        for one in sums
    ]


def sum_sentence(event: Mapping[str, Any]) -> str:
    """The sentence on a finished sum for the live display."""
    one = SecureSum.model_validate({name: event[name] for name in SecureSum.model_fields})
    ((name, inside, lost, received, sent, seconds),) = sum_rows([one])
    dropped = "" if lost == _NOBODY else f"; dropped out: {lost}"
    return (
        f"Opened the sum of {name}: {inside} clients are in it{dropped}. On average a client received {received} "
        f"beside the question and sent {sent}; {seconds}."
    )
