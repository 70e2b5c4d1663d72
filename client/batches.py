"""From examples to tensors, and from tensors to one loss a user: what a step of local training computes on.

A history that does not fit the catalog counts as one without targets, so its loss and its gradient are zero: an exception
would tell others about the data. What never lives here: who takes part, clipping, noise (`client/dp_sgd.py`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
import torch
from torch import Tensor, nn

from shared.config import TrainingSection
from shared.model import user_losses
from shared.recommender import Recommender
from shared.sequences import draw_windows, pad_histories


@dataclass(frozen=True, eq=False)
class Batch:
    """What the model reads and what it should say. (private)

    Attributes:
        inputs: (B, L) int64 catalog rows, any row where there is no item.
        targets: (B, L) int64, the item that follows each input.
        mask: (B, L) bool, True where there is a target.
    """

    inputs: Tensor
    targets: Tensor
    mask: Tensor


def draw_batch(histories: pl.Series, recommender: Recommender, config: TrainingSection, rng: np.random.Generator) -> Batch:
    """Windows of at most L + 1 interactions: L inputs, each with the interaction that follows as target.

    Args:
        histories: B lists of catalog rows. (private)
        recommender: Its catalog's size, L and device.
        config: Augmentation. (public)
        rng: Seeded source of windows and of what is left out.
    """
    length = recommender.attached.model.config.max_history_length
    if config.history_dropout:
        histories = _thin(histories, config.history_dropout, rng)
    if config.random_windows:
        padded = draw_windows(histories, max_length=length + 1, rng=rng)
    else:
        padded = pad_histories(histories, max_length=length + 1)
    outside = padded.mask & ((padded.items < 0) | (padded.items >= recommender.num_items))
    known = padded.mask & ~outside.any(axis=1, keepdims=True)
    items = torch.from_numpy(np.where(known, padded.items, 0)).to(recommender.device)
    mask = torch.from_numpy(known).to(recommender.device)
    if items.shape[1] < 2:  # only users with a single interaction: nothing to predict, but the shapes must hold
        items, mask = nn.functional.pad(items, (0, 1)), nn.functional.pad(mask, (0, 1))
    return Batch(inputs=items[:, :-1], targets=items[:, 1:], mask=mask[:, 1:])


def _thin(histories: pl.Series, largest_share: float, rng: np.random.Generator) -> pl.Series:
    """Leaves out a random share (up to `largest_share`) of each history: augmentation in place of dropout."""
    thinned = []
    for history in histories:
        items = history.to_numpy()
        kept = items[rng.random(len(items)) >= largest_share * rng.random()]
        # Lists, because polars makes another type of column from arrays that happen to be of equal length.
        thinned.append((kept if len(kept) >= 2 else items).tolist())
    return pl.Series(thinned, dtype=histories.dtype)


def batch_losses(recommender: Recommender, batch: Batch) -> Tensor:
    """Each user's mean loss, (B,) float32, nats; its graph ends in the trained tensors. (private)"""
    with recommender.precision():
        scores = recommender.attached.model(batch.inputs)
    return user_losses(scores.float(), batch.targets, batch.mask)
