"""What clients answer to an instruction: one on a device, a whole cohort in a simulation. Reads as the path.

    read task -> check plan -> reserve budget -> load histories -> train privately -> bound and encode -> answer

Each function takes the clients that got the same message and yields their answers, each with the place of its client: a
reply, or why there is none. Clients are worked on as many at a time as fit in memory, so that histories, adapters and
updates are there for those in flight alone.

The budget is reserved in the devices' ledger before any history is read, and given back only where it is certain that
nothing left. From then on a client whose data or update is faulty replies like any other, with the contribution of a user
without data, and counts the fault in its own ledger. Under noise of the client's own that reply looks like every other;
where the server adds the noise the reply is zeros, which the server sees and the noised sum does not show.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from flwr.app import Message, MessageType
from numpy.typing import NDArray

from client.admission import Reservation
from client.batch import Nodes, RoundOfTraining
from client.contribution import clipped_updates, encoded, noised
from client.statistics.question import Question
from client.statistics.sparse import SparseRows
from client.store.population import ClientRows
from client.training.dp_sgd import train
from client.training.gradients import require_memory
from client.training.negatives import PublicNegatives
from shared.config import schedule_factor
from shared.data.splitting import HISTORIES_SCHEMA
from shared.errors import PolicyRefused, TacitError, UnsupportedMechanism
from shared.model.recommender import Recommender
from shared.privacy.plan import PrivacyPlan
from shared.privacy.releases import RELEASES, is_sparse, release_of
from shared.protocol import (
    ContributionReply,
    ReleaseInstruction,
    SparseValues,
    TrainInstruction,
)
from shared.randomness import NoiseSource
from shared.secagg.encoding import RingEncoding

Ints = NDArray[np.int64]
Answer = tuple[int, ContributionReply | TacitError]
# Clients, and their users -> a reply each. Called again with fewer clients, or with no users, where it fails.
_Compute = Callable[[Nodes, ClientRows], Sequence[ContributionReply]]

_TRAINING_COLUMNS = ("user", "train")
# The largest matrix of clients' numbers, (clients, values). One of 32 MB is given back to the system when it is freed,
# and getting them anew, page by page, costs more than training a small model.
_MATRIX_BYTES = 3 * 2**23
_MOST_IN_FLIGHT = 2048
# Rows of few nonzero values take little memory each.
_SPARSE_IN_FLIGHT = 2048


def train_round(nodes: Nodes, message: Message) -> Iterator[Answer]:
    """Trains on these clients' users and yields bounded contributions."""
    task = TrainInstruction.from_message(message)
    plan = task.plan
    nodes.check(plan, round_number=task.round_number, l2_clip_norm=task.l2_clip_norm)
    require_memory(nodes.recommender(), PublicNegatives.of(nodes.config, task.round_number))
    with nodes.reserve(
        plan, "train", run=task.run_digest, round_number=task.round_number, l2_clip_norm=task.l2_clip_norm
    ) as budget:
        recommender = nodes.recommender()
        training = nodes.config.local_training()
        # The server scales a whole update; noised local steps follow the schedule themselves.
        factor = schedule_factor(training.schedule, round_number=task.round_number, rounds=plan.rounds)
        work = RoundOfTraining(
            state=recommender.read_state(task.state),
            learning_rate=training.learning_rate * (1.0 if plan.clips_whole_updates else factor),
            run=task.run_digest,
            round_number=task.round_number,
        )
        size = recommender.attached.size
        encoding = plan.update_encoding(size, l2_clip_norm=task.l2_clip_norm) if plan.clips_whole_updates else None

        def trained(some: Nodes, rows: ClientRows) -> Sequence[ContributionReply]:
            sources = some.noise_sources(plan, "train", task.round_number)
            values = train(some.tasks(rows, plan, work, sources), recommender, plan, training)
            if encoding is not None:
                bounded = clipped_updates(values, plan=plan, l2_clip_norm=task.l2_clip_norm)
                values = encoded(bounded, encoding, plan=plan, sources=sources)  # type: ignore[assignment]
            if encoding is not None:
                return [ContributionReply(row, encoding) for row in values]
            parts = zip(values, some.largest_ranks(), strict=True)
            return [_prefix_of_update(row, rank, recommender) for row, rank in parts]

        at_once = in_flight(size, encoding)
        yield from _answers(nodes, trained, budget, private=plan.adds_noise, at_once=at_once, columns=_TRAINING_COLUMNS)


def _prefix_of_update(update: NDArray[np.float32], rank: int | None, recommender: Recommender) -> ContributionReply:
    """A silo's reply; where its rank is limited, the coordinates that it trains and nothing of the others."""
    values = update if rank is None else update[recommender.attached.prefix(rank)]
    return ContributionReply(values, rank=rank)


