"""Text transitions: what the texts of the last items say about the text of the next one. One release, before training.

At every position of a history, f is the direction of the last few items' whitened texts, the newer the heavier, and y the
next item's whitened text minus the mean of all that are used. A unit contributes

    B = sum of f y'        (D, D)

over its norm: what a linear map from f to y is made of, whatever the catalog's size, in a single release. The second moments
of f, which a regression needs too, are not asked for: the covariance of texts under the noised popularity stands for them,
and the whole budget goes to B.
"""

from __future__ import annotations

import math

import numpy as np
import polars as pl
from numpy.typing import NDArray

from client.statistics.popularity import within_catalog


def transition_vectors(
    histories: pl.Series,
    content: NDArray[np.float32],
    mean: NDArray[np.float64],
    *,
    last: int,
    decay: float,
    longest: int,
    first: NDArray[np.int64] | None = None,
) -> NDArray[np.float64]:
    """The bounded vector of each unit.

    Guarantee:
        The L2 norm of a row is at most 1 + 2**-40, whatever the history; a history with items that the catalog does not
        have, or of fewer than two items, is all zeros. A row depends on its own history alone.

    Args:
        histories: List[Int32] of catalog rows, training part, one row a unit. (private)
        content: (I, D) whitened texts, rows of norm 1. (public)
        mean: (D,) of the texts, weighted by popularity. (public)
        last: How many last items f is made of.
        decay: Weight of each item further back, in (0, 1].
        longest: Transitions of a history that are looked at, its latest ones.
        first: (n,), the position from which on a row's interactions are new: a transition counts if the one that it leads
            to is; by default all are. (private)

    Returns:
        (n, D^2) float64.
    """
    dimensions = content.shape[1]
    known = within_catalog(histories, num_items=len(content)).to_numpy()
    rows = np.zeros((len(histories), dimensions**2))
    since = np.zeros(len(rows), dtype=np.int64) if first is None else first
    for row, history, is_known, start in zip(rows, histories, known, since.tolist(), strict=True):
        items = history.to_numpy()[-longest - 1 :]
        if not is_known or len(items) < 2:
            continue
        texts = content[items].astype(np.float64)
        # The transition to position p is row p - 1.
        new = slice(max(start - (len(history) - len(items)) - 1, 0), None)
        before = recent_directions(texts, last=last, decay=decay)[:-1]
        row[:] = (before[new].T @ (texts[1:] - mean)[new]).ravel()
        row /= max(math.sqrt(np.dot(row, row)), 1e-150)
    return rows


def recent_directions(texts: NDArray[np.float64], *, last: int, decay: float) -> NDArray[np.float64]:
    """f at every position: the direction of the sum of the last texts, (L, D); zero where they cancel out."""
    summed = texts.copy()
    for steps_back in range(1, min(last, len(texts))):
        summed[steps_back:] += decay**steps_back * texts[:-steps_back]
    directions: NDArray[np.float64] = summed / np.maximum(np.linalg.norm(summed, axis=1, keepdims=True), 1e-12)
    return directions
