"""Transitions: what the directions of the last items say about those of the next one. One release, before training.

An item's directions are public: its whitened text, and beside it the factors that the noised pairs gave it. At every
position of a history, f is the direction of the sum of the last few items' directions, the newer the heavier, and y the next
item's minus the mean of all that are used. A unit contributes

    B = sum of f y'        (D, D)

over its norm: what a linear map from f to y is made of, whatever the catalog's size, in a single release. The second moments
of f, which a regression needs too, are not asked for: the covariance of directions under the noised popularity stands for
them, and the whole budget goes to B.

Factors beside texts, because order shows between items that texts do not tell apart: on the embedded data at epsilon 8 it
takes test NDCG@10 from .15 to .18, on ml-100k from .087 to .09 (`simulations/README.md`).
"""

from __future__ import annotations

import math

import numpy as np
import polars as pl
from numpy.typing import NDArray

from client.batch import ClientBatch
from client.statistics.blocks import blocks
from client.statistics.popularity import within_catalog
from client.statistics.statistic import Asked
from client.store.data import ClientRows
from shared.errors import ProtocolViolation
from shared.model.statistics import LONGEST_TRANSITIONS, TRANSITION_DECAY, TRANSITION_ITEMS

# Numbers of directions that are looked at at once; some 30 MB of temporaries.
_BLOCK = 2**20


def transition_sums(
    histories: pl.Series,
    clients: NDArray[np.int64],
    directions: NDArray[np.float32],
    mean: NDArray[np.float64],
    *,
    num_clients: int,
    last: int,
    decay: float,
    longest: int,
    first: NDArray[np.int64] | None = None,
) -> NDArray[np.float64]:
    """Each client's sum of its units' bounded vectors; beside the sums there is one unit's vector.

    Guarantee:
        The L2 norm of a unit's vector is at most 1 + 2**-40, whatever the history; a history with items that the catalog
        does not have, or of fewer than two items, counts as nothing, and directions that are not finite are zero. A vector
        depends on its own history alone.

    Args:
        histories: List[Int32] of catalog rows, training part, one row a unit. (private)
        clients: (n,), whose each is, in [0, num_clients). (private)
        directions: (I, D) of every item. (public)
        mean: (D,) of the directions, weighted by popularity. (public)
        num_clients: N.
        last: How many last items f is made of.
        decay: Weight of each item further back, in (0, 1].
        longest: Transitions of a history that are looked at, its latest ones.
        first: (n,), the position from which on a row's interactions are new: a transition counts if the one that it leads
            to is; by default all are. (private)

    Returns:
        (N, D^2) float64.
    """
    dimensions = directions.shape[1]
    directions = np.nan_to_num(directions, nan=0.0, posinf=0.0, neginf=0.0)  # 0 times infinity would reach the next history
    known = within_catalog(histories, num_items=len(directions))
    latest, owners = histories.filter(known).list.tail(longest + 1), clients[known.to_numpy()]
    lengths = latest.list.len().to_numpy().astype(np.int64)
    skipped = _skipped(histories, first, longest + 1)[known.to_numpy()]
    total = np.zeros((num_clients, dimensions**2))
    moments, row = np.empty((2, dimensions**2))
    for units in blocks(lengths * dimensions, largest=_BLOCK):
        ends = np.cumsum(lengths[units])
        starts = ends - lengths[units]
        own = directions[latest[units].explode(empty_as_null=False).to_numpy()].astype(np.float64)
        before = recent_directions(own, starts, last=last, decay=decay)
        own -= mean
        places = zip(owners[units].tolist(), starts.tolist(), skipped[units].tolist(), ends.tolist(), strict=True)
        for owner, start, old, end in places:
            begin = start + old  # the transition from here to the next place is the first that counts
            if end - begin < 2:
                continue
            np.matmul(before[begin : end - 1].T, own[begin + 1 : end], out=moments.reshape(dimensions, dimensions))
            norm = math.sqrt(np.dot(moments, moments))
            if math.isfinite(norm):  # where the mean is not, nobody counts
                np.divide(moments, max(norm, 1e-150), out=row)
                total[owner] += row
    return total


def _skipped(histories: pl.Series, first: NDArray[np.int64] | None, latest: int) -> NDArray[np.int64]:
    """How many transitions of each history's latest interactions lead to ones that were counted before, (n,)."""
    if first is None:
        return np.zeros(len(histories), dtype=np.int64)
    lengths = histories.list.len().to_numpy().astype(np.int64)
    return np.asarray(np.maximum(first - np.maximum(lengths - latest, 0) - 1, 0))


def recent_directions(
    own: NDArray[np.float64], starts: NDArray[np.int64], *, last: int, decay: float
) -> NDArray[np.float64]:
    """f at every position of some histories, one after the other: the direction of the sum of the last items, (L, D).

    Zero where they cancel out.

    Args:
        own: (L, D) directions at all positions.
        starts: (n,) where each history begins.
        last: How many are added up.
        decay: Weight of each further back.
    """
    summed, numbers = own.copy(), np.arange(len(own))
    places = numbers - starts[np.searchsorted(starts, numbers, side="right") - 1]
    for steps_back in range(1, min(last, len(own))):
        weights = decay**steps_back * (places[steps_back:] >= steps_back)
        summed[steps_back:] += weights[:, None] * own[:-steps_back]
    directions: NDArray[np.float64] = summed / np.maximum(np.linalg.norm(summed, axis=1, keepdims=True), 1e-12)
    return directions


class Transitions:
    """What the last items say about the next one."""

    name = "transitions"

    def vectors(self, asked: Asked, batch: ClientBatch, rows: ClientRows) -> NDArray[np.float64]:
        """As `Statistic.vectors`; (N, D^2).

        Raises:
            ProtocolViolation: If the state has directions of another number.
        """
        units, clients = batch.units(rows, asked.task.plan)
        model = asked.recommender.attached.model
        directions = model.directions_of(asked.shapes.text_dimensions).float().cpu().numpy()
        if directions.shape[1] != asked.shapes.dimensions:
            raise ProtocolViolation(
                f"Expected directions of {asked.shapes.dimensions} numbers an item for the transitions, got "
                f"{directions.shape[1]}. Use the same configuration on both ends."
            )
        popularity = np.exp(model.log_prior.double().cpu().numpy())
        return transition_sums(
            units,
            clients,
            directions,
            popularity @ directions,
            num_clients=len(batch),
            last=TRANSITION_ITEMS,
            decay=TRANSITION_DECAY,
            longest=LONGEST_TRANSITIONS,
            first=asked.counted(rows),
        )