def contribute(nodes: Nodes, message: Message) -> Iterator[Answer]:
    """Contributes once to a release beside training: a bounded vector a unit, noised or encoded as every contribution is.

    Raises:
        PolicyRefused: If the plan has no such release: no client sends an exact metric.
    """
    task = ReleaseInstruction.from_message(message)
    plan, release = task.plan, task.plan.release(release_of(task.purpose))
    nodes.check(plan, round_number=task.round_number or None)
    if release is None or (release.name == "metrics" and not plan.adds_noise):
        raise PolicyRefused(
            f"Expected a release that the plan has noise for, got {task.purpose}. No data was read; a client sends no exact "
            "metric. Evaluate on data of your own, or set privacy.epsilon and the release's noise multiplier."
        )
    with nodes.reserve(plan, task.purpose, run=task.run_digest, round_number=task.round_number) as budget:
        question = Question.of(task, nodes)
        sparse, encoding = is_sparse(task.purpose), None
        if plan.clips_whole_updates:
            encoding = plan.release_encoding(release, question.size, sparse=sparse)

        def answered(some: Nodes, rows: ClientRows) -> Sequence[ContributionReply]:
            vectors = question.vectors(some, rows)
            sources = some.noise_sources(plan, task.purpose, task.round_number)
            if encoding is not None:
                return _in_the_ring(vectors, encoding, plan, sources)
            return _as_floats(vectors, plan.release_stddev(release), sources)

        stays_sparse = sparse and not plan.noise_share and not plan.adds_noise_locally
        at_once = _SPARSE_IN_FLIGHT if stays_sparse else in_flight(question.size, encoding)
        yield from _answers(nodes, answered, budget, private=plan.adds_noise, at_once=at_once, columns=question.columns)


def _in_the_ring(
    vectors: NDArray[np.float64] | SparseRows, encoding: RingEncoding, plan: PrivacyPlan, sources: Sequence[NoiseSource]
) -> list[ContributionReply]:
    """Encoded contributions; sparse ones stay so where the client adds no noise to them."""
    if not isinstance(vectors, SparseRows):
        return [ContributionReply(row, encoding) for row in encoded(vectors, encoding, plan=plan, sources=sources)]
    if plan.noise_share:
        rows = (vectors.dense(number)[np.newaxis] for number in range(len(vectors)))
        each = (encoded(row, encoding, plan=plan, sources=[own]) for row, own in zip(rows, sources, strict=True))
        return [ContributionReply(row[0], encoding) for row in each]
    parts = (vectors.row(number) for number in range(len(vectors)))
    size = encoding.dimension
    return [
        ContributionReply(SparseValues(size, places, encoding.encode_sparse(places, values)), encoding)
        for places, values in parts
    ]


def _as_floats(
    vectors: NDArray[np.float64] | SparseRows, stddev: float, sources: Sequence[NoiseSource]
) -> list[ContributionReply]:
    """A silo's sums under its own noise; sparse ones stay so where there is none."""
    if not isinstance(vectors, SparseRows):
        return [ContributionReply(row) for row in noised(vectors, stddev=stddev, sources=sources)]
    if not stddev:
        parts = (vectors.row(number) for number in range(len(vectors)))
        return [ContributionReply(SparseValues(vectors.size, at, some.astype(np.float32))) for at, some in parts]
    rows = (vectors.dense(number)[np.newaxis] for number in range(len(vectors)))
    each = (noised(row, stddev=stddev, sources=[own]) for row, own in zip(rows, sources, strict=True))
    return [ContributionReply(row[0]) for row in each]


# What the clients of this process do with each type of message.
ANSWERS: dict[str, Callable[[Nodes, Message], Iterator[Answer]]] = {
    MessageType.TRAIN: train_round,
    **{f"{MessageType.QUERY}.{name}": contribute for name in RELEASES},
}


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


def _answers(
    nodes: Nodes,
    compute: _Compute,
    budget: Reservation,
    *,
    private: bool,
    at_once: int,
    columns: Sequence[str] = tuple(HISTORIES_SCHEMA),
) -> Iterator[Answer]:
    """The answers of all clients; the last ones only after the ledger says what was sent, so that no sum is complete before.

    Args:
        nodes: All that were asked.
        compute: What each answers.
        budget: Who was refused; where faults are counted.
        private: Whether a fault must not be seen from outside.
        at_once: How many clients are worked on at a time.
        columns: What is read of the users' histories.
    """
    yield from sorted(budget.refused.items())
    places = np.array([place for place in range(len(nodes)) if place not in budget.refused], dtype=np.int64)
    ready: list[Answer] = []
    for start in range(0, len(places), at_once):
        yield from ready
        ready = []  # before the next ones take its place
        chosen = places[start : start + at_once]
        replies = _shielded(nodes, chosen, compute, budget, columns, private=private)
        ready = list(zip(chosen.tolist(), replies, strict=True))
        budget.answered([place for place, reply in ready if not isinstance(reply, TacitError)])
    budget.settle()
    yield from ready


def _shielded(
    nodes: Nodes, places: Ints, compute: _Compute, budget: Reservation, columns: Sequence[str], *, private: bool
) -> list[ContributionReply | TacitError]:
    """Computes with the clients' data; where that fails under privacy, without it: others must not see the difference.

    Whose data it was is found by halving, so one client's fault leaves the others' answers what they would have been; only
    under DP-FTRL do steps that are repeated so begin their correlated noise anew, which costs utility and no privacy.
    """
    some = nodes.take(places)
    try:
        return list(compute(some, some.rows(columns)))
    except UnsupportedMechanism:
        raise  # this is about the model, never about the data
    except Exception as error:
        if len(places) > 1:
            halves = np.array_split(places, 2)
            return [reply for half in halves for reply in _shielded(nodes, half, compute, budget, columns, private=private)]
        if not private:
            return [in_our_words(error)]
        budget.fault(nodes.owner(int(places[0])), f"{type(error).__name__} at {_place(error)}")
        return list(compute(some, some.no_rows()))


def _place(error: Exception) -> str:
    """File and line where our own code was last; the deepest frames are usually a library's."""
    frames = [(Path(frame.filename), frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
    own = [(path, line) for path, line in frames if path.parent.parent == Path(__file__).parent.parent] or frames
    path, line = own[-1]
    return f"{path.parent.name}/{path.name}:{line}"
