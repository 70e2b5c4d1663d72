"""How many units are looked at at once, so that memory does not grow with a silo."""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import NDArray


def blocks(sizes: NDArray[np.int64], *, largest: int) -> list[slice]:
    """Consecutive rows whose sizes add up to about a block, at least one row each.

    Args:
        sizes: (n,), >= 0, what each row takes.
        largest: Of a block, in the same unit.
    """
    ends = np.cumsum(sizes)
    cuts = np.flatnonzero(np.diff(ends // largest)) + 1
    bounds = [0, *cuts.tolist(), len(sizes)]
    return [slice(start, end) for start, end in itertools.pairwise(bounds) if end > start]
