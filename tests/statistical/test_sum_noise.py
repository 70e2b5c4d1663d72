"""The noise that is really in a released sum: whole releases, from packed contributions of known vectors to decoded sums.

Nothing here asks the encoding or the noise how much it is: what is released, minus the exact sum of what was sent, is
compared with the plan's own numbers. Negative controls: 2/3 and 3/2 of the scale must be rejected. The replayable sources
make the tests repeat exactly; set TACIT_FRESH_SEEDS=1 for seeds from the system.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from numpy.typing import NDArray

from server.event_log import EventLog
from server.membership import FixedMembers
from server.releases import Releases
from shared.config import TrainingSection
from shared.errors import PolicyRefused
from shared.model.state import RecommenderState
from shared.privacy.plan import PrivacyPlan
from shared.protocol.messages import ContributionReply, ReleaseInstruction, TrainInstruction
from shared.randomness import replayable_source
from shared.secagg.encoding import ROUNDING_MARGIN
from simulations.engines.local_grid import InProcessGrid
from tests.alone import clipped_update, pack
from tests.plans import central_plan, distributed_plan

Z = 5.0  # two-sided false-alarm rate 6e-7 for a normal statistic
SEED = int.from_bytes(os.urandom(4), "little") if os.environ.get("TACIT_FRESH_SEEDS") else 0
SIZE = 8_192
NODES = 8
CLIP = 0.5
STATE = RecommenderState(np.zeros(2, dtype=np.float32), np.zeros(2, dtype=np.float32))


def _variance_is(sample: NDArray[np.floating[Any]], stddev: float) -> bool:
    """The sum of squares over the variance is chi-squared with n degrees: for large n normal, mean n, variance 2n."""
    return bool(abs(np.square(sample).sum() / stddev**2 - sample.size) < Z * math.sqrt(2 * sample.size))


def _holds_for(sample: NDArray[np.floating[Any]], stddev: float) -> None:
    """The claim, and that the test would have noticed two thirds and three halves of it."""
    assert _variance_is(sample, stddev), f"stddev {math.sqrt(np.square(sample).mean()):.5g}, promised {stddev:.5g}"
    assert not _variance_is(sample, stddev * 2 / 3)
    assert not _variance_is(sample, stddev * 3 / 2)


class Clients:
    """Clients that send known vectors; from node `answering` on they refuse."""

    def __init__(self, plan: PrivacyPlan, folder: Path, *, nodes: int = NODES, answering: int = NODES) -> None:
        self.answering = answering
        self.sent: dict[int, NDArray[np.float64]] = {}
        self._round = 0
        app = ClientApp()

        @app.train()
        def train(message: Message, context: Context) -> Message:
            task = TrainInstruction.from_message(message)
            rng = np.random.default_rng([self._round, self._node(context)])
            update = (rng.normal(size=SIZE) * 0.9 * task.l2_clip_norm / math.sqrt(SIZE)).astype(np.float32)
            contribution = clipped_update(update, plan=task.plan, l2_clip_norm=task.l2_clip_norm)
            encoding = task.plan.update_encoding(SIZE, l2_clip_norm=task.l2_clip_norm)
            return self._reply(contribution, encoding, task.plan, message, context)

        @app.query("popularity")
        def query(message: Message, context: Context) -> Message:
            sent = ReleaseInstruction.from_message(message).plan
            counts = np.zeros(SIZE)
            counts[self._node(context) :: 512] = 0.25  # sixteen items, so norm 1
            return self._reply(counts, sent.release_encoding(sent.release("popularity"), SIZE), sent, message, context)

        @app.query("metrics")
        def measure(message: Message, context: Context) -> Message:
            sent = ReleaseInstruction.from_message(message).plan
            hit = np.array([0.2, 0.2, 0.95])  # norm 0.99, and a count of 1.6 users
            return self._reply(hit, sent.release_encoding(sent.release("metrics"), 3), sent, message, context)

        grid = InProcessGrid(app, num_nodes=nodes, run_config={})
        log = EventLog(folder / "events.jsonl")
        log.append("started")
        nodes_of_grid = list(grid.get_node_ids())
        self.releases = Releases(
            grid, FixedMembers(nodes_of_grid), plan, TrainingSection(), log,
            before_asking=lambda purpose, round_number, instruction: None, run_id="run", seed=SEED, timeout_seconds=5,
        )  # fmt: skip
        self._plan = plan

    @staticmethod
    def _node(context: Context) -> int:
        return int(context.node_config["partition-id"])

    def _reply(self, vector: NDArray[Any], encoding: Any, plan: PrivacyPlan, message: Message, context: Context) -> Message:
        node = self._node(context)
        if node >= self.answering:
            raise PolicyRefused("not today")
        self.sent[node] = vector.astype(np.float64)
        source = replayable_source(SEED, "client", node, message.metadata.message_type, self._round)
        return Message(ContributionReply(pack(vector, encoding, plan=plan, source=source)).to_record(), reply_to=message)

    def noise_of_update(self, round_number: int = 1) -> NDArray[np.float64]:
        """What one round released, minus what was sent."""
        self.sent, self._round = {}, round_number
        outcome = self.releases.update(STATE, round_number=round_number, size=SIZE, l2_clip_norm=CLIP)
        assert outcome.answered == len(self.sent)
        exact = np.sum(list(self.sent.values()), axis=0)
        return outcome.update.astype(np.float64) * self._plan.expected_cohort - exact[:SIZE]

    def noise_of_popularity(self) -> tuple[NDArray[np.float64], float]:
        """The same of the popularity count, and the standard deviation that was said."""
        self.sent = {}
        found = self.releases.statistic("popularity", SIZE)
        assert found is not None
        total, said = found.values, found.noise_stddev
        return total - np.sum(list(self.sent.values()), axis=0), said

    def noise_of_metrics(self, releases: int) -> NDArray[np.float64]:
        """The same of several releases of metrics, in the contributions' unit."""
        found = []
        for number in range(1, releases + 1):
            self.sent, self._round = {}, number
            metrics = self.releases.metrics(STATE, target="test", round_number=number)
            sums = np.array([metrics.hr * metrics.users, metrics.ndcg * metrics.users, metrics.users]) / math.sqrt(3)
            found.append(sums - np.sum(list(self.sent.values()), axis=0))
        return np.concatenate(found)


