"""Shapes of forward passes: how users' histories are spread over them, so that no user changes another's numbers.

A matrix product is rounded, and which way depends on all its dimensions: in bfloat16 by up to 4e-3, in float32 by up to
1e-6. A number that is clipped with a margin bears the latter; a rank does not, since the smallest difference decides
between two items. So how wide a pass is follows from each history's own length, and where no margin helps every pass has the
same number of rows too, whoever is in it: a user alone is computed in a pass as large as one among many.

That a row's place in such a pass does not matter either was measured with MKL's kernels, on one thread and on two, and is
tested (`tests/client/statistics/test_neighboring_comparisons.py`); no library of linear algebra promises it. Training in
float32 leaves the number of rows free: there the clipping margin bears what rounding does to one user's gradient.

What lives here: those shapes, for training and for scoring. What never does: tensors and histories themselves.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class PassShapes:
    """Which shapes forward passes may have; constants, so that no example changes how another is computed. (public)

    Attributes:
        tokens: Most places in one pass; an example that is longer has a pass of its own.
        rows: Most examples in one pass.
        longest: Interactions of the longest example.
        fills_up: Whether every pass has the same number of rows for its width, a power of two, the last one filled up with
            empty ones.
        coarse: Whether widths are powers of two, so that few passes are filled up; otherwise quarters of them too, so that
            little is computed on padding.
    """

    tokens: int
    rows: int
    longest: int
    fills_up: bool = False
    coarse: bool = False

    def widths(self, lengths: NDArray[np.int64]) -> NDArray[np.int64]:
        """How wide each example is made, (B,): its length rounded up, to powers of two or to quarters of them."""
        own = np.maximum(lengths, 2)
        below = np.int64(1) << (np.frexp(own - 1)[1].astype(np.int64) - 1)  # the largest power of two that is smaller
        step = below if self.coarse else np.maximum(below // 4, 1)
        return np.asarray(np.minimum(-(-own // step) * step, np.maximum(own, self.longest)))

    def most_rows(self, width: int) -> int:
        """Most examples of a width in one pass."""
        most = max(1, min(self.rows, self.tokens // width))
        # Where rows do not divide evenly among threads and kernels, a row's rounding depends on its place too.
        return 1 << (most.bit_length() - 1) if self.fills_up else most

    def passes(self, lengths: NDArray[np.int64]) -> Iterator[tuple[NDArray[np.int64], int]]:
        """Spreads examples over forward passes.

        Args:
            lengths: (B,) interactions of each. (private)

        Yields:
            Rows of one pass and its width, narrowest first; every row is in exactly one.
        """
        widths = self.widths(lengths)
        for width in np.unique(widths).tolist():
            (members,) = np.nonzero(widths == width)
            most = self.most_rows(width)
            for start in range(0, len(members), most):
                yield members[start : start + most], width

    def batches(self, lengths: NDArray[np.int64], most: int) -> Iterator[NDArray[np.int64]]:
        """Whole passes together, whose examples are at most `most`, or one pass.

        Args:
            lengths: (B,) interactions of each. (private)
            most: Examples that fit in memory at once. (public)

        Yields:
            Rows of one batch, in the order of `passes`; every row is in exactly one.
        """
        held: list[NDArray[np.int64]] = []
        for rows, _ in self.passes(lengths):
            if held and sum(map(len, held)) + len(rows) > most:
                yield np.concatenate(held)
                held = []
            held.append(rows)
        if held:
            yield np.concatenate(held)
