"""Handles a server's instructions, for one client or a simulated cohort. Reads as the path.

    read task -> admit -> reserve -> load histories -> compute -> bound -> noise or encode -> reply

`answers` takes the clients that got the same message and yields their answers, each with the index of its client: a reply,
or why there is none. Clients are worked on as many at a time as fit in memory, so that histories, adapters and updates are
there for those in flight alone.

The budget is reserved in the devices' ledger before any history is read, and given back only where it is certain that
nothing left. From then on a client whose data or update is faulty replies like any other, with the contribution of a user
without data, and counts the fault in its own ledger. Under noise of the client's own that reply looks like every other;
where the server adds the noise the reply is zeros, which the server sees and the noised sum does not show.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
from flwr.app import Message, MessageType
from numpy.typing import NDArray

from client import admission
from client.batch import ClientBatch, RoundOfTraining
from client.contribution import as_floats, clipped_updates, encoded, in_the_ring
from client.ledger.settling import Reservation
from client.statistics.question import columns_for, question_of, statistic_for
from client.statistics.statistic import Asked, Statistic
from client.store.data import ClientRows
from client.training.gradients import require_memory
from client.training.negatives import PublicNegatives
from shared.config import TrainingSection, schedule_factor
from shared.errors import PolicyRefused, TacitError, UnsupportedMechanism
from shared.model.recommender import Recommender
from shared.privacy.plan import PrivacyPlan
from shared.privacy.releases import METRICS, Release, is_sparse, release_of
from shared.protocol.messages import ContributionReply, ReleaseInstruction, TrainInstruction
from shared.protocol.secure_sums import TRAIN, SumTask
from shared.secagg.encoding import RingEncoding

Answer = tuple[int, ContributionReply | TacitError]

# The largest matrix of clients' numbers, (clients, values). One of 32 MB is given back to the system when it is freed,
# and getting them anew, page by page, costs more than training a small model.
_MATRIX_BYTES = 3 * 2**23
_MOST_IN_FLIGHT = 2048
# Rows of few nonzero values take little memory each.
_SPARSE_IN_FLIGHT = 2048


def answers(batch: ClientBatch, message: Message) -> Iterator[Answer]:
    """The answers of all clients to a message.

    Args:
        batch: The clients.
        message: A `TrainInstruction` or a `ReleaseInstruction`.

    Raises:
        PolicyRefused: If the plan is not that of these clients, or has no such release. No data was read.
        PrivacyError: If the ledger cannot be used.
    """
    if message.metadata.message_type == MessageType.TRAIN:
        training = TrainInstruction.from_message(message)
        yield from _answers_to_training(training, batch)
    else:
        yield from _answers_to_release(ReleaseInstruction.from_message(message), batch)


def secure_sum_of(message: Message, batch: ClientBatch) -> SumTask | None:
    """The secure sum that an instruction asks a contribution for; None if the plan does not mask contributions.

    Args:
        message: The instruction. (public)
        batch: Its configuration says how a contribution is encoded.

    Raises:
        PolicyRefused: If the plan has no such release. No data was read.
    """
    if message.metadata.message_type == MessageType.TRAIN:
        training = TrainInstruction.from_message(message)
        if not training.plan.masks_contributions:
            return None
        size = batch.recommender().attached.size
        ring = training.plan.update_encoding(size, l2_clip_norm=training.l2_clip_norm)
        return SumTask.of(training.run_digest, training.round_number, TRAIN, training.plan, training.state, ring)
    task = ReleaseInstruction.from_message(message)
    if not task.plan.masks_contributions:
        return None
    asked = question_of(task, batch)
    ring = task.plan.release_encoding(_release_of(task), asked.size, sparse=is_sparse(task.purpose))
    return SumTask.of(task.run_digest, task.round_number, task.purpose, task.plan, task.state, ring, head=task.head)


def _answers_to_training(task: TrainInstruction, batch: ClientBatch) -> Iterator[Answer]:
    """Trains on these clients' users and yields bounded contributions."""
    plan, clip = task.plan, task.l2_clip_norm
    admission.verify(batch, plan, round_number=task.round_number, l2_clip_norm=clip)
    require_memory(batch.recommender(), PublicNegatives.of(batch.config, task.round_number))
    with admission.reserve(
        batch, plan, "train", run=task.run_digest, round_number=task.round_number, l2_clip_norm=clip
    ) as reservation:
        yield from _worked_off(batch, Training.of(task, batch), reservation)


