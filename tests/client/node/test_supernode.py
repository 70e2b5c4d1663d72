"""How often a node looks for messages: soon after one, rarely without a run, and never for longer than it was told."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.node import supernode
from client.node.supernode import ALERT_SECONDS, IDLE_SECONDS, AlertClock, pause


@given(st.floats(0, 1000), st.floats(0.05, 60))
def test_waiting_prolongs_an_exchange_by_a_fifth_at_most_and_a_node_without_a_run_looks_as_rarely_as_flower(
    since: float, poll: float
) -> None:
    found = pause(since, poll)
    if since >= ALERT_SECONDS:
        assert found == max(poll, IDLE_SECONDS)
    else:
        assert 0.05 <= found <= min(poll, max(0.05, 0.2 * since))


def test_a_look_for_a_reply_is_soon_and_wakes_the_looks_for_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    now, slept = [0.0], []

    def sleep(seconds: float) -> None:
        slept.append(round(seconds, 3))
        now[0] += seconds

    monkeypatch.setattr(supernode.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(supernode.time, "sleep", sleep)
    clock = AlertClock(0.5)
    now[0] = 200.0
    clock.sleep(3)
    clock.sleep(0.5)
    clock.sleep(3)
    now[0] += 10
    clock.sleep(3)
    assert slept == [3.0, 0.05, 0.05, 0.5]
    assert clock.perf_counter is supernode.time.perf_counter
