"""Who is asked: nodes that come, go and come back; who does not take what is handed out is not asked."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

import pytest
from flwr.app import Error, Message
from flwr.supercore.inflatable.inflatable_utils import ObjectPullError, ObjectUnavailableError
from flwr.superlink.grid import http_grid

from server.membership import FixedMembers, OnlineMembers
from server.polling import PollingGrid
from shared.errors import CohortTooSmall
from shared.protocol.distribution import Offer, held_record
from shared.signing import Signed, sign
from simulations.engines.cohort import CohortGrid
from tests.run_files import SERVER

DIGEST, CATALOG = "ab" * 32, b"catalog"


@dataclass
class Network:
    """Flower's grid: nodes keep what they are given, answer late, or with an error."""

    online: list[int]
    holds: dict[int, bool] = field(default_factory=dict)
    failing: set[int] = field(default_factory=set)
    late: dict[int, int] = field(default_factory=dict)
    told: list[tuple[int, str]] = field(default_factory=list)
    _waiting: dict[str, Message] = field(default_factory=dict)

    def __post_init__(self) -> None:
        CohortGrid(num_nodes=1, run_config={})  # says which process sends

    def get_node_ids(self) -> Iterable[int]:
        return list(self.online)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        names = []
        for number, message in enumerate(messages):
            name = f"{len(self.told)}-{number}"
            message.metadata.__dict__["_message_id"] = name
            self._waiting[name] = message
            self.told.append((message.metadata.dst_node_id, message.metadata.message_type))
            names.append(name)
        return names

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        found = []
        for name in sorted(set(message_ids) & set(self._waiting)):
            node = self._waiting[name].metadata.dst_node_id
            if self.late.get(node, 0) > 0:
                self.late[node] -= 1
                continue
            found.append(self._reply(self._waiting.pop(name)))
        return found

    def _reply(self, message: Message) -> Message:
        node = message.metadata.dst_node_id
        if node in self.failing:
            return Message(Error(2, "no"), reply_to=message)
        if message.metadata.message_type == "query.catalog":
            offer = Offer.from_message(message, "catalog")
            self.holds[node] = self.holds.get(node, False) or offer.files.get("catalog.parquet") == CATALOG
            return Message(held_record(self.holds[node]), reply_to=message)
        return Message(held_record(True), reply_to=message)


def _members(network: Network, roster: list[int], **changes: object) -> OnlineMembers:
    def signed() -> Signed:
        return sign("roster", {"version": roster[0]}, SERVER)

    arguments: dict[str, object] = {"most": 10, "timeout_seconds": 0.0, "catalog": (DIGEST, CATALOG), "roster": signed}
    return OnlineMembers(PollingGrid(network), **{**arguments, **changes})  # type: ignore[arg-type]


def test_a_node_gets_the_catalog_once_and_is_asked_from_then_on() -> None:
    network = Network([2, 3], holds={3: True})
    members = _members(network, [1])
    assert list(members.ready(2)) == [2, 3]
    assert [kind for node, kind in network.told if node == 2] == ["query.roster", "query.catalog", "query.catalog"]
    assert [kind for node, kind in network.told if node == 3] == ["query.roster", "query.catalog"]
    before = len(network.told)
    assert list(members.ready(2)) == [2, 3]
    assert len(network.told) == before


def test_nodes_come_and_go_between_requests() -> None:
    network, roster = Network([2, 3]), [1]
    members = _members(network, roster)
    assert list(members.ready(1)) == [2, 3]
    network.online = [3, 4]
    assert list(members.ready(1)) == [3, 4]
    network.online = [2, 3, 4]
    before = len(network.told)
    assert list(members.ready(1)) == [2, 3, 4]  # node 2 is known
    assert len(network.told) == before
    roster[0] = 2  # a node was revoked: everybody learns of it before the next request
    assert list(members.ready(1)) == [2, 3, 4]
    assert {node for node, kind in network.told[before:] if kind == "query.roster"} == {2, 3, 4}


def test_a_node_that_fails_is_not_asked_and_more_than_declared_are_not_either() -> None:
    network = Network([2, 3, 4, 5], failing={3})
    assert list(_members(network, [1]).ready(1)) == [2, 4, 5]
    assert list(_members(network, [1], most=2).ready(1)) == [2, 4]


