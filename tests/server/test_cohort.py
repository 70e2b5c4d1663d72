"""The cohort on a real in-process grid: bad replies are dropped and counted, and how many there must be."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest
from flwr.app import ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from server import cohort
from shared.errors import CohortTooSmall, SensitivityError
from shared.protocol import ContributionReply
from shared.update import check_update
from simulations.federation import InProcessGrid

SIZE = 4


def _grid(answer: Callable[[int, Message], Message], num_nodes: int = 3) -> InProcessGrid:
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        return answer(int(context.node_config["partition-id"]), message)

    return InProcessGrid(app, num_nodes=num_nodes, run_config={})


def _update(client: int) -> np.ndarray:
    return np.full(SIZE, float(client), dtype=np.float32)


def _reply(update: np.ndarray, message: Message, loss: float | None = None) -> Message:
    return Message(ContributionReply(update, loss).to_record(), reply_to=message)


def _read(message: Message) -> np.ndarray:
    return check_update(ContributionReply.from_message(message, in_ring=False).values, size=SIZE)


def _exchange(grid: InProcessGrid, read: Callable[[Message], Any] = _read) -> cohort.Answers[Any]:
    return cohort.exchange(
        grid, list(grid.get_node_ids()), RecordDict({"fields": ConfigRecord({})}), message_type="train",
        read=read, timeout_seconds=5, group="1",
    )  # fmt: skip


def test_exchange_returns_every_reply_in_the_order_of_nodes() -> None:
    answers = _exchange(_grid(lambda client, message: _reply(_update(client), message)))
    assert [reply[0] for reply in answers.replies] == [0, 1, 2]
    assert (answers.asked, answers.failures) == (3, [])


def test_exchange_does_not_depend_on_who_answers_first() -> None:
    class Reversed(InProcessGrid):
        def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
            return reversed(list(super().pull_messages(message_ids)))

    straight = _grid(lambda client, message: _reply(_update(client), message))
    turned = Reversed(straight._client_app, num_nodes=3, run_config={})
    for a, b in zip(_exchange(straight).replies, _exchange(turned).replies, strict=True):
        np.testing.assert_array_equal(a, b)


def _metrics_of_another_type(message: Message) -> Message:
    reply = _reply(_update(1), message)
    reply.content["metrics"] = MetricRecord({"training_loss": [1.0, 2.0]})
    return reply


BAD = {
    "raising": lambda message: 1 / 0,
    "empty": lambda message: Message(RecordDict(), reply_to=message),
    "of another kind": lambda message: Message(RecordDict({"array": ConfigRecord({})}), reply_to=message),
    "of another size": lambda message: _reply(np.ones(SIZE + 1, dtype=np.float32), message),
    "in float64": lambda message: _reply(np.ones(SIZE), message),
    "NaN": lambda message: _reply(np.full(SIZE, np.nan, dtype=np.float32), message),
    "infinite": lambda message: _reply(np.full(SIZE, np.inf, dtype=np.float32), message),
    "with a list for a loss": _metrics_of_another_type,
}


@pytest.mark.parametrize("kind", BAD)
def test_a_reply_that_is_bad_is_dropped_and_counted_and_the_others_stay(kind: str) -> None:
    grid = _grid(lambda client, message: BAD[kind](message) if client == 1 else _reply(_update(client), message))
    answers = _exchange(grid)
    assert [reply[0] for reply in answers.replies] == [0, 2]
    assert answers.asked == 3
    assert len(answers.failures) == 1


def test_a_reply_that_cannot_be_read_is_told_without_quoting_it() -> None:
    def read(message: Message) -> None:
        raise ValueError("person-7 bought thing-3")

    answers = _exchange(_grid(lambda client, message: _reply(_update(client), message)), read)
    assert answers.replies == []
    assert answers.failures == ["a malformed reply (ValueError)"] * 3


def test_a_failure_reason_is_one_printable_line_of_bounded_length() -> None:
    def fail(client: int, message: Message) -> Message:
        raise SensitivityError("red \x1b[31m\nalert" + "!" * 10_000)

    (reason, *_) = _exchange(_grid(fail)).failures
    assert reason.startswith("red  [31m alert!")
    assert reason.isprintable()
    assert len(reason) == 300


def test_clients_that_do_not_answer_are_counted() -> None:
    class Deaf(InProcessGrid):
        def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
            return list(super().pull_messages(message_ids))[1:]

    app = _grid(lambda client, message: _reply(_update(client), message))._client_app
    answers = _exchange(Deaf(app, num_nodes=3, run_config={}))
    assert [reply[0] for reply in answers.replies] == [1, 2]
    assert answers.failures == ["no answer within the deadline"]


def test_require_passes_on_enough_replies() -> None:
    assert cohort.require(cohort.Answers([1, 2], 3, ["x"]), minimum=2, what="round 1") == [1, 2]


def test_require_refuses_too_few_replies_and_names_the_first_failure() -> None:
    answers: cohort.Answers[int] = cohort.Answers([1], 3, ["disk full", "late"])
    with pytest.raises(
        CohortTooSmall,
        match=r"1 of 3 clients answered round 4; the plan needs 2\. .* The first failure: disk full",
    ):
        cohort.require(answers, minimum=2, what="round 4")


def test_wait_for_nodes_gives_up_at_its_deadline() -> None:
    grid = _grid(lambda client, message: _reply(_update(client), message))
    assert len(cohort.wait_for_nodes(grid, count=3, timeout_seconds=0)) == 3
    with pytest.raises(CohortTooSmall, match="3 of 4 clients connected within 0 seconds"):
        cohort.wait_for_nodes(grid, count=4, timeout_seconds=0.01)


def test_wait_for_nodes_says_whom_it_waits_for(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    grid = _grid(lambda client, message: _reply(_update(client), message))
    monkeypatch.setattr(cohort, "_PATIENCE_SECONDS", 0.0)
    monkeypatch.setattr(logging.getLogger("flwr"), "propagate", True)
    monkeypatch.setattr(logging.getLogger("flwr"), "level", logging.WARNING)
    with pytest.raises(CohortTooSmall, match=r"Start the missing ones; `flwr run` takes their number from"):
        cohort.wait_for_nodes(grid, count=9, timeout_seconds=0.5)
    assert [record.getMessage() for record in caplog.records] == [
        "Waiting for clients: 3 of 9 are connected; giving up after 0 seconds."
    ]
