"""One release: ask, collect bounded contributions, add them up, and let nothing out that is not noised.

A release is a round's update, or a statistic (`shared/privacy/releases.py`). All go the same way, so there is one place
where the plan's noise meets a sum. Silos' contributions are noised when they come; integers of single users are summed
exactly and noised before they are decoded.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from flwr.app import MessageType, RecordDict
from flwr.serverapp import Grid
from numpy.typing import NDArray

from server import cohort
from server.aggregation import Aggregation, FloatSum, PrefixSum, RingSum
from server.event_log import EventLog
from server.masked_sum import MaskedSums
from server.membership import Members
from server.noise import ServerNoise
from server.product_mean import Products, ProductSum
from server.receipts import Receipts
from server.robust import RobustProducts, RobustSum, Rule
from server.statistics.statistic import Total
from shared.config import TrainingSection
from shared.errors import CohortTooSmall
from shared.metrics.noised import NUM_VALUES, NoisedMetrics, noised_metrics
from shared.model.low_rank import Pair, prefix_mask
from shared.model.state import RecommenderState, check_update
from shared.privacy.plan import PrivacyPlan
from shared.privacy.releases import Purpose, is_sparse, release_of
from shared.protocol.log_heads import instruction_digest, with_head
from shared.protocol.messages import ContributionReply, ReleaseInstruction, Target, TrainInstruction
from shared.protocol.reply_bounds import longest_count, longest_update
from shared.protocol.secure_sums import TRAIN, SumTask
from shared.protocol.wire import SparseValues
from shared.secagg.encoding import RingEncoding

_Add = Callable[[ContributionReply], None]
_OF_WHOLE_UPDATES = Aggregation()
_NOTHING = np.zeros(0, dtype=np.float32)


@dataclass(frozen=True, eq=False)
class RoundOutcome:
    """What one round of training gave.

    Attributes:
        update: (d,) float32, the noised mean; None where products are aggregated.
        products: What came of the clients' products, where these are aggregated.
        bits_sum: Noised sum of adaptive clipping's bits; None where clipping is fixed.
        asked: Clients asked. (opened to holders of the unamplified claim only)
        answered: Clients that answered well.
        failures: Why others did not.
    """

    update: NDArray[np.float32] | None
    products: Products | None
    bits_sum: float | None
    asked: int
    answered: int
    failures: list[str]


class Releases:
    """The releases of one run.

    Args:
        grid: Flower's connection to the nodes.
        members: Who can be asked.
        plan: What is done to contributions.
        training: How clients train, resolved.
        log: Where progress and released metrics are written down.
        before_asking: Told the purpose and the round of each request, and the digest of its instruction, before it is sent;
            writes an event of it; may refuse it by raising.
        run_id: What the clients' ledgers know this run by.
        seed: For reproducible runs.
        timeout_seconds: Deadline of an exchange.
        sums: Secure sums; None where contributions are added up in the open.
        shown: Is shown each noised sum: of every release beside training, and where whole updates are clipped of each round.
        rule: What makes one of the contributions of silos; None for their mean.
    """

    def __init__(
        self,
        grid: Grid,
        members: Members,
        plan: PrivacyPlan,
        training: TrainingSection,
        log: EventLog,
        *,
        before_asking: Callable[[str, int, str | None], None],
        run_id: str,
        seed: int,
        timeout_seconds: float,
        sums: MaskedSums | None = None,
        shown: Callable[[Purpose, int, Total], None] = lambda purpose, round_number, total: None,
        rule: Rule | None = None,
    ) -> None:
        self._shown = shown
        self._grid, self._members, self._plan, self._training, self._log = grid, members, plan, training, log
        self._before_asking = before_asking
        self._run_id, self._timeout_seconds = run_id, timeout_seconds
        self._noise, self._sums, self._rule = ServerNoise(plan, seed=seed), sums, rule

    def dropped(self, event: str, **fields: object) -> None:
        """Logs that too few answered a request, and has every node looked at again before the next one."""
        self._log.append(event, **fields)
        self._members.look_again()

    def statistic(
        self,
        purpose: Purpose,
        size: int,
        *,
        state: NDArray[np.float32] = _NOTHING,
        round_number: int = 0,
        head: Sequence[int] = (),
        step: int = 0,
    ) -> Total | None:
        """The noised sum of all clients' contributions to a release, with the standard deviation of its noise.

        Args:
            purpose: What is asked for.
            size: Values of a contribution.
            state: What was learned so far. (public)
            round_number: Of the state.
            head: The items whose pairs are counted, where these are not the most popular ones by the state. (public)
            step: Which request for this purpose and round it is, where a run has several.

        Returns:
            Of (size,) values; None where the plan has no such release, and nobody is asked.

        Raises:
            CohortTooSmall: If fewer answered than the plan needs; nothing was released.
            BudgetExceeded: If it does not fit into the plan's epsilon any more; nobody was asked.
        """
        plan = self._plan
        release = plan.release(release_of(purpose))
        if release is None:
            return None
        nodes = self._members.ready(self._minimum(self._plan.num_clients))
        asked = ReleaseInstruction(self._run_id, plan, purpose, round_number, state, tuple(head), step).to_record()
        instruction = self._announced(asked, purpose, round_number)
        receipts = Receipts(plan, purpose, round_number)
        encoding = None
        if plan.clips_whole_updates:
            encoding = plan.release_encoding(release, size, sparse=is_sparse(purpose))
        stddev = plan.release_stddev(release)
        bound = longest_count(plan, size=size, noise_stddev=stddev)
        total = _sum_of_statistics(size, encoding, self._rule, bound)
        message_type, group = f"{MessageType.QUERY}.{release.name}", f"{round_number}-{purpose}"
        if isinstance(total, RingSum) and encoding is not None and self._sums is not None:
            task = SumTask.of(self._run_id, round_number, purpose, plan, state, encoding, head=head)
            self._opened(self._sums, nodes, task, instruction, message_type, total, receipts, group=group)
        else:
            answers = self._ask(
                nodes,
                instruction,
                message_type,
                receipts,
                group=group,
                what=purpose,
                add=_adding(total, size, bound),
            )
            self._enough(answers, f"the release of {purpose}")
        if isinstance(total, RingSum) and encoding is not None:
            stddev = plan.released_stddev(encoding, answers=total.count)
            released = Total(self._noised(total, encoding, purpose, round_number, step=step), stddev)
        else:
            factor = 1.0 if self._rule is None else self._rule.noise_factor(total.count)
            released = Total(np.asarray(total.total, dtype=np.float64), stddev * math.sqrt(total.count) * factor)
        self._shown(purpose, round_number, released)
        return released

    def update(
        self,
        state: RecommenderState,
        *,
        round_number: int,
        size: int,
        l2_clip_norm: float,
        aggregation: Aggregation = _OF_WHOLE_UPDATES,
    ) -> RoundOutcome:
        """One round: the noised mean of the cohort's contributions.

        Args:
            state: What the clients start from.
            round_number: From 1.
            size: Trained parameters d.
            l2_clip_norm: This round's bound C.
            aggregation: How updates become one; by default the mean of whole updates.

        Raises:
            CohortTooSmall: If fewer answered than the plan needs; nothing was released.
        """
        plan = self._plan
        nodes = self._members.ready(self._minimum(plan.num_clients))
        drawn = cohort.draw(nodes, plan, round_number=round_number, source=self._noise.source("cohort", round_number))
        if plan.mechanism.shares_noise and len(drawn) < plan.minimum_survivors:
            # Asking them would spend their budgets on a sum that must not be opened.
            raise CohortTooSmall(
                f"{len(drawn)} clients were drawn for round {round_number}; the plan needs {plan.minimum_survivors}. The "
                "round was dropped, nobody was asked, and nothing was released."
            )
        asked = TrainInstruction(self._run_id, round_number, plan, l2_clip_norm, state.to_vector())
        instruction = self._announced(asked.to_record(), TRAIN, round_number)
        receipts = Receipts(plan, TRAIN, round_number)
        encoding = plan.update_encoding(size, l2_clip_norm=l2_clip_norm) if plan.clips_whole_updates else None
        bound = self._longest_update(state, size)
        total = _sum_of_updates(state, size, encoding, aggregation, self._rule, bound)
        if isinstance(total, RingSum) and encoding is not None and self._sums is not None:
            task = SumTask.of(self._run_id, round_number, TRAIN, plan, asked.state, encoding)
            failures = self._opened(
                self._sums, drawn, task, instruction, MessageType.TRAIN, total, receipts, group=str(round_number)
            )
        else:
            answers = self._ask(
                drawn,
                instruction,
                MessageType.TRAIN,
                receipts,
                group=str(round_number),
                what="training",
                add=_adding_updates(total, size, aggregation.pairs, bound),
            )
            self._enough(answers, f"round {round_number}")
            failures = answers.failures
        update, bits_sum = None, None
        if isinstance(total, RingSum) and encoding is not None:
            noised = self._noised(total, encoding, "train", round_number)
            self._shown("train", round_number, Total(noised, plan.released_stddev(encoding, answers=total.count)))
            if plan.clipping_share:
                bits_sum = float(noised[-1])
            update = aggregation.divided(noised[:size], plan.expected_cohort)
        elif isinstance(total, PrefixSum | RobustSum):
            update = total.mean()
        return RoundOutcome(
            update=update,
            products=total if isinstance(total, ProductSum | RobustProducts) else None,
            bits_sum=bits_sum,
            asked=len(drawn),
            answered=total.count,
            failures=failures,
        )

    def metrics(self, state: RecommenderState, *, target: Target, round_number: int) -> NoisedMetrics | None:
        """Metrics of a state that may be released: noised, thresholded, accounted; None where the plan has none."""
        found = self.statistic(target, NUM_VALUES, state=state.to_vector(), round_number=round_number)
        if found is None:
            return None
        metrics = noised_metrics(found.values, noise_stddev=found.noise_stddev)
        self._log.append("noised_metrics", target=target, round_number=round_number, **asdict(metrics))
        return metrics

    def _announced(self, instruction: RecordDict, purpose: str, round_number: int) -> RecordDict:
        """Writes down what will be asked; the instruction then carries the head of a log that holds it."""
        self._before_asking(purpose, round_number, instruction_digest(instruction, self._plan))
        return with_head(instruction, self._log.latest)

    def _ask(
        self,
        nodes: Sequence[int],
        content: RecordDict,
        message_type: str,
        receipts: Receipts,
        *,
        group: str,
        what: str,
        add: _Add,
    ) -> cohort.Answers[None]:
        """Adds the contributions up as they come."""

        def read(message: Any) -> None:
            receipts.came(message)
            add(ContributionReply.from_message(message, in_ring=self._plan.clips_whole_updates))
            receipts.used(message.metadata.src_node_id)

        answers = cohort.exchange(
            self._grid,
            nodes,
            content,
            message_type=message_type,
            read=read,
            timeout_seconds=self._timeout_seconds,
            group=group,
            progress=self._log.progress(what, round_number=receipts.round_number, asked=len(nodes)),
        )
        receipts.write(self._log)
        return answers

    def _opened(
        self,
        sums: MaskedSums,
        nodes: Sequence[int],
        task: SumTask,
        instruction: RecordDict,
        message_type: str,
        total: RingSum,
        receipts: Receipts,
        *,
        group: str,
    ) -> list[str]:
        """Opens the sum of contributions that nobody sees; returns why some clients dropped out."""
        what = "training" if task.release == TRAIN else task.release
        progress = self._log.progress(what, round_number=task.round_number, asked=len(nodes))
        try:
            opened = sums.open(nodes, task, instruction, message_type, group=group, progress=progress, came=receipts.came)
            receipts.used(*opened.survivors)
        finally:
            receipts.write(self._log)
        total.take(opened.total, len(opened.survivors))
        self._log.append(
            "secure_sum",
            release=task.release,
            round_number=task.round_number,
            asked=opened.asked,
            survivors=len(opened.survivors),
            answered=dict(opened.answered),
            bytes_down=opened.bytes_down,
            bytes_up=opened.bytes_up,
            seconds=opened.seconds,
        )
        return opened.failures

    def _longest_update(self, state: RecommenderState, size: int) -> float:
        """The public bound on a silo's update; across devices contributions are bounded in the ring."""
        if self._plan.clips_whole_updates:
            return math.inf
        norm = float(np.linalg.norm(state.adapter.astype(np.float64)))
        return longest_update(self._plan, self._training, size=size, adapter_norm=norm)

    def _enough(self, answers: cohort.Answers[None], what: str) -> None:
        """Refuses fewer replies than the plan needs: where nothing else is said, half of those asked.

        The noise of a central release does not depend on who answered; a federation in which most clients fail is a
        failure all the same.
        """
        cohort.require(answers, minimum=self._minimum(answers.asked), what=what)

    def _minimum(self, asked: int) -> int:
        """Of so many clients that are asked, how many have to answer."""
        minimum = self._members.required(self._plan.minimum_survivors)
        if self._plan.clips_whole_updates and not self._plan.mechanism.shares_noise:
            minimum = minimum or math.ceil(asked / 2)
        return minimum if self._rule is None else max(minimum, self._rule.fewest)

    def _noised(
        self, total: RingSum, encoding: RingEncoding, purpose: str, round_number: int, *, step: int = 0
    ) -> NDArray[np.float64]:
        noised = self._noise.added_to(total.total, encoding, purpose=purpose, round_number=round_number, step=step)
        return encoding.decode(noised)


