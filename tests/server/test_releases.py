"""Releases on a real in-process grid: who is asked, who is left out, when nothing is released, what divides the sum."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from numpy.typing import NDArray

from server.aggregation import Aggregation
from server.event_log import Asked, EventLog
from server.membership import FixedMembers
from server.releases import Releases
from server.robust import Median, MultiKrum, Rule, TrimmedMean
from shared.config import TrainingSection
from shared.errors import CohortTooSmall, PolicyRefused
from shared.model.low_rank import Pair
from shared.model.state import RecommenderState
from shared.privacy.plan import PrivacyPlan
from shared.protocol.messages import ContributionReply, ReleaseInstruction, TrainInstruction
from shared.randomness import secret_source
from simulations.engines.local_grid import InProcessGrid
from tests.alone import clipped_update, pack
from tests.plans import central_plan, distributed_plan, plain_plan, silo_plan

SIZE = 6
ITEMS = 5
STATE = RecommenderState(np.zeros(ITEMS, dtype=np.float32), np.zeros(SIZE, dtype=np.float32))
Answer = Callable[[int, Message], Message]


class Federation:
    """Releases over tiny clients, and what they were asked."""

    def __init__(self, folder: Path, plan: PrivacyPlan, answer: Answer, *, nodes: int, rule: Rule | None = None) -> None:
        self.asked: list[int] = []
        app = ClientApp()

        def recorded(message: Message, context: Context) -> Message:
            node = int(context.node_config["partition-id"])
            self.asked.append(node)
            return answer(node, message)

        app.train()(recorded)
        app.query("popularity")(recorded)
        app.query("metrics")(recorded)
        grid = InProcessGrid(app, num_nodes=nodes, run_config={})
        self.log = EventLog(folder / "events.jsonl")
        self.releases = Releases(
            grid,
            FixedMembers(list(grid.get_node_ids())),
            plan,
            TrainingSection(optimizer="sgd", learning_rate=20.0),
            self.log,
            before_asking=self._before_asking,
            run_id="run",
            seed=0,
            timeout_seconds=5,
            rule=rule,
        )

    def _before_asking(self, purpose: str, round_number: int, instruction: str | None) -> None:
        self.log.asking(purpose, round_number, instruction)

    def update(self, round_number: int = 1) -> Any:
        return self.releases.update(STATE, round_number=round_number, size=SIZE, l2_clip_norm=0.5)

    def metrics(self) -> Any:
        return self.releases.metrics(STATE, target="test", round_number=1)


def _reply(values: NDArray[Any], message: Message) -> Message:
    return Message(ContributionReply(values).to_record(), reply_to=message)


def _packed(vector: list[float], message: Message) -> Message:
    """What a well-behaved client of one user sends for this vector."""
    if message.metadata.message_type == "train":
        task = TrainInstruction.from_message(message)
        plan, encoding = task.plan, task.plan.update_encoding(SIZE, l2_clip_norm=task.l2_clip_norm)
        contribution = clipped_update(np.array(vector, dtype=np.float32), plan=plan, l2_clip_norm=task.l2_clip_norm)
    elif message.metadata.message_type == "query.popularity":
        plan = ReleaseInstruction.from_message(message).plan
        encoding, contribution = plan.release_encoding(plan.release("popularity"), ITEMS), np.array(vector)
    else:
        plan = ReleaseInstruction.from_message(message).plan
        encoding, contribution = plan.release_encoding(plan.release("metrics"), 3), np.array(vector)
    return _reply(pack(contribution, encoding, plan=plan, source=secret_source()), message)


def _of_kind(message: Message) -> list[float]:
    return {"train": [0.1] * SIZE, "query.popularity": [0.4] * ITEMS}.get(message.metadata.message_type, [0.5] * 3)


# Noise far below what these tests tell apart: ten of its standard deviations in a sum are 0.05.
QUIET = {"noise_multiplier": 0.01}
TEN_DEVIATIONS = 0.05


# Where nothing may be released.


@pytest.mark.parametrize("what", ["update", "popularity", "metrics"])
def test_shares_of_fewer_clients_than_the_plan_counts_on_release_nothing(tmp_path: Path, what: str) -> None:
    def answer(node: int, message: Message) -> Message:
        if node >= 3:
            raise PolicyRefused("not today")
        return _packed(_of_kind(message), message)

    federation = Federation(tmp_path, distributed_plan(num_clients=8, minimum_survivors=4), answer, nodes=8)
    release = {"popularity": lambda: federation.releases.statistic("popularity", ITEMS)}.get(
        what, getattr(federation, what, None)
    )
    with pytest.raises(CohortTooSmall, match=r"3 of 8 clients answered .*; the plan needs 4\. It was dropped and nothing"):
        release()
    assert [event["event"] for event in federation.log.read()] == ["asked"]
    enough = Federation(tmp_path, distributed_plan(num_clients=8, minimum_survivors=3), answer, nodes=8)
    {"popularity": lambda: enough.releases.statistic("popularity", ITEMS)}.get(what, getattr(enough, what, None))()


def test_a_cohort_that_is_smaller_than_the_shares_need_is_not_asked(tmp_path: Path) -> None:
    """Asking would spend budgets on a sum that must stay closed; nothing is written down as asked either."""

    def answer(node: int, message: Message) -> Message:
        return _packed(_of_kind(message), message)

    plan = distributed_plan(num_clients=8, minimum_survivors=4, sampling_rate=1e-9)
    federation = Federation(tmp_path, plan, answer, nodes=8)
    with pytest.raises(CohortTooSmall, match=r"^0 clients were drawn for round 1; the plan needs 4\. .* nobody was asked"):
        federation.update()
    assert federation.asked == []
    assert federation.log.read() == []


def test_a_central_release_that_most_of_those_asked_failed_to_answer_is_dropped(tmp_path: Path) -> None:
    def answer(node: int, message: Message) -> Message:
        if node >= answering:
            raise PolicyRefused("not today")
        return _packed(_of_kind(message), message)

    answering = 4
    federation = Federation(tmp_path, central_plan(num_clients=9), answer, nodes=9)
    with pytest.raises(CohortTooSmall, match=r"4 of 9 clients answered round 1; the plan needs 5\. .* not today"):
        federation.update()
    answering = 5
    outcome = federation.update()
    assert (outcome.asked, outcome.answered, len(outcome.failures)) == (9, 5, 4)
    stricter = Federation(tmp_path, central_plan(num_clients=9, minimum_survivors=6), answer, nodes=9)
    with pytest.raises(CohortTooSmall, match="5 of 9 clients answered the release of popularity; the plan needs 6"):
        stricter.releases.statistic("popularity", ITEMS)


def test_an_empty_cohort_of_a_central_round_releases_noise_alone(tmp_path: Path) -> None:
    """Dropping the round would tell that nobody was drawn, and the noise does not depend on who answered."""
    plan = central_plan(num_clients=4, sampling_rate=1e-12)
    federation = Federation(tmp_path, plan, lambda node, message: _packed([0.1] * SIZE, message), nodes=4)
    outcome = federation.update()
    assert (outcome.asked, outcome.answered, federation.asked) == (0, 0, [])
    assert outcome.update.any()
    assert federation.log.asked().rounds == 1


def test_no_client_is_asked_for_a_popularity_count_that_the_plan_does_not_release(tmp_path: Path) -> None:
    for plan in (central_plan, distributed_plan, silo_plan):
        federation = Federation(
            tmp_path, plan(popularity_noise_multiplier=0.0), lambda node, message: _packed([0.4] * ITEMS, message), nodes=4
        )
        assert federation.releases.statistic("popularity", ITEMS) is None
        assert (federation.asked, federation.log.read()) == ([], [])


def test_what_is_asked_is_written_down_before_anybody_is_asked(tmp_path: Path) -> None:
    class Crash(BaseException):
        pass

    def answer(node: int, message: Message) -> Message:
        raise Crash

    federation = Federation(tmp_path, central_plan(num_clients=4), answer, nodes=4)
    for release in (lambda: federation.releases.statistic("popularity", ITEMS), federation.update, federation.metrics):
        with pytest.raises(Crash, match=r"^$"):
            release()
    assert federation.log.asked() == Asked(1, 0, {"popularity": 1, "metrics": 1})


# Who is left out.

BAD: dict[str, Callable[[Message], Message]] = {
    "a byte short": lambda message: _reply(np.zeros(_bytes(message) - 1, dtype=np.uint8), message),
    "a byte long": lambda message: _reply(np.zeros(_bytes(message) + 1, dtype=np.uint8), message),
    "empty": lambda message: _reply(np.zeros(0, dtype=np.uint8), message),
    "floats": lambda message: _reply(np.zeros(SIZE, dtype=np.float32), message),
    "floats of as many bytes": lambda message: _reply(np.zeros(_bytes(message), dtype=np.float32), message),
    "signed bytes": lambda message: _reply(np.zeros(_bytes(message), dtype=np.int8), message),
    "no array": lambda message: Message(RecordDict({"fields": ConfigRecord({})}), reply_to=message),
}


def _bytes(message: Message) -> int:
    return TrainInstruction.from_message(message).plan.update_encoding(SIZE, l2_clip_norm=0.5).packed_bytes


@pytest.mark.parametrize("kind", BAD)
def test_a_reply_that_is_no_packed_contribution_is_left_out_of_the_sum_and_counted(tmp_path: Path, kind: str) -> None:
    federation = Federation(
        tmp_path,
        central_plan(num_clients=5, **QUIET),
        lambda node, message: BAD[kind](message) if node == 2 else _packed([0.1] * SIZE, message),
        nodes=5,
    )
    outcome = federation.update()
    assert (outcome.asked, outcome.answered, len(outcome.failures)) == (5, 4, 1)
    # A public constant divides: five clients were expected, whoever answered.
    np.testing.assert_allclose(outcome.update, np.full(SIZE, 4 * 0.1 / 5), atol=TEN_DEVIATIONS / 5)


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros(SIZE + 1, dtype=np.float32), np.zeros(SIZE), np.full(SIZE, np.nan, dtype=np.float32),
        np.zeros(SIZE, dtype=np.uint8),
    ],
    ids=["longer", "float64", "NaN", "bytes"],
)  # fmt: skip
def test_a_silos_reply_that_is_no_finite_update_is_left_out_of_the_mean(tmp_path: Path, wrong: NDArray[Any]) -> None:
    def answer(node: int, message: Message) -> Message:
        return _reply(wrong if node == 1 else np.full(SIZE, float(node), dtype=np.float32), message)

    federation = Federation(tmp_path, silo_plan(minimum_survivors=3), answer, nodes=4)
    outcome = federation.update()
    np.testing.assert_array_equal(outcome.update, np.full(SIZE, (0 + 2 + 3) / 3, dtype=np.float32))
    assert (outcome.answered, outcome.bits_sum) == (3, None)
    strict = Federation(tmp_path, silo_plan(minimum_survivors=4), answer, nodes=4)
    with pytest.raises(CohortTooSmall, match="3 of 4 clients answered round 1; the plan needs 4"):
        strict.update()


# Who is asked, and what is made of the answers.


def test_under_dp_ftrl_a_round_asks_those_whose_turn_it_is_and_divides_by_the_expected_cohort(tmp_path: Path) -> None:
    plan = central_plan(mechanism="dp-ftrl-central", num_clients=7, min_separation=3, **QUIET)
    federation = Federation(tmp_path, plan, lambda node, message: _packed(_of_kind(message), message), nodes=7)
    turns = []
    for round_number in (1, 2, 3):
        federation.asked.clear()
        outcome = federation.update(round_number)
        turns.append(list(federation.asked))
        np.testing.assert_allclose(outcome.update, np.full(SIZE, len(turns[-1]) * 0.1 * 3 / 7), atol=TEN_DEVIATIONS * 3 / 7)
    assert sorted(node for drawn in turns for node in drawn) == list(range(7))
    federation.asked.clear()
    federation.releases.statistic("popularity", ITEMS)
    assert federation.asked == list(range(7))  # every other release asks all


def test_a_poisson_cohort_is_drawn_anew_each_round_and_the_others_are_not_asked(tmp_path: Path) -> None:
    plan = central_plan(num_clients=40, sampling_rate=0.5, **QUIET)
    federation = Federation(tmp_path, plan, lambda node, message: _packed([0.1] * SIZE, message), nodes=40)
    cohorts = []
    for round_number in (1, 2):
        federation.asked.clear()
        outcome = federation.update(round_number)
        cohorts.append(tuple(federation.asked))
        assert outcome.asked == len(federation.asked)
        # Divided by 20, however many there were.
        np.testing.assert_allclose(outcome.update, np.full(SIZE, outcome.asked * 0.1 / 20), atol=TEN_DEVIATIONS / 20)
    assert cohorts[0] != cohorts[1]
    assert all(0 < len(cohort) < 40 for cohort in cohorts)


def test_the_bits_of_adaptive_clipping_are_summed_beside_the_update(tmp_path: Path) -> None:
    plan = central_plan(num_clients=6, clipping_share=0.05, **QUIET)
    federation = Federation(
        tmp_path, plan, lambda node, message: _packed([0.1 if node < 4 else 1.0] * SIZE, message), nodes=6
    )
    outcome = federation.update()
    # Four of six norms are within C.
    assert outcome.bits_sum == pytest.approx((4 - 2) * plan.clipping_bit(0.5), abs=TEN_DEVIATIONS)
    assert outcome.update.shape == (SIZE,)
    np.testing.assert_allclose(
        outcome.update, np.full(SIZE, (4 * 0.1 + 2 * 0.5 / math.sqrt(SIZE)) / 6), atol=TEN_DEVIATIONS / 6
    )


def test_silos_counts_are_added_up_and_so_is_the_variance_of_their_noise(tmp_path: Path) -> None:
    def answer(node: int, message: Message) -> Message:
        return _reply(np.full(ITEMS, float(node), dtype=np.float32), message)

    found = Federation(tmp_path, silo_plan(), answer, nodes=4).releases.statistic("popularity", ITEMS)
    assert found is not None
    total, stddev = found.values, found.noise_stddev
    np.testing.assert_array_equal(total, np.full(ITEMS, 6.0))
    assert stddev == pytest.approx(3.0 * 2)
    exact = Federation(tmp_path, plain_plan(), answer, nodes=4).releases.statistic("popularity", ITEMS)
    assert exact is not None
    assert exact.noise_stddev == 0.0


@pytest.mark.parametrize("rule", [None, Median(2), TrimmedMean(2), MultiKrum(2)], ids=str)
def test_silos_that_send_the_longest_replies_allowed_are_outvoted_by_a_rule_and_not_by_a_mean(
    tmp_path: Path, rule: Rule | None
) -> None:
    """Two of seven silos are hostile; the bounds on replies are 337 and 1,900."""

    def answer(node: int, message: Message) -> Message:
        training, hostile = message.metadata.message_type == "train", node in (2, 5)
        size, value = (SIZE, 0.1 + node / 1000) if training else (ITEMS, 30.0 + node)
        return _reply(np.full(size, (100.0 if training else 800.0) if hostile else value, dtype=np.float32), message)

    federation = Federation(tmp_path, silo_plan(num_clients=7), answer, nodes=7, rule=rule)
    outcome, counts = federation.update(), federation.releases.statistic("popularity", ITEMS)
    assert outcome.answered == 7
    assert outcome.failures == []
    follows = rule is None
    assert (np.abs(outcome.update - 0.1) > 1).all() == follows
    assert (np.abs(counts.values - 7 * 33) > 7 * 100).all() == follows
    if rule is not None:
        np.testing.assert_allclose(outcome.update, np.full(SIZE, 0.1), atol=0.0061)
        assert (counts.values >= 7 * 30.0).all()
        assert (counts.values <= 7 * 36.0).all()
        assert counts.noise_stddev == pytest.approx(3.0 * math.sqrt(7) * rule.noise_factor(7))


def test_fewer_replies_than_a_rules_bound_needs_release_nothing(tmp_path: Path) -> None:
    def answer(node: int, message: Message) -> Message:
        if node == 0:
            raise PolicyRefused("no")
        return _reply(np.full(SIZE, 0.1, dtype=np.float32), message)

    plan = silo_plan(num_clients=5, minimum_survivors=3)
    assert Federation(tmp_path, plan, answer, nodes=5, rule=Median(1)).update().answered == 4
    with pytest.raises(CohortTooSmall, match="4 of 5 clients answered round 1; the plan needs 5"):
        Federation(tmp_path, plan, answer, nodes=5, rule=Median(2)).update()


def test_metrics_are_logged_as_they_are_released_and_withheld_ones_as_nothing(tmp_path: Path) -> None:
    values = np.array([15.0, 6.0, 50.0]) / math.sqrt(3)

    def answer(node: int, message: Message) -> Message:
        return _reply(values.astype(np.float32), message)

    federation = Federation(tmp_path, silo_plan(evaluation_noise_multiplier=1.0), answer, nodes=4)
    metrics = federation.metrics()
    assert (metrics.hr, metrics.ndcg, metrics.users) == pytest.approx((0.3, 0.12, 200.0))
    assert metrics.noise_half_width == pytest.approx(1.96 * math.sqrt(3) * 2 / 200 * math.sqrt(1 + 0.3**2))
    louder = Federation(tmp_path, silo_plan(evaluation_noise_multiplier=50.0), answer, nodes=4)
    assert louder.metrics().users is None
    rows = [event for event in federation.log.read() if event["event"] == "noised_metrics"]
    assert [row["hr"] is None for row in rows] == [False, True]
    assert all((row["target"], row["round_number"]) == ("test", 1) for row in rows)


# Silos of different ranks: A (2, 2) lies before B (1, 2), so a prefix of rank 1 has the places 0, 1 and 4.
RANKED = Aggregation(pairs=(Pair("module", 2, 1, 2, a=0, b=4),))


@pytest.mark.parametrize("products", [False, True])
def test_a_prefix_of_the_rank_is_put_in_its_places_and_one_of_another_size_is_left_out(
    tmp_path: Path, products: bool
) -> None:
    def answer(node: int, message: Message) -> Message:
        sent = [
            ContributionReply(np.array([1, 2, 3], np.float32), rank=1),
            ContributionReply(np.array([1, 2, 3, 4, 5, 6], np.float32)),
            ContributionReply(np.array([1, 2, 3, 4, 5, 6], np.float32), rank=9),
            ContributionReply(np.array([1, 2, 3, 4, 5, 6], np.float32), rank=1),
            ContributionReply(np.array([1, 2, 3], np.float32), rank=2),
        ][node]
        return Message(sent.to_record(), reply_to=message)

    federation = Federation(tmp_path, plain_plan(num_clients=5, minimum_survivors=3), answer, nodes=5)
    aggregation = Aggregation(RANKED.pairs, products=products)
    outcome = federation.releases.update(STATE, round_number=1, size=SIZE, l2_clip_norm=0.5, aggregation=aggregation)
    assert outcome.answered == 3
    assert [failure.split(", got")[0] for failure in outcome.failures] == [
        "Expected an update of 3 float32 values", "Expected an update of 6 float32 values"
    ]  # fmt: skip
    if products:
        assert outcome.update is None
        (mean,) = outcome.products.means()
        # From zero: 3 x (1, 2), and twice 5 x (1, 2) + 6 x (3, 4).
        np.testing.assert_allclose(mean.dense(), [[(3 + 23 + 23) / 3, (6 + 34 + 34) / 3]])
    else:
        assert outcome.products is None
        # Places 0, 1 and 4 are of three clients, the others of two.
        np.testing.assert_allclose(outcome.update, [1, 2, 3, 4, (3 + 5 + 5) / 3, 6])


def test_coordinates_that_nobody_has_stay_where_they_are(tmp_path: Path) -> None:
    def answer(node: int, message: Message) -> Message:
        return Message(ContributionReply(np.array([1, 2, 3], np.float32), rank=1).to_record(), reply_to=message)

    federation = Federation(tmp_path, plain_plan(num_clients=2, minimum_survivors=2), answer, nodes=2)
    found = federation.releases.update(STATE, round_number=1, size=SIZE, l2_clip_norm=0.5, aggregation=RANKED)
    np.testing.assert_allclose(found.update, [1, 2, 0, 0, 3, 0])
