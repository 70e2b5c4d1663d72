"""The witness: stands where an adversary of a twin stands, and reads each release.

Before the clients answer an instruction, it works out each canary's vector, as of a client without anybody else, by the
statistic's own function. While they answer, it takes note of the real users' exact sums where these are bounded, before
they are encoded or noised. It is then shown the replies and the noised sum, and takes away what it knows. What canaries
added is never taken from the clients: a sum in which users are counted twice, unbounded or left out does not fit the
canaries' own vectors.

What never lives here: the noise, the encoding and the sum; these are the clients' and the server's own.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client.batch import ClientBatch
from client.batch import Vectors as VectorsOf
from client.statistics.question import columns_for, question_of, statistic_for
from client.statistics.sparse import SparseRows
from client.store.data import ClientRows
from client.training.gradients import gradients_of
from server.observer import Unobserved
from server.statistics.statistic import Total
from shared.audit.planted_bugs import ROOM
from shared.config import TrainingSection
from shared.errors import ConfigError, ProtocolViolation
from shared.model.recommender import Recommender
from shared.model.state import RecommenderState
from shared.privacy.plan import PrivacyPlan
from shared.privacy.releases import POPULARITY, Purpose, release_of, statistic_of
from shared.protocol.messages import ContributionReply, ReleaseInstruction, TrainInstruction
from simulations.audits.canaries import Canaries, WithCanaries
from simulations.audits.directions import Directions, Floats, Frame, Known, Vectors
from simulations.audits.linkage import Linked, linked_evidence
from simulations.audits.local_steps import GradientsOf, LocalSteps, scores_steps
from simulations.audits.views import View, unusual
from simulations.audits.whole_updates import WholeUpdates, hides_participation, reads_rounds


@dataclasses.dataclass(frozen=True, eq=False)
class _Expected:
    """What the clients should contribute.

    Attributes:
        vectors: (m, size) of the canaries.
        homes: (N,) which clients were asked.
        others: Exact sums of the real users: the clients that answered together, and a row of each of them; one row of
            all where replies are not read. (private)
    """

    vectors: Directions
    homes: NDArray[np.int64]
    others: list[tuple[NDArray[np.int64], Vectors]]


# So many real users' contributions are compared with the bound, one by one.
_REAL_USERS = 64
# Values of a vector from which on inner products cost more than the room to keep them.
_WORTH_KEEPING = 4096


class Witness(Unobserved):
    """Reads the releases of one twin.

    Args:
        canaries: What was planted.
        plan: The run's.
        say: Told the purpose of each release once it has been read.

    Attributes:
        sums: What is seen of the released sums.
        known: The same by who knows who took part in each round; None where that is no more.
        replies: What is seen by a server that looks at each silo's reply; None across devices, and without noise.
        beside: Names of fields in replies beside the contribution; there must be none.
        unbounded: Releases to which a real user contributed more than the bound; there must be none.
        recommended: (m,) how much likelier than usual the released recommender finds a canary's second item after its first.
        linked: What each part of the released recommender says about the canaries' two items.
    """

    def __init__(self, canaries: Canaries, plan: PrivacyPlan, *, say: Callable[[str], None] = lambda what: None) -> None:
        self._canaries, self._plan, self._say = canaries, plan, say
        self.sums = View("sums", canaries.included, canaries.long)
        self.known = View("sums and cohorts", canaries.included, canaries.long) if hides_participation(plan) else None
        # No audit reads replies of which nothing is claimed, and without noise there may be one of every user.
        self.replies = View("replies", canaries.included, canaries.long) if _has_noised_replies(plan) else None
        self.beside: set[str] = set()
        self.unbounded: set[str] = set()
        self.recommended: Floats = np.zeros(len(canaries))
        self.linked: dict[str, Linked] = {}
        self._counts: Floats = np.zeros(0)
        self._recommender: Recommender | None = None
        self._expected: _Expected | None = None
        self._known: dict[str, Known] = {}
        self._replied: dict[int, Floats] = {}
        self._size: int | None = None
        self._frame: Frame | None = None
        self._rounds = WholeUpdates(canaries, plan, self._frame_of) if reads_rounds(plan) else None
        self._steps = LocalSteps(canaries, plan, self._frame_of) if scores_steps(plan) else None

    def asked(self, task: ReleaseInstruction, batch: ClientBatch) -> None:
        """Works out what each canary should contribute, before clients answer.

        Args:
            task: The instruction.
            batch: The clients, with canaries among their users.

        Raises:
            ConfigError: If there are none among them.
        """
        data = batch.data
        if not isinstance(data, WithCanaries):
            raise ConfigError("Expected clients with canaries, got others. Run the federation on the twin's own grid.")
        self._recommender = batch.recommender()
        asked, statistic, columns = question_of(task, batch), statistic_for(task), columns_for(task)
        as_clients = dataclasses.replace(batch, partitions=np.zeros(len(self._canaries), dtype=np.int64))
        vectors = statistic.vectors(asked, as_clients, self._canaries.rows(columns))
        name = statistic_of(task.purpose)
        directions = Directions(vectors).sharing(self._known.get(name))
        if asked.size >= _WORTH_KEEPING:
            self._known[name] = directions.known
        if self._plan.adds_noise and self._is_unbounded(
            batch, data, columns, of=lambda own, rows: statistic.vectors(asked, own, rows)
        ):
            self.unbounded.add(task.purpose)
        self._expected = _Expected(directions, batch.partitions, [])
        self._replied.clear()
        self._size = asked.size

    def _is_unbounded(self, batch: ClientBatch, data: WithCanaries, columns: Sequence[str], *, of: VectorsOf) -> bool:
        """Whether one of some real users, each as a client of their own, contributes more than the bound.

        Their contributions are taken away before anything is read, so that no reading would show it.
        """
        asked = batch.partitions[:: max(1, len(batch.partitions) // _REAL_USERS)]
        rows = data.without(np.unique(asked), columns)
        places = np.arange(0, len(rows.client), max(1, len(rows.client) // _REAL_USERS))[:_REAL_USERS]
        if not len(places):
            return False
        alone = dataclasses.replace(rows.take(places), client=np.arange(len(places)))
        as_clients = dataclasses.replace(batch, partitions=np.zeros(len(places), dtype=np.int64))
        return bool((Directions(of(as_clients, alone)).norms > ROOM).any())

    def contributed(self, batch: ClientBatch, vectors: VectorsOf, rows: ClientRows) -> Vectors:
        """Works out what clients contribute, and takes note of the real users' part.

        Clients that are asked again, because one of them failed, are taken note of as they answer last.

        Args:
            batch: Some of the clients.
            vectors: The statistic's own function.
            rows: Their users, canaries among them. (private)

        Returns:
            Each client's exact sum, as without a witness. (private)
        """
        clients, number = batch.partitions, len(batch)
        if self._plan.clips_whole_updates:
            found = vectors(batch, rows)  # a canary is alone at its client
            real: Vectors = _summed(found, np.isin(clients, self._canaries.home))
        else:  # canaries as clients of their own, behind the others
            planted = rows.histories["user"].is_in(self._canaries.histories["user"].to_list()).to_numpy()
            apart = rows.client + number * planted
            order = np.argsort(apart, kind="stable")
            twice = dataclasses.replace(batch, partitions=np.tile(clients, 2))
            both = vectors(twice, dataclasses.replace(rows, client=apart).take(order))
            each = np.arange(2 * number)
            if isinstance(both, SparseRows):
                real = both.summed(np.minimum(each, number), num_groups=number + 1)
                found = both.summed(each % number, num_groups=number)
            else:
                real, found = both[:number], both[:number] + both[number:]
            if self.replies is None:
                real = _summed(both, each >= number)
        if self._expected is not None:
            kept = [part for part in self._expected.others if not np.isin(part[0], clients).any()]
            self._expected.others[:] = [*kept, (clients, real)]
        return found

    def released(self, state: RecommenderState, round_number: int) -> None:
        """Asks the recommender that the twin would release, as an outsider could: by what it recommends."""
        if self._recommender is None:
            return
        self._recommender.load_state(state)
        pairs = np.array([row[:2] for row in self._canaries.histories["train"].to_list()])
        firsts, place = np.unique(pairs[:, 0], return_inverse=True)
        asked = [np.array([item], dtype=np.int32) for item in firsts.tolist()]
        self.recommended = unusual(self._recommender.score(asked).astype(np.float64))[place, pairs[:, 1]]
        parts = self._recommender.score_parts(asked)
        self.linked = linked_evidence(parts, place, pairs, counts=self._counts, log_prior=state.log_prior)

    def asked_to_train(self, task: TrainInstruction, clients: NDArray[np.int64]) -> None:
        """Notes the bound of a round and who was asked, before clients train."""
        self._replied.clear()
        self._size = None  # ranks may differ by client
        if self._rounds is not None:
            self._rounds.begin(task.l2_clip_norm, clients)
        if self._steps is not None:
            self._steps.begin()

    def gradients(self, clients: NDArray[np.int64], *, learning_rate: float, settings: TrainingSection) -> GradientsOf:
        """Where gradients come from; inside silos that add noise to each step, canaries have theirs."""
        if self._steps is None:
            return gradients_of
        return self._steps.watched(clients, learning_rate=learning_rate, settings=settings)

    def all_trained(self, round_number: int, clients: NDArray[np.int64]) -> None:
        """Reads a round's replies, where silos add noise to each step."""
        if self._steps is not None and self.replies is not None:
            replies = {int(clients[place]): values for place, values in self._replied.items()}
            self._steps.read(self.replies, round_number, replies)
            self._say(f"round {round_number}")

    def trained(self, clients: NDArray[np.int64], updates: NDArray[np.float32]) -> NDArray[np.float32]:
        """Whole updates with the canaries' directions in the place of theirs, (N, d); not yet bounded. (private)"""
        return updates if self._rounds is None else self._rounds.trained(clients, updates)

    def _frame_of(self, size: int) -> Frame:
        """The canaries' directions in the space of updates."""
        if self._frame is None or self._frame.size != size:
            self._frame = Frame.of(size, len(self._canaries), seed=self._plan.rounds)
        return self._frame

    def answered(self, place: int, reply: Any) -> None:
        """Takes one client's reply as it came; kept inside silos alone. A malformed one is in no sum, and is passed over."""
        if self.replies is None:
            return
        with contextlib.suppress(ProtocolViolation):
            values = _dense(ContributionReply.from_message(reply, in_ring=False).values)
            if np.isfinite(values).all() and (self._size is None or len(values) == self._size):
                self._replied[place] = values

    def summed(self, purpose: Purpose, round_number: int, total: Total) -> None:
        """Reads a release: the sum, and inside silos each reply."""
        if purpose == "train":
            if self._rounds is not None:
                self._rounds.read(self.sums, self.known, round_number, total)
                self._say(f"round {round_number}")
            return
        expected = self._expected
        if expected is None:
            return
        if self.replies is None:
            known = sum((_row(part, 0) for _, part in expected.others), start=np.zeros(1))
        else:
            of_client = {
                int(client): _row(part, place) for clients, part in expected.others for place, client in enumerate(clients)
            }
            others = {place: of_client[int(expected.homes[place])] for place in sorted(self._replied)}
            known = sum(others.values(), start=np.zeros(1))
        if purpose == POPULARITY.name:
            self._counts = known
        everyone = np.arange(len(self._canaries))
        values = np.asarray(total.values, dtype=np.float64)
        for view in (self.sums, self.known):
            if view is not None:
                left = [values - known]
                view.add(purpose, round_number, expected.vectors, left, [everyone], noise_stddev=total.noise_stddev)
        release = self._plan.release(release_of(purpose))
        if self.replies is not None and release is not None:
            self.replies.add(
                purpose,
                round_number,
                expected.vectors,
                left=[self._replied[place] - own for place, own in others.items()],
                parts=[everyone[self._canaries.home == expected.homes[place]] for place in others],
                noise_stddev=self._plan.release_stddev(release),
            )
        self._say(purpose)


def _has_noised_replies(plan: PrivacyPlan) -> bool:
    return plan.adds_noise and not plan.clips_whole_updates


def _summed(vectors: Vectors, left_out: NDArray[np.bool_]) -> Vectors:
    """One row: the sum of all others. (private)"""
    if isinstance(vectors, SparseRows):
        return vectors.summed(left_out.astype(np.int64), num_groups=2)
    return np.asarray(vectors[~left_out].sum(axis=0, keepdims=True))


def _row(vectors: Vectors, place: int) -> Floats:
    return vectors.dense(place) if isinstance(vectors, SparseRows) else vectors[place]


def _dense(values: Any) -> NDArray[np.float64]:
    whole = values.dense() if hasattr(values, "dense") else values
    return np.asarray(whole, dtype=np.float64)