def _answers_to_release(task: ReleaseInstruction, batch: ClientBatch) -> Iterator[Answer]:
    """Contributes once to a release beside training: a bounded vector a unit, noised or encoded as every contribution is."""
    plan = task.plan
    admission.verify(batch, plan, round_number=task.round_number or None)
    release = _release_of(task)
    with admission.reserve(batch, plan, task.purpose, run=task.run_digest, round_number=task.round_number) as reservation:
        work = Contribution.of(question_of(task, batch), release, statistic_for(task))
        yield from _worked_off(batch, work, reservation)


def _release_of(task: ReleaseInstruction) -> Release:
    """The plan's release that an instruction asks for.

    Raises:
        PolicyRefused: If the plan has no such release, or no noise for it.
    """
    release = task.plan.release(release_of(task.purpose))
    if release is None or (release.name == METRICS.name and not task.plan.adds_noise):
        raise PolicyRefused(
            f"Expected a release that the plan has noise for, got {task.purpose}. No data was read; a client sends no exact "
            "metric. Evaluate on data of your own, or set privacy.epsilon and the release's noise multiplier."
        )
    return release


class Work(Protocol):
    """What some clients do for one instruction."""

    @property
    def plan(self) -> PrivacyPlan:
        """What is done to every contribution."""
        ...

    @property
    def columns(self) -> Sequence[str]:
        """What is read of the users' histories."""
        ...

    @property
    def at_once(self) -> int:
        """How many clients are worked on at a time."""
        ...

    def replies(self, batch: ClientBatch, rows: ClientRows) -> Sequence[ContributionReply]:
        """A reply a client; called again with fewer clients, or without users, where it fails.

        Args:
            batch: Some of the clients.
            rows: Their users. (private)
        """
        ...


@dataclass(frozen=True, eq=False)
class Training:
    """A round of local training.

    Attributes:
        task: The instruction. (public)
        round: What every client of the round is asked for. (public)
        recommender: The resident model.
        settings: How clients train. (public)
        encoding: How whole updates become integers; None inside silos, whose updates are noised floats. (public)
    """

    task: TrainInstruction
    round: RoundOfTraining
    recommender: Recommender
    settings: TrainingSection
    encoding: RingEncoding | None

    columns = ("user", "train")

    @classmethod
    def of(cls, task: TrainInstruction, batch: ClientBatch) -> Training:
        """Reads the state that training starts from."""
        plan, recommender, settings = task.plan, batch.recommender(), batch.config.local_training()
        # The server scales a whole update; noised local steps follow the schedule themselves.
        factor = schedule_factor(settings.schedule, round_number=task.round_number, rounds=plan.rounds)
        work = RoundOfTraining(
            state=recommender.read_state(task.state),
            learning_rate=settings.learning_rate * (1.0 if plan.clips_whole_updates else factor),
            run=task.run_digest,
            round_number=task.round_number,
        )
        encoding = None
        if plan.clips_whole_updates:
            encoding = plan.update_encoding(recommender.attached.size, l2_clip_norm=task.l2_clip_norm)
        return cls(task, work, recommender, settings, encoding)

    @property
    def plan(self) -> PrivacyPlan:
        """As `Work.plan`."""
        return self.task.plan

    @property
    def at_once(self) -> int:
        """As `Work.at_once`."""
        return in_flight(self.recommender.attached.size, self.encoding)

    def replies(self, batch: ClientBatch, rows: ClientRows) -> Sequence[ContributionReply]:
        """As `Work.replies`: trained, then bounded and encoded where nothing was bounded before."""
        plan, clip = self.plan, self.task.l2_clip_norm
        sources = batch.noise_sources(plan, "train", self.task.round_number)
        updates = batch.trained(batch.tasks(rows, plan, self.round, sources), plan, self.settings)
        if self.encoding is None:
            return [self._prefix(row, rank) for row, rank in zip(updates, batch.largest_ranks(), strict=True)]
        bounded = clipped_updates(updates, plan=plan, l2_clip_norm=clip)
        ring = encoded(bounded, self.encoding, plan=plan, sources=sources)
        return [ContributionReply(row, self.encoding) for row in ring]

    def _prefix(self, update: NDArray[np.float32], rank: int | None) -> ContributionReply:
        """A silo's reply; where its rank is limited, the coordinates that it trains and nothing of the others."""
        values = update if rank is None else update[self.recommender.attached.prefix(rank)]
        return ContributionReply(values, rank=rank)


