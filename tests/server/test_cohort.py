"""The cohort on a real in-process grid: bad replies are dropped and counted, how many there must be, and who is drawn."""

from __future__ import annotations

import dataclasses
import logging
import math
import os
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest
from flwr.app import ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from numpy.typing import NDArray
from scipy import stats

from server import cohort
from shared.errors import CohortTooSmall, SensitivityError
from shared.model.state import check_update
from shared.privacy.plan import PrivacyPlan
from shared.protocol.messages import ContributionReply
from shared.protocol.refusals import refusal_record
from shared.randomness import NoiseSource, replayable_source, secret_source
from simulations.engines.local_grid import InProcessGrid
from tests.plans import central_plan, distributed_plan, silo_plan
from tests.run_files import NODE

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
        def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
            return reversed(list(super().send_and_receive(messages, timeout=timeout)))

    straight = _grid(lambda client, message: _reply(_update(client), message))
    turned = Reversed(straight._client_app, num_nodes=3, run_config={})
    for a, b in zip(_exchange(straight).replies, _exchange(turned).replies, strict=True):
        np.testing.assert_array_equal(a, b)


def _metrics_of_another_type(message: Message) -> Message:
    reply = _reply(_update(1), message)
    reply.content["metrics"] = MetricRecord({"rank": [1, 2]})
    return reply


