"""The log of decisions takes bounded room, and nothing that was set aside or deleted takes a contribution back."""

from __future__ import annotations

from pathlib import Path

import pytest

from client.node.decisions import Decisions
from shared.errors import CheckpointError
from shared.hash_chain import HashChain


def _sent(run: str, number: int, message_type: str = "train") -> dict[str, object]:
    return {"decision": "sent", "run": run, "message_type": message_type, "bytes": 1, "time": number}


def _log(path: Path, count: int, largest_bytes: int = 2000) -> Decisions:
    log = Decisions(path / "decisions.jsonl", largest_bytes)
    for number in range(count):
        log.append(_sent(f"run-{number % 3}", number))
        log.append({"decision": "refused", "run": "run-9", "message_type": "train", "bytes": 0, "time": number})
        log.append(_sent("run-0", number, "query.roster"))  # one bit, no contribution
    return log


def test_a_long_log_is_kept_in_bounded_room_and_counts_every_contribution(tmp_path: Path) -> None:
    log = _log(tmp_path, 100)
    assert log.contributions() == {"run-0": 34, "run-1": 33, "run-2": 33}
    files = sorted(path.name for path in tmp_path.iterdir())
    assert files == ["decisions.1.jsonl", "decisions.jsonl"]
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 2 * (2000 + 500)
    kept = log.read()
    times = [body["time"] for body in kept]
    assert times == sorted(times) and times[-1] == 99 and times[0] > 50
    assert Decisions(log.path, 2000).head == log.head == HashChain(log.path).head


def test_a_short_log_is_one_file_with_all_lines(tmp_path: Path) -> None:
    log = _log(tmp_path, 10, 10**6)
    assert len(log.read()) == 30
    assert [path.name for path in tmp_path.iterdir()] == ["decisions.jsonl"]
    assert Decisions(tmp_path / "none.jsonl").read() == []
    assert Decisions(tmp_path / "none.jsonl").contributions() == {}


def test_a_process_that_ended_while_the_log_began_anew_goes_on(tmp_path: Path) -> None:
    log = _log(tmp_path, 5, 10**6)
    log.path.rename(tmp_path / "decisions.1.jsonl")
    before = log.head
    assert log.contributions() == {"run-0": 2, "run-1": 2, "run-2": 1}
    log.append(_sent("run-2", 7))
    assert log.contributions() == {"run-0": 2, "run-1": 2, "run-2": 2}
    assert HashChain(log.path).read()[0]["head"] == before


@pytest.mark.parametrize("fault", ["another before", "a line of the one before", "no first line"])
def test_a_file_that_does_not_follow_from_the_other_is_told(tmp_path: Path, fault: str) -> None:
    log = _log(tmp_path, 40)
    before = tmp_path / "decisions.1.jsonl"
    if fault == "another before":
        before.unlink()
        HashChain(before).append(_sent("run-0", 0))
    elif fault == "a line of the one before":
        before.write_bytes(before.read_bytes().replace(b'"time":', b'"time":1', 1))
    else:
        log.path.unlink()
        HashChain(log.path).append(_sent("run-0", 0))
    with pytest.raises(CheckpointError, match="Expected "):
        log.read()
    with pytest.raises(CheckpointError, match="Expected "):
        log.contributions()
