"""The known vectors of canaries in one release: what statistics give them, or directions at right angles.

What never lives here: what is read along them (`views.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from client.statistics.sparse import SparseRows
from shared.randomness import derive

Floats = NDArray[np.float64]
Vectors = Floats | SparseRows
# A dense array or a sparse one of scipy, which has no types.
Matrix = Any

# Numbers of a frame's directions: 80 MB.
_MOST_NUMBERS = 10_000_000


@dataclass(frozen=True, eq=False)
class Known:
    """What is kept of vectors.

    Attributes:
        along: (m,) each along one random direction, which tells them from others.
        gram: (m, m) inner products.
    """

    along: Floats
    gram: Floats


@dataclass(frozen=True, eq=False)
class Directions:
    """The known vectors of all canaries in one release; what follows from them is worked out once for all adversaries.

    Attributes:
        vectors: (m, size).
    """

    vectors: Vectors

    @cached_property
    def rows(self) -> Matrix:
        """(m, size), dense or of scipy."""
        if isinstance(self.vectors, SparseRows):
            shape = (len(self.vectors), self.vectors.size)
            return sparse.csr_array((self.vectors.values, self.vectors.places, self.vectors.starts), shape=shape)
        return np.asarray(self.vectors, dtype=np.float64)

    @cached_property
    def gram(self) -> Floats:
        """(m, m) inner products; of dense vectors in float32, whose rounding is far below what a coin changes."""
        if sparse.issparse(self.rows):
            return np.asarray((self.rows @ self.rows.T).toarray(), dtype=np.float64)
        rows = self.rows.astype(np.float32)
        return np.asarray(rows @ rows.T, dtype=np.float64)

    def sharing(self, known: Known | None) -> Directions:
        """The same; with the Gram matrix that is known, where a statistic is asked for again with the same vectors."""
        if known is not None and np.array_equal(known.along, self._along):
            vars(self)["gram"] = known.gram
        return self

    @property
    def known(self) -> Known:
        """What to keep of these vectors when they are let go."""
        return Known(self._along, self.gram)

    @cached_property
    def _along(self) -> Floats:
        return np.asarray(self.rows @ derive(self.rows.shape[1], "along").normal(size=self.rows.shape[1]))

    @cached_property
    def norms(self) -> Floats:
        """(m,) L2 lengths."""
        if sparse.issparse(self.rows):
            squares = np.asarray(self.rows.multiply(self.rows).sum(axis=1), dtype=np.float64).ravel()
        else:
            squares = np.einsum("ij,ij->i", self.rows, self.rows)
        return np.asarray(np.sqrt(squares))


@dataclass(frozen=True, eq=False)
class Frame:
    """Directions of length 1 at right angles, one for each of the first canaries: random signs times Hadamard rows.

    At right angles no canary is in another's reading, and the Gram matrix needs no product of vectors.

    Attributes:
        rows: (m, size) of scipy; of canaries without a direction a row is empty.
        number: Canaries with a direction.
    """

    rows: Matrix
    number: int

    @classmethod
    def of(cls, size: int, canaries: int, *, seed: int) -> Frame:
        """Makes as many directions as fit: half of the dimensions stay unused, where noise is read.

        Args:
            size: Values of a vector.
            canaries: m.
            seed: Of signs and coordinates. (public)
        """
        length = 1 << (size.bit_length() - 1)  # the largest power of two; the other coordinates are unused
        number = min(canaries, max(1, size // 2), max(1, _MOST_NUMBERS // length))
        rng = derive(seed, "directions")
        signs, places = rng.choice([-1.0, 1.0], size=length), np.sort(rng.permutation(size)[:length])
        odd = np.bitwise_count(np.arange(number, dtype=np.uint32)[:, None] & np.arange(length, dtype=np.uint32)) & 1
        values = (1.0 - 2.0 * odd) * (signs / np.sqrt(length))
        starts = np.minimum(np.arange(canaries + 1), number) * length
        return cls(sparse.csr_array((values.ravel(), np.tile(places, number), starts), shape=(canaries, size)), number)

    @property
    def size(self) -> int:
        """Values of a vector."""
        return int(self.rows.shape[1])

    def dense(self, canary: int) -> Floats:
        """One canary's direction, (size,)."""
        part, whole = slice(self.rows.indptr[canary], self.rows.indptr[canary + 1]), np.zeros(self.size)
        whole[self.rows.indices[part]] = self.rows.data[part]
        return whole

    def has(self, canaries: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which canaries have a direction."""
        return np.asarray(canaries < self.number)

    def along(self, values: Floats) -> Floats:
        """What a vector (size,) has along each direction, (m,); 0 where there is none."""
        return np.asarray(self.rows @ values, dtype=np.float64)


@dataclass(frozen=True, eq=False)
class Weighted:
    """Directions of a frame, each times a weight; as `Directions`.

    Attributes:
        frame: The directions.
        weights: (m,).
        beside: What each vector has in one more coordinate, over its weight; None: there is no such coordinate.
    """

    frame: Frame
    weights: Floats
    beside: float | None = None

    @cached_property
    def _own(self) -> Floats:
        return np.asarray(self.weights * self.frame.has(np.arange(len(self.weights))))

    @cached_property
    def rows(self) -> Matrix:
        """(m, size), of scipy; one more coordinate where there is one beside."""
        unit = self.frame.rows
        scaled = sparse.csr_array(
            (unit.data * np.repeat(self._own, np.diff(unit.indptr)), unit.indices, unit.indptr), shape=unit.shape
        )
        if self.beside is None:
            return scaled
        return sparse.csr_array(sparse.hstack([scaled, sparse.csr_array((self.beside * self._own)[:, None])]))

    @cached_property
    def gram(self) -> Floats:
        """(m, m) inner products."""
        found = np.zeros((len(self._own), len(self._own)))
        np.fill_diagonal(found, self._own**2)
        if self.beside is not None:
            found += self.beside**2 * np.outer(self._own, self._own)
        return found

    @cached_property
    def norms(self) -> Floats:
        """(m,) L2 lengths."""
        return np.asarray(np.abs(self._own) * np.sqrt(1.0 + (self.beside or 0.0) ** 2))
