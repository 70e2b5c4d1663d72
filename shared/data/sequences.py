"""Histories -> padded arrays (B, L): the tensors that models read.

Here lives the one layout of a batch. Here never live item ids as strings, splits or models.

Catalog rows are kept as they are (0 to I - 1) and padding is `PADDING` = -1, so that no item is shifted
by one and a forgotten mask fails loudly as an index instead of training on an item. Histories are
padded on the **right**: the first interaction is always at position 0, and under causal attention no
real position can see a padded one, so causality alone masks the padding. The last real position of row b
is `lengths[b] - 1`. Longer histories keep their last L items.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl

from shared.errors import ConfigError

PADDING: Final = -1

Histories = pl.Series | Sequence[npt.NDArray[np.integer]] | Sequence[Sequence[int]]


@dataclass(frozen=True)
class PaddedHistories:
    """A batch of histories as rectangular arrays.

    Attributes:
        items: Shape (B, L), int64: catalog rows in time order, then `PADDING`. (private)
        lengths: Shape (B,), int64, in [0, L]: real items of each row. (private)
    """

    items: npt.NDArray[np.int64]
    lengths: npt.NDArray[np.int64]

    @property
    def mask(self) -> npt.NDArray[np.bool_]:
        """Shape (B, L): True where there is a real item."""
        return np.arange(self.items.shape[1]) < self.lengths[:, None]


@dataclass(frozen=True)
class RaggedHistories:
    """Histories, or windows of them, of any lengths, without padding.

    Attributes:
        flat: Shape (T,), int64: catalog rows. (private)
        starts: Shape (B,), int64: where each history starts in `flat`. (private)
        lengths: Shape (B,), int64, >= 0. (private)
    """

    flat: npt.NDArray[np.int64]
    starts: npt.NDArray[np.int64]
    lengths: npt.NDArray[np.int64]

    @classmethod
    def of(cls, histories: Histories) -> RaggedHistories:
        """Lists of catalog rows, one after the other."""
        if isinstance(histories, pl.Series):
            lengths = histories.list.len().to_numpy().astype(np.int64)
            flat = histories.explode(empty_as_null=False).to_numpy()
        else:
            lengths = np.fromiter((len(history) for history in histories), dtype=np.int64, count=len(histories))
            flat = np.concatenate([np.asarray(history) for history in histories]) if len(histories) else np.empty(0)
        return cls(flat.astype(np.int64), np.cumsum(lengths) - lengths, lengths)

    def __len__(self) -> int:
        """B."""
        return len(self.lengths)

    def take(self, rows: npt.NDArray[np.int64]) -> RaggedHistories:
        """Some of the histories, in the given order; `flat` is shared."""
        return RaggedHistories(self.flat, self.starts[rows], self.lengths[rows])

    def filled_up(self, rows: int) -> RaggedHistories:
        """With empty histories at the end, until there are `rows`, >= B."""
        nothing = np.zeros(rows - len(self), dtype=np.int64)
        return RaggedHistories(self.flat, np.append(self.starts, nothing), np.append(self.lengths, nothing))

    def last(self, max_length: int) -> RaggedHistories:
        """The last `max_length` items of each.

        Raises:
            ConfigError: If max_length < 1.
        """
        kept = np.minimum(self.lengths, _at_least_one(max_length))
        return RaggedHistories(self.flat, self.starts + self.lengths - kept, kept)

    def windows(self, max_length: int, places: npt.NDArray[np.float64]) -> RaggedHistories:
        """One contiguous window of at most `max_length` items of each.

        Args:
            max_length: Most items in one window, >= 1.
            places: Shape (B,), in [0, 1): where the window lies among all that are possible. Drawn uniformly, every start
                is equally likely; a history that fits is taken whole.

        Raises:
            ConfigError: If max_length < 1.
        """
        kept = np.minimum(self.lengths, _at_least_one(max_length))
        offsets = np.floor(places * (self.lengths - kept + 1)).astype(np.int64)
        return RaggedHistories(self.flat, self.starts + offsets, kept)

    def padded(self, width: int | None = None) -> PaddedHistories:
        """As rectangular arrays; `width` is L, by default the longest history (at least 1)."""
        positions = np.arange(width or max(1, int(self.lengths.max(initial=0))), dtype=np.int64)
        mask = positions < self.lengths[:, None]
        items = np.full(mask.shape, PADDING, dtype=np.int64)
        items[mask] = self.flat[(self.starts[:, None] + positions)[mask]]
        return PaddedHistories(items, self.lengths)


def pad_histories(histories: Histories, *, max_length: int, width: int | None = None) -> PaddedHistories:
    """Pads histories on the right, keeping the last `max_length` items of each.

    Args:
        histories: B lists of catalog rows in time order: a List column of the HISTORIES TABLE, or
            arrays. Empty ones are allowed. (private)
        max_length: Most items kept of one history, >= 1.
        width: L of the result, >= `max_length`; by default the longest kept history (at least 1).

    Returns:
        The padded batch.

    Raises:
        ConfigError: If max_length < 1, or width < max_length.
    """
    return RaggedHistories.of(histories).last(max_length).padded(_wide_enough(width, max_length))


def draw_windows(
    histories: Histories, *, max_length: int, rng: np.random.Generator, width: int | None = None
) -> PaddedHistories:
    """Draws one contiguous window of at most `max_length` items from each history, for training.

    A history that fits is taken whole; of a longer one every start is equally likely. To predict the
    next item at L positions, ask for windows of L + 1 items.

    Args:
        histories: As in `pad_histories`. (private)
        max_length: Most items in one window, >= 1.
        rng: Seeded source; one number is drawn for every history, long or short, so that what one
            user draws does not depend on how long the others' histories are.
        width: As in `pad_histories`.

    Returns:
        The padded batch.

    Raises:
        ConfigError: If max_length < 1, or width < max_length.
    """
    ragged = RaggedHistories.of(histories)
    return ragged.windows(max_length, rng.random(len(ragged))).padded(_wide_enough(width, max_length))


def _at_least_one(max_length: int) -> int:
    if max_length < 1:
        raise ConfigError(f"Expected max_length >= 1, got max_length={max_length}. Use at least 1.")
    return max_length


def _wide_enough(width: int | None, max_length: int) -> int | None:
    if width is not None and width < max_length:
        raise ConfigError(f"Expected width >= max_length, got width={width}, max_length={max_length}. Widen it.")
    return width
