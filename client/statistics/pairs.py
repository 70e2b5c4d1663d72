"""Pairs: which two items of the head stand near one another in a unit's history. One release, before training.

Two items within `window` places of one another, counted among the items of the head alone, weigh decay**(distance - 1); the
order within a pair does not count, so that a pair is one coordinate. A unit's weights are divided by their norm: it says
*which* pairs, not how many, and a history of a hundred thousand interactions moves the sum no further than one of three.

Windows, because two items used in a row tell more about the next one than two that are years apart.
"""

from __future__ import annotations

import numpy as np
import polars as pl
from numpy.typing import NDArray

from client.batch import ClientBatch
from client.statistics.blocks import blocks
from client.statistics.popularity import within_catalog
from client.statistics.sparse import SparseRows
from client.statistics.statistic import Asked
from client.store.data import ClientRows
from shared.privacy.shapes import pairs_size

# Pairs that are looked at at once; some 100 MB of temporaries.
_BLOCK = 2**21


def pair_vectors(
    histories: pl.Series,
    places: NDArray[np.int64],
    *,
    head: int,
    window: int,
    decay: float,
    first: NDArray[np.int64] | None = None,
) -> SparseRows:
    """The bounded vector of each unit.

    Guarantee:
        The L2 norm of a row is at most 1 + 2**-40, whatever the history; a history with items that the catalog does not
        have, or with fewer than two different items of the head, is an empty row. A row depends on its own history alone.

    Args:
        histories: List[Int32] of catalog rows, training part, one row a unit. (private)
        places: (I,) each item's place in the head, -1 outside. (public)
        head: H. (public)
        window: Largest distance within a pair, >= 1. (public)
        decay: Weight of each further step of distance, in (0, 1]. (public)
        first: (n,), the position from which on a row's interactions are new: a pair counts if its later one is; by default
            all are. (private)

    Returns:
        n rows of H (H - 1) / 2 values, in the order of `pair_place`.
    """
    known = within_catalog(histories, num_items=len(places)).to_numpy()
    lengths = np.where(known, histories.list.len().to_numpy().astype(np.int64), 0)
    starts, found, values = [np.zeros(1, dtype=np.int64)], [], []
    for rows in blocks(lengths * window, largest=_BLOCK):
        own = histories[rows].filter(pl.Series(known[rows]))
        since = None if first is None else first[rows]
        part = _block(own, lengths[rows], places, since, head=head, window=window, decay=decay)
        starts.append(part.starts[1:] + starts[-1][-1])
        found.append(part.places)
        values.append(part.values)
    every = np.concatenate([np.zeros(0, dtype=np.int64), *found])
    return SparseRows(pairs_size(head), np.concatenate(starts), every, np.concatenate([np.zeros(0), *values])).normalized()


def pair_sums(
    histories: pl.Series,
    clients: NDArray[np.int64],
    places: NDArray[np.int64],
    *,
    num_clients: int,
    head: int,
    window: int,
    decay: float,
    first: NDArray[np.int64] | None = None,
) -> SparseRows:
    """Each client's sum of its units' bounded vectors, block by block: beside the sums there is one block of units.

    Args:
        histories: As in `pair_vectors`. (private)
        clients: (n,), whose each row is, in [0, num_clients). (private)
        places, head, window, decay: As in `pair_vectors`. (public)
        first: As in `pair_vectors`. (private)
        num_clients: N.

    Returns:
        N rows.
    """
    total: SparseRows | None = None
    for rows in blocks(histories.list.len().to_numpy().astype(np.int64) * window, largest=_BLOCK):
        groups, since = clients[rows], None if first is None else first[rows]
        part = pair_vectors(histories[rows], places, head=head, window=window, decay=decay, first=since)
        if total is not None:
            part, groups = total.followed_by(part), np.concatenate([np.arange(num_clients), groups])
        total = part.summed(groups, num_groups=num_clients)
    return SparseRows.empty(pairs_size(head), num_clients) if total is None else total


def pair_place(low: NDArray[np.int64], high: NDArray[np.int64], head: int) -> NDArray[np.int64]:
    """The coordinate of the pairs low < high: rows of the upper triangle, one after the other."""
    return low * (2 * head - low - 1) // 2 + high - low - 1


def _block(
    histories: pl.Series,
    lengths: NDArray[np.int64],
    places: NDArray[np.int64],
    first: NDArray[np.int64] | None,
    *,
    head: int,
    window: int,
    decay: float,
) -> SparseRows:
    """Some units' weights of pairs, not yet divided by their norms."""
    items = places[histories.explode(empty_as_null=False).to_numpy().astype(np.int64)]
    users = np.repeat(np.arange(len(lengths)), lengths)
    is_new = np.ones(len(users), dtype=np.bool_)
    if first is not None:
        is_new = np.arange(len(users)) - (np.cumsum(lengths) - lengths)[users] >= first[users]
    users, is_new, items = users[items >= 0], is_new[items >= 0], items[items >= 0]
    keys, weights = [], []
    for distance in range(1, window + 1):
        near, far = items[:-distance], items[distance:]
        pairs = (users[:-distance] == users[distance:]) & (near != far) & is_new[distance:]
        if not pairs.any():
            continue
        low, high = np.minimum(near, far)[pairs], np.maximum(near, far)[pairs]
        keys.append(users[:-distance][pairs] * pairs_size(head) + pair_place(low, high, head))
        weights.append(np.full(len(low), decay ** (distance - 1)))
    if not keys:
        return SparseRows.empty(pairs_size(head), len(lengths))
    distinct, inverse = np.unique(np.concatenate(keys), return_inverse=True)
    total = np.bincount(inverse, weights=np.concatenate(weights), minlength=len(distinct))
    rows, columns = np.divmod(distinct, pairs_size(head))
    counts = np.bincount(rows, minlength=len(lengths))
    return SparseRows(pairs_size(head), np.concatenate([[0], np.cumsum(counts)]), columns, total.astype(np.float64))


class Pairs:
    """Which two items stand near one another in histories."""

    name = "pairs"

    def vectors(self, asked: Asked, batch: ClientBatch, rows: ClientRows) -> SparseRows:
        """As `Statistic.vectors`; (N, H (H - 1) / 2)."""
        units, clients = batch.units(rows, asked.task.plan)
        head = np.array(asked.task.head, dtype=np.int64)
        if not len(head):
            head = asked.shapes.head_of(asked.recommender.attached.model.log_prior.cpu().numpy())
        places = np.full(asked.recommender.num_items, -1, dtype=np.int64)
        places[head] = np.arange(len(head))
        return pair_sums(
            units,
            clients,
            places,
            num_clients=len(batch),
            head=len(head),
            window=asked.shapes.window,
            decay=asked.shapes.pair_decay,
            first=asked.counted(rows),
        )
