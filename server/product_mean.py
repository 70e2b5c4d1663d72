"""Exact aggregation: the mean of the clients' products BA, where both factors are trained and the mean of each is not it.

The mean of the A times the mean of the B is not the mean of the products (with A frozen it is, see
`shared/model/adapter.py`). Here the products themselves are added up as replies come, in float64, and their mean takes the
adapter's place: cut to the adapter's rank (`stack`), or with what is cut kept in the frozen weights (`residual`).

A client that trains a prefix of the rank leaves the rest as it was: its product is that of the adapter it got plus its
update. The server must see each client's adapter for this, which excludes sums in the ring
(`shared/privacy/supported_claims.py` refuses them). What a silo sends is noised already, so that its product is
post-processing; but the noise of both factors is multiplied, and the mean of n such products holds sqrt(n) times as much of
that as the product of two means does (`tests/server/test_product_mean.py` measures it).

Source:
    Wang et al. 2024, "FLoRA" (stacked factors are the sum of the products); Singhal, Ponkshe and Vepakomma 2024,
    "FedEx-LoRA" (what the adapter cannot hold goes into the frozen weights).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from shared.model.low_rank import Cut, Pair, Product, truncated
from shared.model.state import RecommenderState


class Products(Protocol):
    """What came of the clients' products."""

    @property
    def count(self) -> int:
        """Clients."""
        ...

    def means(self) -> list[Product]:
        """What stands for the mean of at least one client's products, one a module."""
        ...


class ProductSum:
    """Adds the products of clients' adapters up as they come.

    Args:
        pairs: Where the factors lie in an adapter.
        adapter: (d,) float32, what the clients started from.
    """

    def __init__(self, pairs: Sequence[Pair], adapter: NDArray[np.float32]) -> None:
        self._pairs, self._adapter = pairs, adapter.astype(np.float64)
        self._sums = [Product(pair.out_features, pair.in_features) for pair in pairs]
        self.count = 0

    def add(self, update: NDArray[np.float32]) -> None:
        """Adds one client's, from its update (d,)."""
        theirs = self._adapter + update
        for pair, total in zip(self._pairs, self._sums, strict=True):
            total.add(*pair.factors(theirs))
        self.count += 1

    def means(self) -> list[Product]:
        """The unweighted mean of at least one client's products, one a module."""
        return [total.scaled(1.0 / self.count) for total in self._sums]


@dataclass(frozen=True, eq=False)
class Aggregated:
    """What came of the mean of the products.

    Attributes:
        state: The new one.
        cut: Share of the products' Frobenius norm, over all modules together, that the adapter's rank could not hold.
        lost: Share that the new state does not hold: as much under `stack`, rounding to float32 alone under `residual`.
    """

    state: RecommenderState
    cut: float
    lost: float


def aggregated(
    products: Products,
    state: RecommenderState,
    pairs: Sequence[Pair],
    *,
    initial: NDArray[np.float32],
    keeps_residual: bool,
) -> Aggregated:
    """The state whose products are the mean of the clients'.

    Args:
        products: Of at least one client.
        state: What the clients started from.
        pairs: Where the factors lie in an adapter.
        initial: (d,), the public initialization: a direction of the rank that holds nothing starts again from it. With
            both of its factors at zero it would never learn.
        keeps_residual: Whether what is cut goes into the residual.
    """
    adapter, residual = np.empty_like(state.adapter), state.residual.copy()
    total, lost, start = Cut(0.0, 0.0), 0.0, 0
    for pair, mean in zip(pairs, products.means(), strict=True):
        b, a, cut = truncated(mean, pair.rank)
        _restart(b, a, *pair.factors(initial))
        pair.put(adapter, b, a)
        total += cut
        if keeps_residual:
            kept = slice(start, start + pair.size)
            start += pair.size
            b, a = pair.factors(adapter)  # as they are after rounding, so that the residual holds the rounding too
            before, rest = residual[kept].astype(np.float64), (mean.dense() - b @ a).ravel()
            residual[kept] = before + rest
            lost += float(np.square(residual[kept] - before - rest).sum())
    if not keeps_residual:
        lost = total.cut
    new = RecommenderState(log_prior=state.log_prior, adapter=adapter, residual=residual)
    return Aggregated(new, total.share, Cut(lost, total.whole).share)


def _restart(
    b: NDArray[np.float64], a: NDArray[np.float64], initial_b: NDArray[np.float64], initial_a: NDArray[np.float64]
) -> None:
    empty = ~b.any(axis=0)
    b[:, empty], a[empty] = initial_b[:, empty], initial_a[empty]
