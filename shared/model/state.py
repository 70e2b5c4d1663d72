"""The flat vectors that travel: the state of the recommender down, an update up.

`RecommenderState` is everything that was learned: the popularity prior (I,), the trained LoRA tensors (d,) and, where there
are any, the residual and the statistics, one after the other in a single float32 array. An update is a difference of
adapters only; prior and statistics are set once, before round 1, and the residual is the server's.
Updates form a vector space, and everything that happens to them is linear algebra on (d,).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from shared.errors import CheckpointError, ConfigError, SensitivityError

# Values whose squares are taken at once.
_BLOCK = 2**15


@dataclass(frozen=True, eq=False)
class RecommenderState:
    """All that was learned.

    Attributes:
        log_prior: Shape (I,), float32, log-probabilities of the popularity prior.
        adapter: Shape (d,), float32, the trained LoRA tensors in flat order.
        residual: Float32, what is added to the frozen weights (`shared/model/residual.py`); empty where there is none.
        statistics: Float32, `Statistics.to_vector` (`shared/model/statistics.py`); empty where there are none.
    """

    log_prior: NDArray[np.float32]
    adapter: NDArray[np.float32]
    residual: NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, dtype=np.float32))
    statistics: NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, dtype=np.float32))

    def to_vector(self) -> NDArray[np.float32]:
        """One array of shape (I + d + residual + statistics,), float32."""
        return np.concatenate([self.log_prior, self.adapter, self.residual, self.statistics])

    @classmethod
    def from_vector(
        cls, vector: NDArray[np.float32], *, num_items: int, adapter_size: int, residual_size: int = 0
    ) -> RecommenderState:
        """The inverse of `to_vector`.

        Args:
            vector: The array.
            num_items: I, values of the prior.
            adapter_size: d, values of the adapter.
            residual_size: Values of the residual behind it; what is left are the statistics.

        Raises:
            CheckpointError: If the array is not a flat float32 array of at least that many values.
        """
        ends = np.cumsum([num_items, adapter_size, residual_size])
        if vector.ndim != 1 or len(vector) < ends[-1] or vector.dtype != np.float32:
            raise CheckpointError(
                f"Expected a float32 state of at least {ends[-1]} values, got shape={vector.shape}, dtype={vector.dtype}. "
                "It belongs to another catalog."
            )
        return cls(*np.split(vector, ends))


def check_update(update: NDArray[np.float32], *, size: int, l2_bound: float = math.inf) -> NDArray[np.float32]:
    """Refuses what is not a finite float32 vector of the adapter's size and of a possible length.

    Args:
        update: What a client sent.
        size: Values that it must have. (public)
        l2_bound: Largest L2 norm that it may have. (public)

    Raises:
        SensitivityError: If the shape, the type, a value or the length is wrong.
    """
    if update.shape != (size,) or update.dtype != np.float32:
        raise SensitivityError(
            f"Expected an update of {size} float32 values, got shape={update.shape}, dtype={update.dtype}. "
            "The client runs another configuration."
        )
    if not np.isfinite(update).all():
        raise SensitivityError("Expected a finite update, got NaN or infinity. The client's reply was left out.")
    # Squares of float32 values neither overflow nor vanish in float64.
    if math.sqrt(np.square(update, dtype=np.float64).sum()) > l2_bound:
        raise SensitivityError(
            f"Expected an update of L2 norm <= {l2_bound:.3g}, which follows from public constants, got a longer one. The "
            "client's reply was left out; look at that client's code."
        )
    return update


def clip_rows(updates: NDArray[np.float32], *, l2_clip_norm: float) -> NDArray[np.float32]:
    """Scales each row that is too long down so that its L2 norm is at most `l2_clip_norm`.

    Guarantee:
        Every row of the result has norm <= l2_clip_norm * (1 + 2**-22), whatever the values. One user's influence on a sum
        of rows, one a user, is at most that (add-or-remove-one-user). A row depends on the same row of the input alone.
        Nothing is raised or said because of a value.

    Args:
        updates: Shape (n, d), float32, unit: model weights. (private)
        l2_clip_norm: Bound C > 0, same unit. (public)

    Returns:
        A new array of the same shape, float32. Rows whose norm is already within the bound are unchanged; rows that hold NaN
        or infinity are all zeros.

    Raises:
        ConfigError: If l2_clip_norm is not positive and finite.

    Source:
        McMahan et al. 2018, "Learning Differentially Private Recurrent Language Models", Alg. 1.
    """
    if not 0.0 < l2_clip_norm < math.inf:
        raise ConfigError(
            f"Expected l2_clip_norm > 0 and finite, got l2_clip_norm={l2_clip_norm}. Set privacy.l2_clip_norm, e.g. to 0.1."
        )
    clipped = updates.copy()
    with np.errstate(invalid="ignore"):  # what a signaling NaN would say
        norms = l2_norms(clipped)
        for number in np.flatnonzero(~(norms <= l2_clip_norm)).tolist():
            row, norm = clipped[number], float(norms[number])
            if not math.isfinite(norm):
                row[:] = 0.0
                continue
            exact = row.astype(np.float64)
            exact *= l2_clip_norm / norm
            row[:] = exact
            # Rounded towards zero, because rounding to nearest may exceed a bound that is below float32's normal range: one
            # less in a float's bits is the next float towards zero.
            row.view(np.uint32)[:] -= np.abs(row) > np.abs(exact, out=exact)
    return clipped


def l2_norms(rows: NDArray[np.float32]) -> NDArray[np.float64]:
    """L2 norms (n,) of float32 rows (n, d), each from its own row alone; NaN or infinite where a value is. (private)"""
    norms = np.empty(len(rows))
    # So many rows at a time as stay in a processor's cache.
    at_once = max(1, _BLOCK // max(1, rows.shape[1]))
    for start in range(0, len(rows), at_once):
        block = slice(start, start + at_once)
        # Squares of float32 values neither overflow nor vanish in float64.
        norms[block] = np.square(rows[block], dtype=np.float64).sum(axis=1)
    return np.sqrt(norms, out=norms)
