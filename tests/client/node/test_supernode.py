"""How often a node looks for messages: soon after one, rarely without a run, and never for longer than it was told."""

from __future__ import annotations

import threading
from types import ModuleType, SimpleNamespace

import pytest
from flwr.proto.message_pb2 import ObjectTree
from flwr.supercore.inflatable import inflatable_utils
from hypothesis import given
from hypothesis import strategies as st

from client.node import supernode
from client.node.supernode import ALERT_SECONDS, IDLE_SECONDS, AlertClock, look_again_soon, pause


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


@pytest.mark.parametrize("name", ["pull_objects", "pull_and_inflate_object_from_tree"])
def test_a_part_of_a_message_that_has_not_come_is_looked_for_soon(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Flower's own readers, the second through the first; the negative control is Flower's pause of a second."""
    pauses: list[float] = []

    class Event(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            pauses.append(timeout or 0.0)
            return False

    monkeypatch.setattr(inflatable_utils, "threading", SimpleNamespace(Event=Event, Lock=threading.Lock))
    monkeypatch.setattr(inflatable_utils, "random", SimpleNamespace(uniform=lambda low, high: 0.0))
    module = ModuleType("of Flower")
    vars(module)[name] = vars(inflatable_utils)[name]

    def pulled() -> list[float]:
        pauses.clear()
        looks = iter(range(10))

        def pull(part: str) -> bytes:
            if next(looks) < 8:
                raise inflatable_utils.ObjectUnavailableError(part)
            return b"here"

        if name == "pull_objects":
            assert vars(module)[name](["part"], pull) == {"part": b"here"}
        else:
            tree = ObjectTree(object_id="part", children=[])
            with pytest.raises(ValueError, match="not enough values"):  # what came is no message
                vars(module)[name](tree, pull, lambda part: None)
        return pauses

    assert pulled() == [1.0, 2.0, 4.0, 8.0, 10.0, 10.0, 10.0, 10.0]
    look_again_soon(module, name)
    assert pulled() == [0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.0]
