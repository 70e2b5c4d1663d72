"""Canaries in the local steps of silos: their gradients in directions of their own, under the silo's own coins and noise.

A silo sends what its noised steps add up to. Who knows all gradients but the canaries', and which steps a canary was drawn
in, finds in each reply the canaries' directions and noise, and nothing else. Gradients of canaries are ten times the bound.

These readings test the noise, the bound and the sum. An adversary does not know which steps a canary was drawn in: what it
guesses rests on the likelihood ratio, in which the number of draws is binomial.

What never lives here: clipping, noise and steps, which are the client's own (`client/training/dp_sgd.py`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import special, stats
from torch import Tensor

from client.training.examples import Examples
from client.training.gradients import Gradients, Source, gradients_of
from shared.config import TrainingSection
from shared.model.recommender import Recommender
from shared.privacy.plan import PrivacyPlan
from simulations.audits.canaries import Canaries
from simulations.audits.directions import Floats, Frame, Weighted
from simulations.audits.views import View
from simulations.audits.whole_updates import LONG

GradientsOf = Callable[..., AbstractContextManager[Source]]


def scores_steps(plan: PrivacyPlan) -> bool:
    """Whether canaries are read in local steps: where silos add fresh noise to each."""
    return bool(plan.rounds) and plan.adds_noise_locally and not plan.mechanism.users_take_turns


def reads_steps_of(settings: TrainingSection) -> bool:
    """Whether an update is the sum of its steps' noised gradients."""
    return settings.optimizer == "sgd" and not settings.weight_decay and not settings.history_dropout


class LocalSteps:
    """What is known of one round's local steps.

    Args:
        canaries: What was planted.
        plan: The run's.
        frame_of: Gives the canaries' directions for a number of parameters.
    """

    def __init__(self, canaries: Canaries, plan: PrivacyPlan, frame_of: Callable[[int], Frame]) -> None:
        self._canaries, self._plan, self._frame_of = canaries, plan, frame_of
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
        self._scale = self._plan.expected_batch_size / learning_rate if reads_steps_of(settings) else 0.0

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
        frame = self._frame_of(len(gradient))
        if canary is not None and canary < frame.number:
            self._draws[canary] += 1
            return torch.from_numpy(LONG * bound * frame.dense(canary)).to(gradient)
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
        if len({len(reply) for reply in replies.values()}) != 1 or not self._scale:  # ranks may differ by client
            return
        size, steps = len(next(iter(replies.values()))), self._plan.steps_per_round
        frame, most, homes = self._frame_of(size), steps * self._plan.l2_clip_norm, sorted(replies)
        left = [(-self._scale * replies[home] - self._sums.get(home, np.zeros(size))) / most for home in homes]
        parts = [np.flatnonzero(self._canaries.home == home) for home in homes]
        noise_stddev = self._plan.noise_multiplier / math.sqrt(steps)
        view.add(
            "train",
            round_number,
            Weighted(frame, self._draws / steps),
            left,
            parts,
            noise_stddev=noise_stddev,
            guessed=False,
        )
        scored = frame.has(np.arange(len(self._canaries))) & ~self._canaries.long
        for own, members in zip(left, parts, strict=True):
            mine = members[scored[members]]
            along = frame.along(own)[mine]
            view.odds[mine] += log_odds_of_draws(along, noise_stddev, rate=self._plan.sampling_rate, steps=steps)


def log_odds_of_draws(along: Floats, noise_stddev: float, *, rate: float, steps: int) -> Floats:
    """How much likelier a reading is if the canary is in, drawn in each step by a coin, than if it is out; as a logarithm.

    Args:
        along: (m,) readings of the mean over steps along each canary's direction, over the bound.
        noise_stddev: Of a reading, > 0.
        rate: Probability of being drawn in a step.
        steps: Steps.
    """
    times = np.arange(steps + 1)
    length = times / steps
    drawn = stats.binom.logpmf(times, steps, rate) + length * (along[:, None] - length / 2.0) / noise_stddev**2
    return np.asarray(special.logsumexp(drawn, axis=1))


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
