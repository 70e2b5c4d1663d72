"""Secure sums in words: who dropped out when, what it cost a client, nothing where a run has none."""

from __future__ import annotations

from typing import Any

import pytest

from server.reporting.records import SecureSum
from server.reporting.secure_sums import dropped_out, name_of, secure_sums_of, sum_rows, sum_sentence

EVENT: dict[str, Any] = {
    "event": "secure_sum",
    "release": "pairs",
    "round_number": 0,
    "asked": 60,
    "survivors": 56,
    "answered": {"advertise": 60, "choose holders": 59, "share": 59, "mask": 56, "acknowledge": 56, "open": 54},
    "bytes_down": 600_000,
    "bytes_up": 120_000,
    "seconds": 2.5,
}
SUM = SecureSum.model_validate({key: value for key, value in EVENT.items() if key != "event"})


def test_only_secure_sums_are_taken_from_a_runs_events() -> None:
    assert secure_sums_of([{"event": "asked", "purpose": "pairs"}, EVENT, {"event": "finished"}]) == [SUM.model_dump()]
    assert secure_sums_of([]) == []


def test_each_drop_out_is_told_once_by_when_it_came() -> None:
    assert dropped_out(SUM) == "1 before the shares, 3 before their contribution, 2 after it"
    whole = SUM.model_copy(update={"answered": dict.fromkeys(EVENT["answered"], 60)})
    assert dropped_out(whole) == ""
    early = SUM.model_copy(update={"answered": dict.fromkeys(EVENT["answered"], 58)})
    assert dropped_out(early) == "2 before it began"


@pytest.mark.parametrize(
    ("release", "number", "name"),
    [
        ("train", 3, "round 3 of training"),
        ("pairs", 0, "pairs of items"),
        ("refine-pairs", 0, "more of the pairs of items"),
        ("test", 0, "test metrics"),
        ("something", 0, "something"),
    ],
)
def test_a_sum_is_called_by_what_was_added_up(release: str, number: int, name: str) -> None:
    assert name_of(SUM.model_copy(update={"release": release, "round_number": number})) == name


def test_bytes_are_those_of_one_client() -> None:
    ((what, inside, lost, down, up, seconds),) = sum_rows([SUM])
    assert (what, inside, down, up) == ("pairs of items", "56 of 60", "10.0 kB", "2.0 kB")
    assert lost.startswith("1 before the shares")
    assert seconds == "2.5 s"
    said = sum_sentence(EVENT)
    for part in ("pairs of items", "56 of 60", lost, down, up, seconds):
        assert part in said
