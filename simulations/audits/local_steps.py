"""Canaries in the local steps of silos: their gradients in directions of their own, under the silo's own coins and noise.

A silo sends what its noised steps add up to. Who knows all gradients but the canaries', and which steps a canary was drawn
in, finds in each reply the canaries' directions and noise, and nothing else. Gradients of canaries are ten times the bound.

An adversary does not know the coins, and gets the sum of several steps; so these readings test the noise, the bound and the
sum, and are no guesses about canaries.

What never lives here: clipping, noise and steps, which are the client's own (`client/training/dp_sgd.py`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from client.statistics.sparse import SparseRows
from client.training.examples import Examples
from client.training.gradients import Gradients, Source, gradients_of
from shared.config import TrainingSection
from shared.model.recommender import Recommender
from shared.privacy.plan import PrivacyPlan
from simulations.audits.canaries import Canaries
from simulations.audits.views import Directions, Floats, View

LONG = 10.0
GradientsOf = Callable[..., AbstractContextManager[Source]]


def scores_steps(plan: PrivacyPlan) -> bool:
    """Whether canaries are read in local steps: where silos add fresh noise to each."""
    return bool(plan.rounds) and plan.adds_noise_locally and not plan.mechanism.users_take_turns


class LocalSteps:
    """What is known of one round's local steps.

    Args:
        canaries: What was planted.
        plan: The run's.
        directions: Gives the canaries' directions for a number of parameters.
    """

    def __init__(self, canaries: Canaries, plan: PrivacyPlan, directions: Callable[[int], SparseRows]) -> None:
        self._canaries, self._plan, self._directions = canaries, plan, directions
        pairs = canaries.histories["train"].to_list()
        chosen = np.flatnonzero(canaries.included & ~canaries.long).tolist()
        self._canary_of = {(int(canaries.home[one]), *pairs[one]): one for one in chosen}
        self.begin()

    def begin(self) -> None:
        """A new round."""
        self._sums: dict[int, Floats] = {}
        self._draws = np.zeros(len(self._canaries), dtype=np.int64)
        self._scale = 0.0

    def watched(self, clients: NDArray[np.int64], *, learning_rate: float, settings: TrainingSection) -> GradientsOf:
        """`gradients_of` with canaries.

        Args:
            clients: Which clients train, in the order of their tasks.
            learning_rate: Of the round's steps.
            settings: How they are made; plain gradient steps can be read.
        """
        plain = settings.optimizer == "sgd" and not settings.weight_decay and not settings.history_dropout
        self._scale = self._plan.expected_batch_size / learning_rate if plain else 0.0

        @contextmanager
        def gradients(
            recommender: Recommender, plan: PrivacyPlan, config: TrainingSection, *, clients: int
        ) -> Iterator[Source]:
            with gradients_of(recommender, plan, config, clients=clients) as source:
                yield _Watched(source, self, homes)

        homes = clients
        return gradients

    def passed(self, client: int, window: tuple[int, ...], gradient: Tensor) -> Tensor:
        """Takes note of one example's gradient; of a canary, the one that it sends instead.

        Args:
            client: Whose example it is.
            window: Its items. (private)
            gradient: (d,). (private)
        """
        bound = self._plan.l2_clip_norm
        canary = self._canary_of.get((client, *window))
        directions = self._directions(len(gradient))
        if canary is not None and directions.starts[canary] < directions.starts[-1]:
            self._draws[canary] += 1
            return torch.from_numpy(LONG * bound * directions.dense(canary)).to(gradient)
        row = gradient.double().cpu().numpy()
        known = self._sums.setdefault(client, np.zeros(len(gradient)))
        known += row * min(1.0, bound / max(float(np.linalg.norm(row)), 1e-300))  # bounded by a line of our own
        return gradient

    def read(self, view: View, round_number: int, replies: dict[int, Floats]) -> None:
        """Reads a round's replies, over the most that one user can add to one: the bound in every step.

        Args:
            view: Where the reading goes.
            round_number: Of the round.
            replies: Each silo's update, (d,).
        """
        if not replies or not self._scale:
            return
        size, steps = len(next(iter(replies.values()))), self._plan.steps_per_round
        directions, most = self._directions(size), steps * self._plan.l2_clip_norm
        weights = np.repeat(self._draws / steps, np.diff(directions.starts))
        vectors = SparseRows(size, directions.starts, directions.places, directions.values * weights)
        homes = sorted(replies)
        view.add(
            "train",
            round_number,
            Directions(vectors),
            [(-self._scale * replies[home] - self._sums.get(home, np.zeros(size))) / most for home in homes],
            [np.flatnonzero(self._canaries.home == home) for home in homes],
            noise_stddev=self._plan.noise_multiplier / math.sqrt(steps),
            guessed=False,
        )


class _Watched(Source):
    """A source of gradients among which canaries have theirs."""

    def __init__(self, source: Source, steps: LocalSteps, clients: NDArray[np.int64]) -> None:
        self._source, self._steps, self._clients = source, steps, clients

    def of(self, examples: Examples, owner: NDArray[np.int64], adapters: Tensor, *, apart: bool) -> Iterator[Gradients]:
        """As `Source.of`."""
        windows = examples.windows
        for found in self._source.of(examples, owner, adapters, apart=apart):
            rows = []
            for number, place in enumerate(found.examples.tolist()):
                start = int(windows.starts[place])
                window = tuple(windows.flat[start : start + int(windows.lengths[place])].tolist())
                gradient = torch.cat([sample[number].reshape(-1) for sample in found.samples])
                rows.append(self._steps.passed(int(self._clients[owner[place]]), window, gradient))
            whole = torch.stack(rows)
            sizes = [sample[0].numel() for sample in found.samples]
            parts = torch.split(whole, sizes, dim=1)
            samples = [part.reshape(sample.shape) for part, sample in zip(parts, found.samples, strict=True)]
            yield Gradients(samples, found.rows, found.examples)
