"""From scores to a list: the k best items of a user, without those that the user has already.

Lives here: the order of a list, the same on a device, on a server and in a simulation. Never here: a score, or a metric.
Metrics rank by another rule (`shared/metrics/ranking.py`): a list breaks ties by row, a metric against the model.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from shared.errors import ConfigError, DataError


def top_k(scores: NDArray[np.floating], seen: NDArray[np.integer], *, k: int) -> NDArray[np.int64]:
    """The items with the highest scores, best first; ties go to the lower catalog row.

    Guarantee:
        No item of `seen` is in the list, whatever its score.

    Args:
        scores: One user's scores, shape (I,), higher is better; not changed. NaN stands behind every number. (private)
        seen: Catalog rows that are left out, any number of them, in any order. (private)
        k: List length, >= 1. (public)

    Returns:
        Catalog rows, shape (min(k, items that are not seen),), int64.

    Raises:
        ConfigError: If k < 1.
        DataError: If a seen row lies outside the catalog.
    """
    if k < 1:
        raise ConfigError(f"Expected k >= 1, got k={k}. Use 10.")
    if len(seen) and (seen.min() < 0 or seen.max() >= len(scores)):
        raise DataError(f"Expected item rows in [0, {len(scores)}), found others. Use the catalog of the scores.")
    candidate = np.ones(len(scores), dtype=np.bool_)
    candidate[seen] = False
    rows = np.flatnonzero(candidate)
    if len(rows) > k:
        # Of a large catalog only the items at or above the k-th score are sorted; NaN there keeps them all.
        last = -np.partition(-scores[rows], k - 1)[k - 1]
        rows = rows if np.isnan(last) else rows[scores[rows] >= last]
    return rows[np.argsort(-scores[rows], kind="stable")][:k].astype(np.int64)
