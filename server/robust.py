"""Robust rules: a few silos that send anything move what comes of all by no more than a stated bound.

A mean follows its longest summand; the bound on a reply (`shared/protocol/reply_bounds.py`) stops what is wrong by orders of
magnitude and no more. A rule looks at all n replies together, of which up to f may be anything, chosen in full knowledge of
the others. h are the at least n - f honest replies:

* Median, n >= 2 f + 1: each coordinate of the result lies between the smallest and the largest of h there.
* Trimmed mean, n >= 2 f + 1: it lies between the means of the n - 2 f smallest and of the n - 2 f largest of h there.
* Multi-Krum, n >= 2 f + 3: the result lies within R f / (n - f) (2 + sqrt((n - f - 2) / (n - 2 f - 1))) of the mean of h,
  with R the largest distance between two of h.

The bounds speak of the silos' replies as they come. Where a silo sends its full noise with each reply, h are noised values:
what is made of them is post-processing, so every claim holds as it did, and a rule that throws replies away leaves more
noise in the result than a mean does (`noise_factor`). Silos that differ, in size above all, are what a rule takes for
faulty: with a rule, a sum over all users is n times the rule's mean, which is that of silos of about the same size.

Contributions of single users are out of reach. The server may use nothing but their sum (`shared/config/checks.py`).

Where the server takes the mean of the clients' products BA, a rule works on the products: coordinates of BA, and distances
between the BA. Two pairs of factors with the same product are the same model; their distance as vectors can be anything.

Source:
    Yin et al. 2018, "Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates" (median, trimmed mean);
    Blanchard et al. 2017, "Machine Learning with Adversaries: Byzantine Tolerant Gradient Descent" (Krum, Multi-Krum). The
    bound of Multi-Krum: n - f honest replies have scores of at most (n - f - 2) R**2, so each chosen one has, and at least
    n - 2 f - 1 of its n - f - 2 nearest are honest.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
from flwr.app import ArrayRecord, MetricRecord, RecordDict
from flwr.serverapp.strategy.multikrum import select_multikrum
from numpy.typing import NDArray
from scipy.stats import trim_mean

from shared.config import ServerSection
from shared.errors import SensitivityError
from shared.model.low_rank import Matrix, Pair, Product
from shared.protocol.wire import SparseValues

# Columns that are sorted at once.
_BLOCK = 2**16
# A median of n normal values has at most pi / 2 times the variance of their mean; a trimmed mean lies between the two.
_NOISE_OF_MEDIAN: Final = math.sqrt(math.pi / 2)


class Rule(Protocol):
    """How the replies of silos become one."""

    @property
    def fewest(self) -> int:
        """Replies that it takes for its bound."""
        ...

    def noise_factor(self, count: int) -> float:
        """How much larger than in a mean of `count` replies the standard deviation of their own noise is, at most."""
        ...

    def mean(self, rows: Matrix) -> NDArray[np.float64]:
        """What stands for the mean of replies (n, d); shape (d,)."""
        ...

    def mean_products(self, adapters: Sequence[NDArray[np.float64]], pairs: Sequence[Pair]) -> list[Product]:
        """What stands for the mean of the products BA of adapters (d,), one a module."""
        ...


@dataclass(frozen=True)
class _OfCoordinates(ABC):
    """A rule that looks at each coordinate by itself.

    Attributes:
        faulty: f.
    """

    faulty: int

    @property
    def fewest(self) -> int:
        """As `Rule.fewest`."""
        return 2 * self.faulty + 1

    def noise_factor(self, count: int) -> float:
        """As `Rule.noise_factor`."""
        return _NOISE_OF_MEDIAN

    @abstractmethod
    def mean(self, rows: Matrix) -> NDArray[np.float64]:
        """As `Rule.mean`."""

    def mean_products(self, adapters: Sequence[NDArray[np.float64]], pairs: Sequence[Pair]) -> list[Product]:
        """As `Rule.mean_products`: of each coordinate of BA."""
        return [_by_rows(self, adapters, pair) for pair in pairs]


class Median(_OfCoordinates):
    """The coordinate median."""

    def mean(self, rows: Matrix) -> NDArray[np.float64]:
        """As `Rule.mean`."""
        return np.asarray(np.median(rows, axis=0), dtype=np.float64)


class TrimmedMean(_OfCoordinates):
    """The coordinate mean without the f smallest and the f largest."""

    def mean(self, rows: Matrix) -> NDArray[np.float64]:
        """As `Rule.mean`."""
        # The number that is cut is share * n without its fraction, and f / n * n may be rounded to less than f.
        share = np.nextafter(self.faulty / len(rows), 1.0)
        return np.asarray(trim_mean(rows, share, axis=0), dtype=np.float64)


@dataclass(frozen=True)
class MultiKrum:
    """The mean of the n - f replies that have the nearest neighbors.

    Attributes:
        faulty: f.
    """

    faulty: int

    @property
    def fewest(self) -> int:
        """As `Rule.fewest`."""
        return 2 * self.faulty + 3

    def noise_factor(self, count: int) -> float:
        """As `Rule.noise_factor`: that of a mean of n - f."""
        return math.sqrt(count / (count - self.faulty))

    def mean(self, rows: Matrix) -> NDArray[np.float64]:
        """As `Rule.mean`."""
        return np.asarray(rows[self._chosen(rows)].mean(axis=0), dtype=np.float64)

    def mean_products(self, adapters: Sequence[NDArray[np.float64]], pairs: Sequence[Pair]) -> list[Product]:
        """As `Rule.mean_products`, by the distances between the products of all modules together."""
        chosen = self._chosen(np.hstack([_in_their_span(adapters, pair) for pair in pairs]))
        found = []
        for pair in pairs:
            total = Product(pair.out_features, pair.in_features)
            for place in chosen:
                total.add(*pair.factors(adapters[place]))
            found.append(total.scaled(1.0 / len(chosen)))
        return found

    def _chosen(self, rows: Matrix) -> list[int]:
        """The places of the n - f best, by Flower's code."""
        # Flower takes distances from squared lengths; what all have in common would leave nothing but rounding in them.
        around = rows - np.median(rows, axis=0)
        contents = [
            RecordDict({"values": ArrayRecord([row]), "reply": MetricRecord({"place": place})})
            for place, row in enumerate(around)
        ]
        selected: list[Any] = select_multikrum(contents, self.faulty, len(rows) - self.faulty)
        return sorted(int(content["reply"]["place"]) for content in selected)