def test_a_node_that_is_connected_and_silent_holds_nobody_longer_than_the_deadline_and_is_then_left_alone() -> None:
    network, waited = Network([2, 3, 4], late={3: 10**9}), []

    class Noted(PollingGrid):
        def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterator[Message]:
            waited.append(timeout)
            return super().send_and_receive(messages, timeout=0.5)

    members = replace(_members(network, [1], timeout_seconds=0.5), grid=Noted(network))  # type: ignore[arg-type]
    assert list(members.ready(2)) == [2, 4]
    assert set(waited) == {0.5}  # and not the five minutes that a large catalog may take
    before = len(network.told)
    assert list(members.ready(2)) == [2, 4]
    assert len(network.told) == before
    network.late = {}
    members._tried[3] = (members._tried[3][0], -1e9, 30.0)  # its time has come
    assert list(members.ready(2)) == [2, 3, 4]


def test_too_few_nodes_are_waited_for_to_the_deadline_and_nobody_is_asked() -> None:
    with pytest.raises(CohortTooSmall, match=r"1 nodes were ready within 0 seconds; this run needs 2\. Nobody was asked"):
        _members(Network([2, 3], failing={3}), [1]).ready(2)


def test_replies_are_taken_as_they_come_and_late_ones_are_waited_for() -> None:
    network = Network([2, 3, 4], late={2: 3})
    grid = PollingGrid(network)  # type: ignore[arg-type]
    messages = [
        Message(held_record(True), dst_node_id=node, message_type="query.roster", group_id="") for node in network.online
    ]
    assert [reply.metadata.src_node_id for reply in grid.send_and_receive(messages, timeout=10)] == [3, 4, 2]
    network.late = {2: 10**6}
    messages = [Message(held_record(True), dst_node_id=node, message_type="query.roster", group_id="") for node in (2, 3)]
    assert [reply.metadata.src_node_id for reply in grid.send_and_receive(messages, timeout=0.3)] == [3]


def test_a_reply_whose_values_are_withheld_holds_the_others_no_longer_than_the_deadline_and_they_are_taken() -> None:
    class Withholding(Network):
        def _reply(self, message: Message) -> Message:
            if message.metadata.dst_node_id != 2:
                return super()._reply(message)

            def unavailable(name: str) -> bytes:
                raise ObjectUnavailableError(name)

            try:
                http_grid.pull_objects(["a"], unavailable)
            except ObjectPullError:
                return Message(Error(9, "no values"), reply_to=message)
            raise AssertionError("there are no values")

    network = Withholding([2, 3], late={3: 1})  # the other one answers while the values are waited for
    grid = PollingGrid(network)  # type: ignore[arg-type]
    messages = [
        Message(held_record(True), dst_node_id=node, message_type="query.roster", group_id="") for node in network.online
    ]
    replies = list(grid.send_and_receive(messages, timeout=0.5))
    assert [(one.metadata.src_node_id, one.has_error()) for one in replies] == [(2, True), (3, False)]


def test_a_simulations_nodes_are_the_same_throughout() -> None:
    assert list(FixedMembers([1, 2]).ready(5)) == [1, 2]


def test_who_waits_is_told_how_many_are_ready_and_why_the_others_are_not() -> None:
    network, noted = Network([2, 3], failing={3}), []
    members = _members(network, [1], timeout_seconds=2.0, note=lambda *told: noted.append(told))

    def mended(ready: int, needed: int, reasons: object) -> None:
        noted.append((ready, needed, reasons))
        network.failing = set()
        members._tried[3] = (members._tried[3][0], -1e9, 30.0)  # its time has come

    members.note = mended
    assert list(members.ready(2)) == [2, 3]
    assert noted == [(1, 2, ("no",))]


def test_a_node_that_refuses_at_once_is_looked_at_again_after_the_same_pause() -> None:
    members = _members(Network([2, 3], failing={3}), [1])
    for _ in range(4):
        assert list(members.ready(1)) == [2]
        digest, _, pause = members._tried[3]
        assert pause == 30.0
        members._tried[3] = (digest, -1e9, pause)  # its time has come


def test_after_a_request_that_too_few_answered_every_node_is_looked_at_again_before_one_is_asked() -> None:
    network, noted = Network([2, 3, 4]), []
    members = _members(network, [1], timeout_seconds=0.5, note=lambda *told: noted.append(told))
    assert list(members.ready(3)) == [2, 3, 4]
    network.failing = {3}  # its hours are over
    assert list(members.ready(3)) == [2, 3, 4]
    members.look_again()
    with pytest.raises(CohortTooSmall, match=r"2 nodes were ready .* needs 3\. Nobody was asked, .* The first reason: no$"):
        members.ready(3)
    assert noted == [(2, 3, ("no",))]
