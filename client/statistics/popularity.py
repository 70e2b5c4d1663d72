"""The popularity prior's count: one release, before the first round.

Each unit contributes 1/sqrt(m) to each of its m distinct training items: L2 norm exactly 1 (L1 norm sqrt(m)), however long
the history. The noise is added by whoever the plan says (`client/contribution.py`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from client.batch import ClientBatch
from client.statistics.statistic import Asked
from client.store.data import ClientRows


def within_catalog(histories: pl.Series, *, num_items: int) -> pl.Series:
    """Which histories name items of the catalog only; a faulty one must neither change a message nor spoil the others.

    Args:
        histories: List[Int32]. (private)
        num_items: I.

    Returns:
        Boolean, one value a row; an empty history is within.
    """
    return (histories.list.min() >= 0).fill_null(True) & (histories.list.max() < num_items).fill_null(True)


def histories_from(histories: pl.Series, first: NDArray[np.int64]) -> pl.Series:
    """Each row from a position on. (private)"""
    table = pl.DataFrame({"history": histories, "first": first})
    return table.select(pl.col("history").list.slice(pl.col("first")))["history"]


def count_items(
    histories: pl.Series,
    clients: NDArray[np.int64],
    *,
    num_clients: int,
    num_items: int,
    first: NDArray[np.int64] | None = None,
) -> NDArray[np.float64]:
    """Counts training items with bounded contributions.

    Guarantee:
        Adding or removing one row moves its client's count by at most 1 in L2 norm, whatever it holds: a row with items
        that the catalog does not have counts as nothing.

    Args:
        histories: List[Int32] of catalog rows, training part, one row a unit. (private)
        clients: (rows,), whose each is, in [0, num_clients). (private)
        num_clients: N.
        num_items: I.
        first: (rows,), the position from which on a row's interactions count; by default all do. (private)

    Returns:
        Shape (N, I), float64; exact. (private)
    """
    known = within_catalog(histories, num_items=num_items)
    counted = histories if first is None else histories_from(histories, first)
    distinct = counted.filter(known).list.unique()
    sizes = distinct.list.len().to_numpy().astype(np.int64)
    share = 1.0 / np.sqrt(np.maximum(sizes, 1))
    items = distinct.explode(empty_as_null=False).to_numpy().astype(np.int64)
    places = np.repeat(clients[known.to_numpy()], sizes) * num_items + items
    counts: NDArray[Any] = np.bincount(places, weights=np.repeat(share, sizes), minlength=num_clients * num_items)
    return counts.astype(np.float64).reshape(num_clients, num_items)


class Popularity:
    """How often each item was used."""

    name = "popularity"

    def vectors(self, asked: Asked, batch: ClientBatch, rows: ClientRows) -> NDArray[np.float64]:
        """As `Statistic.vectors`; (N, I)."""
        units, clients = batch.units(rows, asked.task.plan)
        size = asked.recommender.num_items
        return count_items(units, clients, num_clients=len(batch), num_items=size, first=asked.counted(rows))