def rule_of(config: ServerSection) -> Rule | None:
    """The rule of a run; None for the mean."""
    if config.rule == "median":
        return Median(config.faulty_clients)
    if config.rule == "trimmed-mean":
        return TrimmedMean(config.faulty_clients)
    return MultiKrum(config.faulty_clients) if config.rule == "multi-krum" else None


class RobustSum:
    """Keeps the contributions of silos and makes one of them by a rule. Keeps n times d float32 values.

    Guarantee:
        The result is the same to the last bit in whatever order they come.

    Args:
        size: Values of each.
        rule: Makes one of all.
    """

    def __init__(self, size: int, rule: Rule) -> None:
        self._size, self._rule = size, rule
        self._rows: list[NDArray[np.float32]] = []

    @property
    def count(self) -> int:
        """Contributions so far."""
        return len(self._rows)

    def add(self, contribution: NDArray[Any] | SparseValues, held: NDArray[np.bool_] | None = None) -> None:
        """Takes one of shape (size,).

        Raises:
            SensitivityError: If it holds a prefix of the rank alone: what it lacks cannot be compared with the others'.
        """
        if held is not None:
            raise SensitivityError(
                "Expected an update of the whole rank, which server.rule compares, got a prefix. The client's reply was "
                "left out; set adapter.aggregation=stack, or server.rule=mean."
            )
        values = contribution.dense() if isinstance(contribution, SparseValues) else contribution
        self._rows.append(np.asarray(values, dtype=np.float32))

    def mean(self) -> NDArray[np.float32]:
        """What stands for the mean of the contributions; shape (size,), float32."""
        return self._made().astype(np.float32)

    @property
    def total(self) -> NDArray[np.float64]:
        """What stands for their sum: n times that."""
        return self.count * self._made()

    def _made(self) -> NDArray[np.float64]:
        return self._rule.mean(np.stack(_in_one_order(self._rows)).astype(np.float64))


class RobustProducts:
    """As `RobustSum`, of the clients' products BA.

    Args:
        pairs: Where the factors lie in an adapter.
        adapter: (d,) float32, what the clients started from.
        rule: Makes one of all.
    """

    def __init__(self, pairs: Sequence[Pair], adapter: NDArray[np.float32], rule: Rule) -> None:
        self._pairs, self._adapter, self._rule = pairs, adapter.astype(np.float64), rule
        self._updates: list[NDArray[np.float32]] = []

    @property
    def count(self) -> int:
        """Clients so far."""
        return len(self._updates)

    def add(self, update: NDArray[np.float32]) -> None:
        """Takes one client's update (d,)."""
        self._updates.append(update)

    def means(self) -> list[Product]:
        """What stands for the mean of the clients' products, one a module."""
        adapters = [self._adapter + update for update in _in_one_order(self._updates)]
        return self._rule.mean_products(adapters, self._pairs)


def _in_one_order(rows: Sequence[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
    return sorted(rows, key=lambda row: row.tobytes())


def _by_rows(rule: Rule, adapters: Sequence[NDArray[np.float64]], pair: Pair) -> Product:
    """A rule for coordinates on the products of one module, some rows of all clients' at a time."""
    factors = [pair.factors(adapter) for adapter in adapters]
    result = np.empty((pair.out_features, pair.in_features))
    step = max(1, _BLOCK // pair.in_features)
    for start in range(0, pair.out_features, step):
        rows = slice(start, start + step)
        products = np.stack([(b[rows] @ a).ravel() for b, a in factors])
        result[rows] = rule.mean(products).reshape(-1, pair.in_features)
    return Product.of(result)


def _in_their_span(adapters: Sequence[NDArray[np.float64]], pair: Pair) -> Matrix:
    """The products of one module in an orthonormal basis of what they span: their distances, in few values each.

    With all B in one matrix Q R, and all A transposed in one P S, the product of one client is Q (R_i S_i') P', and lengths
    of what stands in the brackets are those of the products.

    Returns:
        Shape (n, m).
    """
    factors = [pair.factors(adapter) for adapter in adapters]
    left: Matrix = np.asarray(np.linalg.qr(np.hstack([b for b, _ in factors]), mode="r"))
    right: Matrix = np.asarray(np.linalg.qr(np.vstack([a for _, a in factors]).T, mode="r"))
    spans = (slice(pair.rank * place, pair.rank * (place + 1)) for place in range(len(adapters)))
    return np.stack([(left[:, span] @ right[:, span].T).ravel() for span in spans])
