"""From examples to tensors, and from tensors to one loss a user: what a step of local training computes on.

First the windows of a step are drawn for all its examples at once, so that how they are then spread over forward passes
changes nothing that is drawn. Which examples share a pass, and how wide it is, is said by
`shared/model/passes.py`.

A history that does not fit the catalog counts as one without targets, so its loss and its gradient are zero: an exception
would tell others about the data. What never lives here: who takes part, clipping, noise (`client/training/dp_sgd.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from client.training.negatives import Negatives
from shared.config import TrainingSection
from shared.data.sequences import RaggedHistories
from shared.model.recommender import Recommender
from shared.model.sequence_recommender import sampled_user_losses, user_losses
from shared.randomness import NoiseSource


@dataclass(frozen=True, eq=False)
class Batch:
    """What the model reads and what it should say. (private)

    Attributes:
        inputs: (B, L) int64 catalog rows, any row where there is no item.
        targets: (B, L) int64, the item that follows each input.
        mask: (B, L) bool, True where there is a target.
        recurring: (B,), which rows will come again as they are.
        negatives: What targets are compared with; None: with every item. (public)
    """

    inputs: Tensor
    targets: Tensor
    mask: Tensor
    recurring: NDArray[np.bool_]
    negatives: Negatives | None = None


@dataclass(frozen=True, eq=False)
class Examples:
    """The windows of one step. (private)

    Attributes:
        windows: B windows of at most L + 1 interactions: L inputs, and the interaction that follows each.
        recurring: (B,), which of them are whole histories, that no draw will change in a later step.
        negatives: What targets are compared with in this step; None: with every item. (public)
    """

    windows: RaggedHistories
    recurring: NDArray[np.bool_]
    negatives: Negatives | None = None

    def take(self, rows: NDArray[np.int64]) -> Examples:
        """Some of them."""
        return Examples(self.windows.take(rows), self.recurring[rows], self.negatives)


class Draws:
    """Seeded choices that are private but need no secrecy of their own: windows, and what is left out of a history.

    Args:
        sources: One a client. In a reproducible run each client draws from its own, so that the others change nothing;
            otherwise all draw from one.

    Attributes:
        repeats: Whether the run is to be exact to repeat.
    """

    def __init__(self, sources: Sequence[NoiseSource]) -> None:
        own = [source.generator() for source in sources if source.kind == "replayable"]
        self.repeats = len(own) == len(sources)
        self._generators = own if self.repeats else [sources[0].generator()]

    def uniform(self, clients: NDArray[np.int64], each: NDArray[np.int64]) -> NDArray[np.float64]:
        """Numbers in [0, 1), `each[b]` of them for example b, one after the other.

        Args:
            clients: (B,), whose example each is, ascending.
            each: (B,).
        """
        if len(self._generators) == 1:
            return self._generators[0].random(int(each.sum()))
        counts = np.bincount(clients, weights=each, minlength=len(self._generators)).astype(np.int64)
        drawn = [generator.random(count) for generator, count in zip(self._generators, counts, strict=True) if count]
        return np.concatenate(drawn) if drawn else np.empty(0)


def draw_examples(
    histories: pl.Series, clients: NDArray[np.int64], *, max_length: int, config: TrainingSection, draws: Draws
) -> Examples:
    """Draws the windows of one step.

    Args:
        histories: B lists of catalog rows. (private)
        clients: (B,), whose example each is, ascending. (private)
        max_length: L.
        config: Augmentation. (public)
        draws: Where windows and what is left out come from.
    """
    whole = RaggedHistories.of(histories)
    one_each = np.ones(len(whole), dtype=np.int64)
    # What is remembered carries the rounding of the pass that it was met in, and a run that was resumed meets it in another.
    remembers = not config.history_dropout and not draws.repeats
    recurring = (whole.lengths <= max_length + 1) & remembers
    if config.history_dropout:
        shares = config.history_dropout * draws.uniform(clients, one_each)
        whole = _thinned(whole, shares, draws.uniform(clients, whole.lengths))
    if not config.random_windows:
        return Examples(whole.last(max_length + 1), recurring | remembers)
    return Examples(whole.windows(max_length + 1, draws.uniform(clients, one_each)), recurring)


def _thinned(histories: RaggedHistories, shares: NDArray[np.float64], coins: NDArray[np.float64]) -> RaggedHistories:
    """Leaves a share of each history out: augmentation in place of dropout. Two interactions stay at least."""
    owner = np.repeat(np.arange(len(histories)), histories.lengths)
    kept = coins >= shares[owner]
    too_few = np.bincount(owner, weights=kept, minlength=len(histories)) < 2
    kept |= too_few[owner]
    lengths = np.bincount(owner[kept], minlength=len(histories)).astype(np.int64)
    return RaggedHistories(histories.flat[kept], np.cumsum(lengths) - lengths, lengths)


def to_batch(examples: Examples, recommender: Recommender, *, width: int | None = None, rows: int | None = None) -> Batch:
    """Tensors of some examples on the recommender's device.

    Args:
        examples: B. (private)
        recommender: For which catalog and device.
        width: Interactions that each is padded to; by default the longest.
        rows: Rows that the batch is filled up to, with examples of no interaction; by default B.
    """
    rows = rows or len(examples.recurring)
    recurring = np.append(examples.recurring, np.zeros(rows - len(examples.recurring), dtype=np.bool_))
    padded = examples.windows.filled_up(rows).padded(width)
    outside = padded.mask & ((padded.items < 0) | (padded.items >= recommender.num_items))
    known = padded.mask & ~outside.any(axis=1, keepdims=True)
    items = torch.from_numpy(np.where(known, padded.items, 0)).to(recommender.device)
    mask = torch.from_numpy(known).to(recommender.device)
    if items.shape[1] < 2:  # only users with a single interaction: nothing to predict, but the shapes must hold
        items, mask = nn.functional.pad(items, (0, 1)), nn.functional.pad(mask, (0, 1))
    inputs, targets = items[:, :-1], items[:, 1:]
    return Batch(inputs, targets, mask[:, 1:], recurring=recurring, negatives=examples.negatives)


def batch_losses(recommender: Recommender, batch: Batch) -> Tensor:
    """Each user's mean loss, (B,) float32, nats; its graph ends in the trained tensors. (private)"""
    if batch.negatives is None:
        scores = recommender.scores(batch.inputs, batch.mask, recurring=batch.recurring)
        return user_losses(scores.float(), batch.targets, batch.mask)
    items = batch.negatives.items
    scores = recommender.sampled_scores(
        batch.inputs, batch.mask, targets=batch.targets, negatives=items, recurring=batch.recurring
    )
    log_weights = batch.negatives.log_weights
    return sampled_user_losses(scores.float(), batch.targets, batch.mask, negatives=items, log_weights=log_weights)
