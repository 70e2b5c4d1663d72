"""`events.jsonl`: what a killed process leaves behind swallows nothing, and what was asked is never forgotten."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from server.event_log import Asked, EventLog
from shared.errors import CheckpointError


def test_events_are_read_in_the_order_and_with_the_values_they_were_written_with(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "events.jsonl")
    assert log.read() == []
    log.append("started", rounds=3, noise_multiplier=1.25)
    log.append("round", failures=["red\nline", "ünï\u2028code"], validation=None)
    assert log.read() == [
        {"event": "started", "rounds": 3, "noise_multiplier": 1.25},
        {"event": "round", "failures": ["red\nline", "ünï\u2028code"], "validation": None},
    ]
    assert log.path.read_text(encoding="utf-8").count("\n") == 2


@pytest.mark.parametrize("length", [1, 8, 30])
def test_half_a_line_of_a_killed_process_is_no_event_and_does_not_swallow_the_next_one(tmp_path: Path, length: int) -> None:
    log = EventLog(tmp_path / "events.jsonl")
    log.append("started")
    log.append("asked", purpose="train", round_number=1)
    whole = log.path.read_bytes()
    begun = whole.index(b"\n") + 1
    log.path.write_bytes(whole[: begun + length])
    assert [event["event"] for event in log.read()] == ["started"]
    log.append("asked", purpose="test", round_number=1)
    assert [event["event"] for event in log.read()] == ["started", "asked"]
    assert log.asked() == Asked(released={"metrics": 1})


def test_a_whole_line_without_its_end_stays_an_event(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "events.jsonl")
    log.append("asked", purpose="train", round_number=1)
    log.path.write_bytes(log.path.read_bytes().removesuffix(b"\n"))
    assert log.asked().rounds == 1
    log.append("asked", purpose="train", round_number=2)
    assert log.asked().rounds == 2


def test_every_time_something_was_asked_counts_whatever_became_of_it(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "events.jsonl")
    assert log.asked() == Asked()
    log.append("asked", purpose="popularity")
    for round_number in (1, 2, 2, 3):  # the second round was interrupted and asked for again
        log.append("asked", purpose="train", round_number=round_number)
        log.append("round_dropped" if round_number == 3 else "round", round_number=round_number)
    for purpose in ("validation", "validation", "test"):  # each is a release of metrics, with noise that costs
        log.append("asked", purpose=purpose, round_number=3)
    assert log.asked() == Asked(4, 1, {"popularity": 1, "metrics": 3})
    assert EventLog(log.path).asked() == log.asked()


def test_a_number_that_is_not_finite_is_refused_because_it_is_not_json(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "events.jsonl")
    with pytest.raises(ValueError, match="not JSON compliant"):
        log.append("round", training_loss=float("nan"))
    assert log.read() == []


def _three(path: Path) -> EventLog:
    log = EventLog(path)
    log.append("started", rounds=2)
    log.append("asked", purpose="train", round_number=1)
    log.append("round", round_number=1, clients_answered=3)
    return log


def test_the_head_is_the_hash_of_the_last_line_and_half_a_line_after_it_changes_nothing(tmp_path: Path) -> None:
    log = _three(tmp_path / "events.jsonl")
    content = log.path.read_bytes()
    head = hashlib.sha256(content.split(b"\n")[-2]).hexdigest()
    assert log.head == log.latest == head
    log.path.write_bytes(content + b'{"event": "as')
    assert log.head == log.latest == head
    log.path.write_bytes(content.removesuffix(b"\n"))
    assert log.head == head
    log.append("finished", filler="x" * 2**17)  # longer than what is looked back at at once
    log.append("finished")
    assert log.head not in (head, "")
    assert f'"previous": "{head}"' in log.path.read_text(encoding="utf-8").splitlines()[3]


@pytest.mark.parametrize(
    "change",
    [
        lambda lines: [lines[0], lines[1].replace(b": 1", b": 2"), lines[2]],
        lambda lines: [lines[0], lines[2]],
        lambda lines: lines[1:2] + lines[:1] + lines[2:],
        lambda lines: [lines[0], lines[0], *lines[1:]],
        lambda lines: [lines[0], b"", *lines[1:]],
        lambda lines: [lines[0], b"no event", *lines[1:]],
        lambda lines: [b'{"event": "started", "rounds": 2}', *lines[1:]],
        lambda lines: [],
    ],
    ids=["changed", "left out", "moved", "twice", "an empty one", "a damaged one", "of an earlier version", "none"],
)
def test_a_log_that_was_changed_has_no_head(tmp_path: Path, change: Callable[[list[bytes]], list[bytes]]) -> None:
    log = _three(tmp_path / "events.jsonl")
    lines = log.path.read_bytes().split(b"\n")[:-1]
    log.path.write_bytes(b"".join(line + b"\n" for line in change(lines)))
    with pytest.raises(CheckpointError, match=r"^Expected each line of events\.jsonl to follow from the line before"):
        _ = log.head


def test_guarantee_the_head_tells_nothing_of_what_was_counted(tmp_path: Path) -> None:
    """The same events have another head each time, so nobody finds the counts by trying them."""
    assert _three(tmp_path / "one.jsonl").head != _three(tmp_path / "other.jsonl").head


def test_guarantee_who_knows_one_head_cannot_try_what_the_next_event_said(tmp_path: Path) -> None:
    log = _three(tmp_path / "one.jsonl")
    (tmp_path / "copy.jsonl").write_bytes(log.path.read_bytes())
    copy = EventLog(tmp_path / "copy.jsonl")
    assert log.latest == copy.latest
    for one in (log, copy):
        one.append("round", clients_answered=3)
    assert log.latest != copy.latest
    assert log.read() == copy.read()


def test_a_log_without_lines_has_no_latest_head(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="to follow from the line before"):
        _ = EventLog(tmp_path / "events.jsonl").latest