BAD = {
    "raising": lambda message: 1 / 0,
    "empty": lambda message: Message(RecordDict(), reply_to=message),
    "of another kind": lambda message: Message(RecordDict({"array": ConfigRecord({})}), reply_to=message),
    "of another size": lambda message: _reply(np.ones(SIZE + 1, dtype=np.float32), message),
    "in float64": lambda message: _reply(np.ones(SIZE), message),
    "NaN": lambda message: _reply(np.full(SIZE, np.nan, dtype=np.float32), message),
    "infinite": lambda message: _reply(np.full(SIZE, np.inf, dtype=np.float32), message),
    "with a list for a rank": _metrics_of_another_type,
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


def test_a_refusal_is_told_in_its_own_words_on_one_printable_line() -> None:
    def refuse(client: int, message: Message) -> Message:
        reason = "Expected a run that the owner approved \x1b[2J\n" + "!" * 10_000
        content = refusal_record(
            "not-approved", reason, node=f"n{client}", run="", message_type="train", group="1", now=1, key=NODE
        )
        if client == 2:  # changed on its way
            record: Any = content["refusal"]
            record["refusal"] = record["refusal"].replace(b"owner", b"ownor")
        return Message(content, reply_to=message)

    answers = _exchange(_grid(refuse))
    assert answers.replies == []
    told = [reason for reason in answers.failures if reason.startswith("a node refused (not-approved): Expected a run")]
    assert len(told) == 2 and len(answers.failures) == 3
    assert all(reason.isprintable() and len(reason) == 300 for reason in told)
    with pytest.raises(CohortTooSmall, match="The first failure: a node refused"):
        cohort.require(dataclasses.replace(answers, failures=told), minimum=1, what="training")


def test_a_grid_that_looks_at_the_messages_twice_meets_the_same_ones() -> None:
    """Flower's grid over HTTP numbers the messages first, and sends them in a second look."""

    class Twice(InProcessGrid):
        def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
            first = [id(message) for message in messages]
            assert first == [id(message) for message in messages]
            assert len(first) == 3
            return super().send_and_receive(messages, timeout=timeout)

    app = _grid(lambda client, message: _reply(_update(client), message))._client_app
    answers = _exchange(Twice(app, num_nodes=3, run_config={}))
    assert [reply[0] for reply in answers.replies] == [0, 1, 2]


def test_node_ids_of_64_bits_are_told_apart() -> None:
    """A list of whole numbers on both sides of 2**63 becomes float64 where nobody minds."""
    nodes = [2**63 - 1, 2**63, 2**63 + 1, 2**64 - 1]

    class Large(InProcessGrid):
        def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
            for message in messages:
                yield _reply(_update(message.metadata.dst_node_id - 2**63), message)

    grid = Large(ClientApp(), num_nodes=1, run_config={})
    answers = cohort.exchange(
        grid, nodes[::-1], RecordDict({"fields": ConfigRecord({})}), message_type="train", read=_read, timeout_seconds=5,
        group="1",
    )  # fmt: skip
    assert answers.failures == []
    assert [float(reply[0]) for reply in answers.replies] == [-1.0, 0.0, 1.0, float(np.float32(2**63 - 1))]


def test_a_second_answer_of_a_client_is_left_out_and_told() -> None:
    class Eager(InProcessGrid):
        def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
            answers = list(super().send_and_receive(messages, timeout=timeout))
            return [*answers, answers[1]]

    read: list[float] = []
    app = _grid(lambda client, message: _reply(_update(client), message))._client_app
    answers = _exchange(Eager(app, num_nodes=3, run_config={}), lambda message: read.append(float(_read(message)[0])))
    assert read == [0.0, 1.0, 2.0]
    assert answers.failures == ["a reply from a client that was not asked, or had answered before"]


def test_clients_that_do_not_answer_are_counted() -> None:
    class Deaf(InProcessGrid):
        def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
            return list(super().send_and_receive(messages, timeout=timeout))[1:]

    app = _grid(lambda client, message: _reply(_update(client), message))._client_app
    answers = _exchange(Deaf(app, num_nodes=3, run_config={}))
    assert [reply[0] for reply in answers.replies] == [1, 2]
    assert answers.failures == ["no answer within the deadline"]


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


# Who is drawn.

Z = 5.0  # two-sided false-alarm rate 6e-7 for a normal statistic
SEED = int.from_bytes(os.urandom(4), "little") if os.environ.get("TACIT_FRESH_SEEDS") else 0
ALARM = 6e-7
NODES = list(range(1000, 1200))
ROUNDS = 400


def _source(*labels: int | str) -> NoiseSource:
    return replayable_source(SEED, *labels)


def _drawn(plan: PrivacyPlan, *labels: int | str) -> NDArray[np.bool_]:
    """Who is in the cohort of each round; shape (ROUNDS, nodes)."""
    rows = []
    for round_number in range(1, ROUNDS + 1):
        drawn = cohort.draw(NODES, plan, round_number=round_number, source=_source(*labels, round_number))
        assert drawn == sorted(set(drawn))
        rows.append(np.isin(NODES, drawn))
    return np.array(rows)


def _rate_is(included: NDArray[np.bool_], rate: float) -> bool:
    return bool(stats.binomtest(int(included.sum()), included.size, rate).pvalue > ALARM)


def _size_varies_as_coins(included: NDArray[np.bool_], rate: float) -> bool:
    """Squared deviations of the cohort's size from its mean, over n q (1 - q): mean 1, variance (2 + kurtosis) / rounds."""
    n = included.shape[1]
    variance = n * rate * (1 - rate)
    kurtosis = (1 - 6 * rate * (1 - rate)) / variance
    statistic = float(np.square(included.sum(axis=1) - n * rate).mean() / variance)
    return abs(statistic - 1) < Z * math.sqrt((2 + kurtosis) / len(included))


@pytest.mark.parametrize("make", [central_plan, distributed_plan], ids=["central", "distributed"])
@pytest.mark.parametrize("rate", [0.1, 0.4])
def test_every_node_is_drawn_with_the_plans_rate_independently_of_all_others(make: Any, rate: float) -> None:
    """Null: 200 nodes x 400 rounds of independent coins of the plan's rate. False alarms 6e-7 a statistic.

    Notices a rate wrong by 7 % (at .1) and a size variance of 1/2 or 3/2, each with power > .9. Negative controls: 2/3 and
    3/2 of the rate; cohorts of fixed size at the same rate; cohorts drawn in pairs of nodes; the same cohort in two rounds.
    """
    included = _drawn(make(num_clients=200, sampling_rate=rate), "rate")
    assert _rate_is(included, rate)
    assert not _rate_is(included, rate * 2 / 3)
    assert not _rate_is(included, rate * 3 / 2)
    # Each node by itself: 200 counts, chi-squared with 200 degrees.
    counts = included.sum(axis=0)
    even = np.square(counts - ROUNDS * rate).sum() / (ROUNDS * rate * (1 - rate))
    assert ALARM < stats.chi2.sf(even, len(NODES)) < 1 - ALARM

    assert _size_varies_as_coins(included, rate)
    rng = np.random.default_rng(0)
    fixed = np.array([np.isin(np.arange(200), rng.choice(200, int(200 * rate), replace=False)) for _ in range(ROUNDS)])
    pairs = np.repeat(rng.random((ROUNDS, 100)) < rate, 2, axis=1)
    for wrong in (fixed, pairs):
        assert _rate_is(wrong, rate)
        assert not _size_varies_as_coins(wrong, rate)

    def rounds_are_independent(earlier: NDArray[np.bool_], later: NDArray[np.bool_]) -> bool:
        return abs(np.corrcoef(earlier.ravel(), later.ravel())[0, 1]) < Z / math.sqrt(earlier.size)

    assert rounds_are_independent(included[1:], included[:-1])
    assert not rounds_are_independent(included[1:], included[1:])


def test_a_cohort_above_its_cap_is_cut_to_a_uniformly_drawn_part_of_it() -> None:
    """Null: size min(Binomial(200, .5), 96); each node equally often in. 400 rounds; chi-squared of 200 counts.

    False alarms 6e-7. Negative control: cutting off the last of those drawn (power > .99).
    """
    rate, cap = 0.5, 96
    included = _drawn(central_plan(num_clients=200, sampling_rate=rate, cohort_cap=cap), "cap")
    uncut = _drawn(central_plan(num_clients=200, sampling_rate=rate), "cap")
    sizes = included.sum(axis=1)
    np.testing.assert_array_equal(sizes, np.minimum(uncut.sum(axis=1), cap))
    assert (sizes == cap).sum() > ROUNDS / 2
    assert (sizes < cap).any()
    assert not (included & ~uncut).any()  # a part of those drawn, and nobody else

    def is_uniform(rows: NDArray[np.bool_]) -> bool:
        # Of a cohort of known size s, a node's place has variance (s / n)(1 - s / n), and n - 1 degrees are free.
        share = rows.sum(axis=1) / rows.shape[1]
        statistic = np.square(rows.sum(axis=0) - share.sum()).sum() / (share * (1 - share)).sum() * (1 - 1 / rows.shape[1])
        return bool(stats.chi2.sf(statistic, rows.shape[1] - 1) > ALARM)

    assert is_uniform(included)
    assert not is_uniform(uncut & (uncut.cumsum(axis=1) <= cap))


@pytest.mark.parametrize(("nodes", "separation"), [(23, 5), (4, 4), (7, 1), (3, 5)])
def test_under_dp_ftrl_every_node_takes_part_exactly_once_in_any_separation_rounds_in_a_row(
    nodes: int, separation: int
) -> None:
    plan = central_plan(mechanism="dp-ftrl-central", num_clients=nodes, sampling_rate=0.1, min_separation=separation)
    cohorts = [
        cohort.draw(range(nodes), plan, round_number=number, source=secret_source())
        for number in range(1, 4 * separation + 1)
    ]
    for start in range(3 * separation):
        window = [node for drawn in cohorts[start : start + separation] for node in drawn]
        assert sorted(window) == list(range(nodes))


def test_under_dp_ftrl_another_node_moves_nobody_to_another_round() -> None:
    plan = central_plan(mechanism="dp-ftrl-central", num_clients=50, min_separation=5)
    nodes = [7 * node + 2 for node in range(50)]
    for round_number in range(1, 6):
        with_it = cohort.draw(nodes, plan, round_number=round_number, source=secret_source())
        without = cohort.draw(nodes[:20] + nodes[21:], plan, round_number=round_number, source=secret_source())
        assert without == [node for node in with_it if node != nodes[20]]


@pytest.mark.parametrize(
    "plan",
    [central_plan(), distributed_plan(), silo_plan(), silo_plan(mechanism="dp-ftrl-silo", min_separation=4)],
    ids=["central", "distributed", "silo", "dp-ftrl-silo"],
)
def test_everybody_is_in_the_cohort_when_the_rate_is_one_and_where_clients_are_silos(plan: PrivacyPlan) -> None:
    assert cohort.draw(NODES, plan, round_number=2, source=secret_source()) == NODES


def test_a_replayable_source_draws_the_same_cohort_again_and_a_secret_one_another() -> None:
    plan = central_plan(num_clients=200, sampling_rate=0.5, cohort_cap=90)

    def draw(source: NoiseSource) -> list[int]:
        return cohort.draw(NODES, plan, round_number=1, source=source)

    assert draw(_source("again")) == draw(_source("again"))
    assert draw(_source("again")) != draw(_source("other"))
    assert draw(secret_source()) != draw(secret_source())


def test_a_cohort_may_be_empty() -> None:
    plan = central_plan(num_clients=200, sampling_rate=1e-12)
    assert cohort.draw(NODES, plan, round_number=1, source=secret_source()) == []
