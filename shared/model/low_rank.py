"""The algebra of LoRA's factors: where A and B of each module lie in the flat vector, their product BA, its truncation.

A module's LoRA adds scaling * B A to its weight. Here live what follows from that for a flat adapter: products, the best
approximation of a product by one of smaller rank (the singular value decomposition's, with its error), and prefixes of the
rank, which are what a small node trains. All in numpy and float64; nothing here knows of a model, of clients or of privacy.

Products are kept as stacks of factors, (out, n) times (n, in), or as a dense matrix, whichever is smaller, so that an item
head of a large catalog costs what its clients' factors cost. A decomposition of a stack goes through the QR decompositions
of its two sides and a small core, and never makes the dense matrix.

Source:
    Eckart and Young 1936 (the truncated decomposition is the best of its rank in the Frobenius norm); Hu et al. 2021.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]
# A direction whose singular value is below this share of the largest holds nothing but float32 rounding.
_NOTHING = 1e-7


@dataclass(frozen=True)
class Pair:
    """Where one module's two factors lie in the flat vector.

    Attributes:
        module: The module's name.
        rank: r.
        out_features: Rows of B.
        in_features: Columns of A.
        a: Where A (r, in) begins; None where it is frozen and not in the vector.
        b: Where B (out, r) begins; None likewise (an embedding's, whose random factor is B).
    """

    module: str
    rank: int
    out_features: int
    in_features: int
    a: int | None
    b: int | None

    @property
    def size(self) -> int:
        """Entries of the product, out x in."""
        return self.out_features * self.in_features

    def factors(self, vector: NDArray[np.floating]) -> tuple[Matrix, Matrix]:
        """Copies of B (out, r) and A (r, in) of a flat vector in which both lie, float64."""
        b = vector[self._b].reshape(self.out_features, self.rank).astype(np.float64)
        return b, vector[self._a].reshape(self.rank, self.in_features).astype(np.float64)

    def put(self, vector: NDArray[np.float32], b: Matrix, a: Matrix) -> None:
        """Writes both factors into a flat vector."""
        vector[self._b], vector[self._a] = b.ravel(), a.ravel()

    @property
    def _a(self) -> slice:
        start = _trained(self.a)
        return slice(start, start + self.rank * self.in_features)

    @property
    def _b(self) -> slice:
        start = _trained(self.b)
        return slice(start, start + self.out_features * self.rank)


def _trained(start: int | None) -> int:
    if start is None:
        raise ValueError("a frozen factor does not lie in the flat vector")
    return start


def prefix_mask(pairs: Sequence[Pair], size: int, largest_rank: int | None) -> NDArray[np.bool_]:
    """Which coordinates of a flat vector a node has that trains ranks up to `largest_rank`: the first rows of every A, the
    first columns of every B.

    Args:
        pairs: Of the adapter.
        size: d.
        largest_rank: >= 1; None has them all.

    Returns:
        Shape (d,).
    """
    mask = np.ones(size, dtype=np.bool_)
    for pair in pairs:
        if largest_rank is None or largest_rank >= pair.rank:
            continue
        if pair.a is not None:
            mask[pair._a].reshape(pair.rank, -1)[largest_rank:] = False
        if pair.b is not None:
            mask[pair._b].reshape(-1, pair.rank)[:, largest_rank:] = False
    return mask


class Product:
    """A sum of products (out, n) x (n, in), as a stack of factors or dense, whichever takes less memory; float64.

    Args:
        out_features: Rows.
        in_features: Columns.
    """

    def __init__(self, out_features: int, in_features: int) -> None:
        self.shape = out_features, in_features
        self._left: list[Matrix] = []
        self._right: list[Matrix] = []
        self._stacked = 0
        self._dense: Matrix | None = None

    @classmethod
    def of(cls, matrix: Matrix) -> Product:
        """A product that is known as a matrix."""
        result = cls(*matrix.shape)
        result._dense = matrix.copy()
        return result

    def add(self, left: Matrix, right: Matrix) -> None:
        """Adds left @ right."""
        if self._dense is not None:
            self._dense += left @ right
            return
        self._left.append(left)
        self._right.append(right)
        self._stacked += left.shape[1]
        if self._stacked * sum(self.shape) > self.shape[0] * self.shape[1]:
            self._dense = self.dense()
            self._left, self._right = [], []

    def scaled(self, factor: float) -> Product:
        """The sum times a number, a product of its own."""
        result = Product(*self.shape)
        result._stacked = self._stacked
        result._dense = None if self._dense is None else self._dense * factor
        result._left, result._right = [left * factor for left in self._left], list(self._right)
        return result

    def dense(self) -> Matrix:
        """The sum as one matrix; a copy."""
        if self._dense is not None:
            return self._dense.copy()
        if not self._left:
            return np.zeros(self.shape)
        return np.hstack(self._left) @ np.vstack(self._right)

    def decomposed(self) -> tuple[Matrix, NDArray[np.float64], Matrix]:
        """U (out, m), singular values (m,) from the largest, V (m, in): the sum is (U * values) @ V."""
        if self._dense is not None or not self._left:
            return decomposed(self.dense())
        left, left_core = np.linalg.qr(np.hstack(self._left))
        right, right_core = np.linalg.qr(np.vstack(self._right).T)
        u, values, v = np.linalg.svd(left_core @ right_core.T, full_matrices=False)
        return left @ u, values, v @ right.T


def decomposed(matrix: Matrix) -> tuple[Matrix, NDArray[np.float64], Matrix]:
    """The singular value decomposition of a dense matrix."""
    u, values, v = np.linalg.svd(matrix, full_matrices=False)
    return u, values, v


@dataclass(frozen=True)
class Cut:
    """What a truncation cut off a product, as squared Frobenius norms.

    Attributes:
        cut: Of what was cut off.
        whole: Of the product before.
    """

    cut: float
    whole: float

    @property
    def share(self) -> float:
        """The part of the Frobenius norm that was cut off, in [0, 1]; 0 of nothing."""
        return float(np.sqrt(self.cut / self.whole)) if self.whole else 0.0

    def __add__(self, other: Cut) -> Cut:
        """Of two modules together."""
        return Cut(self.cut + other.cut, self.whole + other.whole)


def truncated(product: Product, rank: int) -> tuple[Matrix, Matrix, Cut]:
    """The best approximation of a product by one of at most `rank`, in balanced factors.

    Args:
        product: (out, in).
        rank: At least 1.

    Returns:
        B (out, rank) and A (rank, in), each with the square roots of the singular values, the largest first, so that their
        prefixes are the best approximations of smaller rank; zeros beyond the product's own rank. And what was cut off.

    Source:
        Eckart and Young 1936.
    """
    u, values, v = product.decomposed()
    kept = int((values[:rank] > _NOTHING * values[0]).sum()) if values[0] > 0 else 0
    # A direction has no sign of its own; a fixed one keeps two machines' adapters alike.
    u, v = u[:, :kept], v[:kept]
    signs = np.sign(u[np.abs(u).argmax(axis=0), np.arange(kept)])
    roots = np.sqrt(values[:kept])
    b, a = np.zeros((len(u), rank)), np.zeros((rank, v.shape[1]))
    b[:, :kept], a[:kept] = u * signs * roots, v * (signs * roots)[:, None]
    squares = np.square(values)
    return b, a, Cut(float(squares[kept:].sum()), float(squares.sum()))
