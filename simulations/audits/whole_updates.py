"""Canaries in rounds of whole updates, where every user is a client: their updates in directions of their own.

A canary's update is ten times the bound. The adversary knows all other updates, takes their bounded sum away, and finds the
canaries that are in, and noise. Under adaptive clipping a contribution has one more coordinate, which says whether the
update was within the bound, and the bound is that of the round. Under DP-FTRL what one round's noise adds later rounds take
back: the readings are turned back into independent ones by the public matrix C, in which a canary stands in the rounds
after its own too.

Who knows in which rounds a canary's client took part reads it there alone. An outsider does not, where clients are drawn
and nobody is told: it weighs both with the sampling rate, by the likelihood ratio.

What never lives here: bounding, encoding, noise and sum, which are the client's and the server's own.

Source:
    Kalinin and Lampert 2024 (`shared/privacy/correlated_noise.py`).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from server.statistics.statistic import Total
from shared.privacy.correlated_noise import coefficients
from shared.privacy.plan import PrivacyPlan
from simulations.audits.canaries import Canaries
from simulations.audits.directions import Floats, Frame, Weighted
from simulations.audits.views import View

LONG = 10.0
# A likelihood ratio that is beyond all doubt, as a logarithm.
_CERTAIN = 50.0


def reads_rounds(plan: PrivacyPlan) -> bool:
    """Whether canaries are read in rounds of whole updates."""
    # Correlated noise under a bound that moves is no fixed combination of independent noise.
    moves = bool(plan.clipping_share) and plan.mechanism.clients_take_turns
    return bool(plan.rounds) and plan.clips_whole_updates and not moves


def hides_participation(plan: PrivacyPlan) -> bool:
    """Whether claims against outsiders rest on not knowing who was drawn."""
    return plan.mechanism.adds_noise_centrally and plan.sampling_rate < 1.0 and not plan.min_separation


class WholeUpdates:
    """What is known of a twin's rounds.

    Args:
        canaries: What was planted.
        plan: The run's.
        frame_of: Gives the canaries' directions for a number of parameters.
    """

    def __init__(self, canaries: Canaries, plan: PrivacyPlan, frame_of: Callable[[int], Frame]) -> None:
        self._canaries, self._plan, self._frame_of = canaries, plan, frame_of
        self._at_home = {int(home): canary for canary, home in enumerate(canaries.home.tolist())}
        self._asked = np.zeros(len(canaries), dtype=np.bool_)
        self._clip, self._size = 0.0, 0
        self._others: list[tuple[NDArray[np.int64], Floats]] = []
        self._before: list[tuple[Floats, Floats]] = []

    def begin(self, l2_clip_norm: float, clients: NDArray[np.int64]) -> None:
        """A new round.

        Args:
            l2_clip_norm: Its bound C.
            clients: Who was asked.
        """
        self._clip, self._asked, self._others, self._size = l2_clip_norm, np.isin(self._canaries.home, clients), [], 0

    def trained(self, clients: NDArray[np.int64], updates: NDArray[np.float32]) -> NDArray[np.float32]:
        """Puts the canaries' directions in the place of their updates; takes note of all other updates.

        Clients that are asked again, because one of them failed, are taken note of as they answer last.

        Args:
            clients: (N,).
            updates: (N, d), not yet bounded. (private)

        Returns:
            (N, d): of a canary that is in its own direction, at ten times the bound.
        """
        self._size = updates.shape[1]
        frame, changed, others = self._frame_of(self._size), updates.copy(), np.ones(len(clients), dtype=np.bool_)
        for place, client in enumerate(clients.tolist()):
            canary = self._at_home.get(client)
            if canary is not None and self._canaries.included[canary] and canary < frame.number:
                others[place] = False
                changed[place] = LONG * self._clip * frame.dense(canary)
        kept = [part for part in self._others if not np.isin(part[0], clients).any()]
        self._others = [*kept, (clients, self._bounded_sum(updates[others].astype(np.float64)))]
        return changed

    def read(self, sums: View, known: View | None, round_number: int, total: Total) -> None:
        """Reads a round's noised sum, over the bound on one contribution.

        Args:
            sums: What an outsider sees.
            known: What those see who know who took part, where that is more.
            round_number: Of the round.
            total: The noised sum.
        """
        if not self._others:
            return
        frame, bound = self._frame_of(self._size), self._plan.l2_bound(self._clip)
        left = (np.asarray(total.values, dtype=np.float64) - sum(part for _, part in self._others)) / bound
        weights = np.asarray(self._asked * (self._clip / bound), dtype=np.float64)
        stddev = total.noise_stddev / bound
        if self._plan.mechanism.clients_take_turns:
            left, weights = self._independent(left, weights)
        beside = -self._plan.clipping_bit(self._clip) / self._clip if self._plan.clipping_share else None
        directions, everyone = Weighted(frame, weights, beside), np.arange(len(self._canaries))
        for view, guessed in ((sums, known is None), (known, True)):
            if view is not None:
                view.add(
                    "train",
                    round_number,
                    directions,
                    [left],
                    [everyone],
                    noise_stddev=stddev,
                    guessed=guessed,
                    estimated=not self._plan.mechanism.clients_take_turns,
                )
        if known is not None:
            along = frame.along(left[: frame.size])
            odds = log_odds_if_drawn(along, self._clip / bound, stddev, rate=self._plan.sampling_rate)
            sums.odds += odds * frame.has(everyone)

    def _bounded_sum(self, updates: Floats) -> Floats:
        """The sum of all bounded updates, by lines of our own; under adaptive clipping with the coordinate beside them."""
        norms = np.linalg.norm(updates, axis=1)
        total = np.minimum(1.0, self._clip / np.maximum(norms, 1e-300)) @ updates
        if not self._plan.clipping_share:
            return np.asarray(total)
        says = np.where(norms <= self._clip, 1.0, -1.0) * (norms > 0.0)
        return np.append(total, self._plan.clipping_bit(self._clip) * says.sum())

    def _independent(self, left: Floats, weights: Floats) -> tuple[Floats, Floats]:
        """Under correlated noise w = C^-1 z: what is left and who is in it, times C; the noise is then z."""
        found = left, weights
        for back, (earlier, of_then) in enumerate(self._before, start=1):
            factor = coefficients(self._plan.min_separation)[back]
            found = found[0] + factor * earlier, found[1] + factor * of_then
        self._before = [(left, weights), *self._before][: self._plan.min_separation - 1]
        return found


def log_odds_if_drawn(along: Floats, length: float, noise_stddev: float, *, rate: float) -> Floats:
    """How much likelier a reading is if the canary is in, drawn with some probability, than if it is out; as a logarithm.

    Args:
        along: (m,) readings along each canary's direction.
        length: What a canary adds where it is drawn.
        noise_stddev: Of a reading; 0: exact.
        rate: Probability of being drawn, below 1.

    Source:
        log(1 - q + q exp((2 x - 1) / (2 s^2))), in units of `length`.
    """
    stays = math.log1p(-rate)
    if not noise_stddev:
        return np.where(along > length / 2.0, _CERTAIN, stays)
    drawn = math.log(rate) + length * (along - length / 2.0) / noise_stddev**2
    return np.asarray(np.logaddexp(stays, drawn))