CENTRAL = {"num_clients": NODES, "reproducible": True}
SHARED = {**CENTRAL, "minimum_survivors": 5}


@pytest.mark.parametrize("adaptive", [0.0, 0.3], ids=["fixed", "adaptive"])
@pytest.mark.parametrize("answering", [8, 5])
def test_a_central_rounds_sum_carries_the_noise_of_the_plan_whoever_answered(
    tmp_path: Path, answering: int, adaptive: float
) -> None:
    """Null: N(0, (multiplier * bound * (1 + margin))^2) in each of 8,192 values of the sum; bound C / sqrt(1 - share).

    False alarms 6e-7; a scale wrong by 7 % is found with power > .99. Negative controls: 2/3, 3/2, and hardly
    any noise.
    """
    plan = central_plan(**CENTRAL, clipping_share=adaptive)
    noise = Clients(plan, tmp_path, answering=answering).noise_of_update()
    _holds_for(noise, 1.25 * CLIP / math.sqrt(1 - adaptive) * (1 + ROUNDING_MARGIN))
    quiet = Clients(central_plan(**CENTRAL, noise_multiplier=0.05, clipping_share=adaptive), tmp_path, answering=answering)
    assert not _variance_is(quiet.noise_of_update(), 1.25 * CLIP / math.sqrt(1 - adaptive))


@pytest.mark.parametrize("mechanism", ["central", "dp-ftrl-central"])
def test_the_first_round_and_the_count_of_a_server_that_adds_the_noise_carry_the_noise_of_the_plan(
    tmp_path: Path, mechanism: str
) -> None:
    """Null as above; the count's bound is 1 and its multiplier 3. n = 8,192; false alarms 6e-7 each; controls 2/3, 3/2."""
    clients = Clients(central_plan(**CENTRAL, mechanism=mechanism, min_separation=2 if "ftrl" in mechanism else 0), tmp_path)
    counts, said = clients.noise_of_popularity()
    _holds_for(counts, 3.0 * (1 + ROUNDING_MARGIN))
    assert said == pytest.approx(3.0 * (1 + ROUNDING_MARGIN))
    _holds_for(clients.noise_of_update(), 1.25 * CLIP * (1 + ROUNDING_MARGIN))