def _adding(total: FloatSum | RobustSum | RingSum, size: int, l2_bound: float) -> _Add:
    """What adds a reply up once it has been checked."""
    if isinstance(total, RingSum):
        return lambda reply: total.add(reply.values)
    return lambda reply: total.add(_values(reply, size, l2_bound))


def _sum_of_statistics(
    size: int, encoding: RingEncoding | None, rule: Rule | None, l2_bound: float
) -> FloatSum | RobustSum | RingSum:
    if encoding is not None:
        return RingSum(encoding)
    return FloatSum(size, l2_bound) if rule is None else RobustSum(size, rule)


_UpdateSum = PrefixSum | ProductSum | RobustSum | RobustProducts | RingSum


def _sum_of_updates(
    state: RecommenderState,
    size: int,
    encoding: RingEncoding | None,
    aggregation: Aggregation,
    rule: Rule | None,
    l2_bound: float,
) -> _UpdateSum:
    if encoding is not None:
        return RingSum(encoding)
    if aggregation.products:
        pairs = aggregation.pairs
        return ProductSum(pairs, state.adapter) if rule is None else RobustProducts(pairs, state.adapter, rule)
    return PrefixSum(size, l2_bound) if rule is None else RobustSum(size, rule)


def _adding_updates(total: _UpdateSum, size: int, pairs: Sequence[Pair], l2_bound: float) -> _Add:
    """The same for updates, of which a client may have sent a prefix of the rank."""

    def add(reply: ContributionReply) -> None:
        if reply.rank is None:
            total.add(check_update(reply.values, size=size, l2_bound=l2_bound))  # type: ignore[arg-type]
            return
        held = prefix_mask(pairs, size, reply.rank)
        update = np.zeros(size, dtype=np.float32)
        update[held] = check_update(reply.values, size=int(held.sum()), l2_bound=l2_bound)  # type: ignore[arg-type]
        if isinstance(total, PrefixSum | RobustSum):
            total.add(update, held)
        else:
            total.add(update)

    return _adding(total, size, l2_bound) if isinstance(total, RingSum) else add


def _values(reply: ContributionReply, size: int, l2_bound: float) -> NDArray[np.float32] | SparseValues:
    if isinstance(reply.values, SparseValues):  # of this process: the places are right, the values as good as the others
        check_update(reply.values.values, size=len(reply.values.values), l2_bound=l2_bound)  # type: ignore[arg-type]
        return reply.values
    return check_update(reply.values, size=size, l2_bound=l2_bound)  # type: ignore[arg-type]
