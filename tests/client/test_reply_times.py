"""Replies leave at multiples of a public time, whatever the work took."""

from __future__ import annotations

import pytest

from client.reply_times import ReplyTime
from tests.clock import Clock


@pytest.mark.parametrize(
    ("bucket", "worked", "left"),
    [(1.5, 0.0, 1.5), (1.5, 0.25, 1.5), (1.5, 1.25, 1.5), (1.5, 2.0, 3.0), (0.5, 2.25, 2.5), (0.0, 0.25, 0.25)],
)
def test_a_reply_is_held_until_the_next_multiple(
    bucket: float, worked: float, left: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr("client.reply_times.time", clock)
    reply_time, start = ReplyTime(), clock.now
    clock.sleep(worked)
    reply_time.hold(bucket)
    assert clock.now - start == left
