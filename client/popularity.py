"""The popularity prior's private count: one release, before the first round.

Each user contributes 1/sqrt(m) to each of the m distinct items of the training history: L2 norm exactly 1 (L1 norm sqrt(m)),
however long the history. The noise comes from the plan and is drawn on the device.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from shared.privacy.plan import PrivacyPlan
from shared.randomness import NoiseSource


def count_items(histories: pl.Series, *, num_items: int, plan: PrivacyPlan, source: NoiseSource) -> NDArray[np.float32]:
    """Counts training items with bounded contributions, and adds the plan's noise.

    Guarantee:
        Adding or removing one user moves the count by at most 1 in L2 norm before noise of standard deviation
        plan.popularity_noise_multiplier is added to every item.

    Args:
        histories: List[Int32] of catalog rows, training part. (private)
        num_items: I.
        plan: The noise. (public)
        source: Noise.

    Returns:
        Shape (I,), float32. All zeros under a plan that has noise but none for this release: nothing is released then.
    """
    if plan.adds_noise and not plan.popularity_noise_multiplier:
        return np.zeros(num_items, dtype=np.float32)
    distinct = histories.list.unique()
    sizes = distinct.list.len().to_numpy().astype(np.float64)
    share = 1.0 / np.sqrt(np.maximum(sizes, 1.0))
    rows = distinct.explode(empty_as_null=False).to_numpy().astype(np.int64)
    weights = np.repeat(share, sizes.astype(np.int64))
    counts: NDArray[Any] = np.bincount(rows, weights=weights, minlength=num_items)
    if plan.adds_noise:
        counts = counts + source.gaussian(num_items, stddev=plan.popularity_noise_multiplier)
    # Rounded to float32 only now: rounding a clean count could move it by more than the sensitivity.
    return counts.astype(np.float32)
