"""Public negatives: the items that a step of sampled softmax compares its targets with.

They are drawn from half a uniform distribution and half the popularity prior, which is a released value, by a generator that
depends on the run's seed, the round and the step alone. So they say nothing about a user, are the same for all clients of a
round, in whatever engine and after a resumption, and couple no two users: per-user clipping stays what it is.

Half uniform, so that no weight exceeds twice the catalog over the number of draws; half popular, because a likely item is
more often a close one. Of each half exactly its number is drawn, with replacement, which is no worse than a coin for each
draw. What is drawn twice is scored once and counts twice. What never lives here: the loss
(`shared/model/sequence_recommender.py`).

Source:
    Veach and Guibas 1995, "Optimally Combining Sampling Techniques for Monte Carlo Rendering", section 3 (the balance
    heuristic: each draw is weighed by the expected number of draws of its item from all techniques together).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from shared.config import RunConfig
from shared.randomness import derive


@dataclass(frozen=True, eq=False)
class Negatives:
    """The negatives of one step. (public)

    Attributes:
        items: (U,) int64, distinct catalog rows, ascending.
        log_weights: (U,) float32, log of how often each was drawn over how often that was to be expected.
    """

    items: Tensor
    log_weights: Tensor


@dataclass(frozen=True)
class PublicNegatives:
    """What the negatives of a round's steps follow from. (public)

    Attributes:
        count: Draws a step, >= 1.
        seed: Of the run.
        round_number: From 1.
    """

    count: int
    seed: int
    round_number: int

    @classmethod
    def of(cls, config: RunConfig, round_number: int) -> PublicNegatives | None:
        """Those of a configuration; None where it scores every item."""
        if not config.training.negatives:
            return None
        return cls(config.training.negatives, config.run.seed, round_number)


class Proposal:
    """The distribution of one round's negatives.

    Args:
        negatives: Which round's.
        log_prior: (I,) float32, the popularity prior, up to a constant. (public)
        device: Where the negatives are wanted.

    Attributes:
        expected: (I,) float64, how often each item is drawn in a step on average; sums to the number of draws.
    """

    def __init__(self, negatives: PublicNegatives, log_prior: NDArray[np.float32], *, device: torch.device) -> None:
        self._negatives, self._device = negatives, device
        self._uniform = negatives.count - negatives.count // 2
        self._popular = negatives.count // 2
        shares = np.exp(log_prior - log_prior.max(), dtype=np.float64)
        shares /= shares.sum()
        self._up_to = np.cumsum(shares)
        self.expected: NDArray[np.float64] = self._uniform / len(log_prior) + self._popular * shares

    def draw(self, step: int) -> Negatives:
        """The negatives of one local step."""
        rng = derive(self._negatives.seed, "negatives", self._negatives.round_number, step)
        num_items = len(self.expected)
        uniform = rng.integers(num_items, size=self._uniform)
        popular = np.searchsorted(self._up_to, rng.random(self._popular) * self._up_to[-1], side="right")
        drawn = np.concatenate([uniform, np.minimum(popular, num_items - 1)])
        items, times = np.unique(drawn, return_counts=True)
        log_weights = np.log(times / self.expected[items]).astype(np.float32)
        return Negatives(
            torch.from_numpy(items.astype(np.int64)).to(self._device), torch.from_numpy(log_weights).to(self._device)
        )