@dataclass(frozen=True, eq=False)
class Contribution:
    """One contribution to a release beside training.

    Attributes:
        asked: The question. (public)
        release: Of the plan. (public)
        statistic: What bounds a unit's vector.
        encoding: How vectors become integers; None inside silos. (public)
    """

    asked: Asked
    release: Release
    statistic: Statistic
    encoding: RingEncoding | None

    @classmethod
    def of(cls, asked: Asked, release: Release, statistic: Statistic) -> Contribution:
        """Chooses the encoding that the plan has for it."""
        plan, purpose = asked.task.plan, asked.task.purpose
        encoding = None
        if plan.clips_whole_updates:
            encoding = plan.release_encoding(release, asked.size, sparse=is_sparse(purpose))
        return cls(asked, release, statistic, encoding)

    @property
    def plan(self) -> PrivacyPlan:
        """As `Work.plan`."""
        return self.asked.task.plan

    @property
    def columns(self) -> Sequence[str]:
        """As `Work.columns`."""
        return columns_for(self.asked.task)

    @property
    def at_once(self) -> int:
        """As `Work.at_once`."""
        plan = self.plan
        # Each client of a reproducible run draws its own share, in every coordinate.
        own_noise = plan.adds_noise_locally or (plan.noise_share and plan.reproducible)
        sparse = is_sparse(self.asked.task.purpose) and not own_noise
        return _SPARSE_IN_FLIGHT if sparse else in_flight(self.asked.size, self.encoding)

    def replies(self, batch: ClientBatch, rows: ClientRows) -> Sequence[ContributionReply]:
        """As `Work.replies`: each unit's vector is bounded by the statistic, then noised or encoded."""
        task = self.asked.task
        vectors = batch.contributed(partial(self.statistic.vectors, self.asked), rows)
        sources = batch.noise_sources(self.plan, task.purpose, task.round_number, step=task.step)
        if self.encoding is not None:
            return in_the_ring(vectors, self.encoding, plan=self.plan, sources=sources)
        return as_floats(vectors, stddev=self.plan.release_stddev(self.release), sources=sources)


def in_our_words(error: Exception) -> TacitError:
    """An error that may be sent: Tacit's own as it is, any other by its type and place.

    The text of a foreign exception may quote what it failed on.
    """
    if isinstance(error, TacitError):
        return error
    said = TacitError(
        f"The client failed with {type(error).__name__} at {_place(error)}. Nothing was sent; look at "
        "this node's code and data there."
    )
    said.__context__ = error  # for whoever debugs this process
    return said


def in_flight(size: int, encoding: RingEncoding | None) -> int:
    """How many clients are worked on at once.

    Args:
        size: Values of a contribution, before it is encoded.
        encoding: How it is encoded, if it is.
    """
    values = max(size, 0 if encoding is None else encoding.dimension)
    return max(1, min(_MATRIX_BYTES // (4 * values), _MOST_IN_FLIGHT))


def _worked_off(batch: ClientBatch, work: Work, reservation: Reservation) -> Iterator[Answer]:
    """The answers of all clients; the last ones only after the ledger says what was sent, so that no sum is complete before.

    Args:
        batch: All that were asked.
        work: What each does.
        reservation: Who was refused; where faults are counted.
    """
    yield from sorted(reservation.refused.items())
    indices = np.array([index for index in range(len(batch)) if index not in reservation.refused], dtype=np.int64)
    ready: list[Answer] = []
    at_once = work.at_once
    for start in range(0, len(indices), at_once):
        yield from ready
        ready = []  # before the next ones take its place
        chosen = indices[start : start + at_once]
        replies = _shielded(batch, chosen, work, reservation)
        ready = list(zip(chosen.tolist(), replies, strict=True))
        reservation.answered([index for index, reply in ready if not isinstance(reply, TacitError)])
    reservation.settle()
    yield from ready


def _shielded(
    batch: ClientBatch, indices: NDArray[np.int64], work: Work, reservation: Reservation
) -> list[ContributionReply | TacitError]:
    """Computes with the clients' data; where that fails under privacy, without it: others must not see the difference.

    Whose data it was is found by halving, so one client's fault leaves the others' answers what they would have been; only
    under DP-FTRL do steps that are repeated so begin their correlated noise anew, which costs utility and no privacy.
    """
    some = batch.take(indices)
    try:
        return list(work.replies(some, some.rows(work.columns)))
    except UnsupportedMechanism:
        raise  # this is about the model, never about the data
    except Exception as error:
        if len(indices) > 1:
            halves = np.array_split(indices, 2)
            return [reply for half in halves for reply in _shielded(batch, half, work, reservation)]
        if not work.plan.adds_noise:
            return [in_our_words(error)]
        reservation.fault(batch.account(int(indices[0])), f"{type(error).__name__} at {_place(error)}")
        return list(work.replies(some, some.no_rows()))


def _place(error: Exception) -> str:
    """File and line where our own code was last; the deepest frames are usually a library's."""
    frames = [(Path(frame.filename), frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
    own = [(path, line) for path, line in frames if path.parent.parent == Path(__file__).parent.parent] or frames
    path, line = own[-1]
    return f"{path.parent.name}/{path.name}:{line}"