@pytest.mark.parametrize("adaptive", [0.0, 0.3], ids=["fixed", "adaptive"])
@pytest.mark.parametrize("colluding", [0, 2])
def test_a_sum_of_shares_carries_the_noise_of_the_plan_when_exactly_the_survivors_answer_and_more_when_more_do(
    tmp_path: Path, colluding: int, adaptive: float
) -> None:
    """Null: the plan's variance times answers / (survivors - colluders), n = 8,192; five survivors, 5 and 8 answers.

    False alarms 6e-7; a scale wrong by 7 % is found with power > .99. Negative controls: 2/3, 3/2, the variance of the other
    number of answers, and one share too few.
    """
    plan = distributed_plan(**SHARED, colluding_clients=colluding, clipping_share=adaptive)
    whole = 1.25 * CLIP / math.sqrt(1 - adaptive) * (1 + ROUNDING_MARGIN)
    for answering in (5, 8):
        noise = Clients(plan, tmp_path, answering=answering).noise_of_update()
        _holds_for(noise, whole * math.sqrt(answering / (5 - colluding)))
        assert not _variance_is(noise, whole * math.sqrt((13 - answering) / (5 - colluding)))
        assert not _variance_is(noise, whole * math.sqrt((answering - 1) / (5 - colluding)))
    # What colluders may subtract is their own: exactly the survivors' honest part is the plan's noise.
    honest = Clients(_honest_survivors(plan), tmp_path, answering=5 - colluding).noise_of_update()
    _holds_for(honest, whole)


def _honest_survivors(plan: PrivacyPlan) -> PrivacyPlan:
    """The same share, for a sum of the honest survivors alone: a round that accepts as few."""
    honest = plan.minimum_survivors - plan.colluding_clients
    return distributed_plan(**{**SHARED, "minimum_survivors": honest}, clipping_share=plan.clipping_share)


@pytest.mark.parametrize("answering", [5, 8])
def test_a_popularity_count_of_shares_carries_the_noise_of_the_plan(tmp_path: Path, answering: int) -> None:
    """Null: variance 3^2 times answers / survivors, n = 8,192; false alarms 6e-7; controls 2/3, 3/2, one share too few.

    The standard deviation that is said is that of the answers that came.
    """
    counts, said = Clients(distributed_plan(**SHARED), tmp_path, answering=answering).noise_of_popularity()
    _holds_for(counts, 3.0 * (1 + ROUNDING_MARGIN) * math.sqrt(answering / 5))
    assert not _variance_is(counts, 3.0 * math.sqrt((answering - 1) / 5))
    assert said == pytest.approx(3.0 * (1 + ROUNDING_MARGIN) * math.sqrt(answering / 5))


@pytest.mark.parametrize("name", ["central", "distributed"])
def test_released_metrics_carry_the_noise_of_the_plan(tmp_path: Path, name: str) -> None:
    """Null: variance (0.4 * (1 + margin))^2 in each of 3 x 90 sums; n = 270; exactly the survivors answer.

    False alarms 6e-7; negative controls 2/3 and 3/2 (power > .99). A count of 26 never comes near the 20 below which it is
    withheld.
    """
    common = {"num_clients": 16, "reproducible": True, "evaluation_noise_multiplier": 0.4}
    plan = central_plan(**common) if name == "central" else distributed_plan(**common, minimum_survivors=16)
    _holds_for(Clients(plan, tmp_path, nodes=16, answering=16).noise_of_metrics(90), 0.4 * (1 + ROUNDING_MARGIN))


def test_successive_rounds_of_a_central_run_carry_independent_noise_and_those_of_dp_ftrl_take_it_back(
    tmp_path: Path,
) -> None:
    """Null: correlation 0 of two rounds' noise, n = 8,192, normal with stddev 1/sqrt(n); false alarms 6e-7.

    Negative control, and the second claim: DP-FTRL's rounds, whose correlation is -1/sqrt(5) for two bands.
    """

    def correlation(plan: PrivacyPlan) -> float:
        clients = Clients(plan, tmp_path)
        return float(np.corrcoef(clients.noise_of_update(1), clients.noise_of_update(2))[0, 1])

    assert abs(correlation(central_plan(**CENTRAL))) < Z / math.sqrt(SIZE)
    assert abs(correlation(distributed_plan(**SHARED))) < Z / math.sqrt(SIZE)
    correlated = correlation(central_plan(**CENTRAL, mechanism="dp-ftrl-central", min_separation=2))
    assert abs(math.atanh(correlated) - math.atanh(-1 / math.sqrt(5))) < Z / math.sqrt(SIZE - 3)
    assert abs(correlated) > Z / math.sqrt(SIZE)
