"""Rows of few nonzero values among very many: what a user says about pairs of items."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class SparseRows:
    """One vector a row, by its nonzero values. (private)

    Attributes:
        size: Values of a whole vector. (public)
        starts: (n + 1,) int64; row r has the entries starts[r] to starts[r + 1].
        places: (k,) int64, coordinates, ascending within a row.
        values: (k,) float64.
    """

    size: int
    starts: NDArray[np.int64]
    places: NDArray[np.int64]
    values: NDArray[np.float64]

    @classmethod
    def empty(cls, size: int, rows: int) -> SparseRows:
        """Rows without a nonzero value."""
        return cls(size, np.zeros(rows + 1, dtype=np.int64), np.zeros(0, dtype=np.int64), np.zeros(0))

    def __len__(self) -> int:
        """n."""
        return len(self.starts) - 1

    def row(self, number: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Places and values of one row."""
        part = slice(self.starts[number], self.starts[number + 1])
        return self.places[part], self.values[part]

    def normalized(self) -> SparseRows:
        """Each row over its L2 norm; an empty one stays empty.

        Guarantee:
            The norm of a row is at most 1 + 2**-40, whatever the values are.
        """
        rows = np.repeat(np.arange(len(self)), np.diff(self.starts))
        largest = np.zeros(len(self))
        np.maximum.at(largest, rows, np.abs(self.values))
        # Over the largest value first, so that no square overflows or vanishes.
        values = self.values / np.maximum(largest, np.finfo(np.float64).tiny)[rows]
        norms = np.sqrt(np.bincount(rows, weights=values**2, minlength=len(self)))
        return SparseRows(self.size, self.starts, self.places, values / np.maximum(norms, 1e-300)[rows])

    def followed_by(self, other: SparseRows) -> SparseRows:
        """These rows, then those of another of the same size."""
        return SparseRows(
            self.size,
            np.concatenate([self.starts, other.starts[1:] + self.starts[-1]]),
            np.concatenate([self.places, other.places]),
            np.concatenate([self.values, other.values]),
        )

    def summed(self, groups: NDArray[np.int64], *, num_groups: int) -> SparseRows:
        """The sum of the rows of each group.

        Args:
            groups: (n,), whose each row is, in [0, num_groups).
            num_groups: N, rows of the result.
        """
        keys = np.repeat(groups, np.diff(self.starts)) * self.size + self.places
        distinct, inverse = np.unique(keys, return_inverse=True)
        values = np.bincount(inverse, weights=self.values, minlength=len(distinct))
        rows, places = np.divmod(distinct, self.size)
        counts = np.bincount(rows, minlength=num_groups)
        return SparseRows(
            self.size, np.concatenate([[0], np.cumsum(counts)]).astype(np.int64), places, values.astype(np.float64)
        )

    def dense(self, number: int) -> NDArray[np.float64]:
        """One row with all its values, (size,)."""
        places, values = self.row(number)
        whole = np.zeros(self.size)
        whole[places] = values
        return whole
