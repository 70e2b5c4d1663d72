"""How many neighbors a client needs, and how many of them open its secrets: each side derives both from its assumptions.

Each of n clients draws k out-neighbors at random, its *holders*: they hold shares of its two secrets, and `threshold` of
them open one. Pairwise masks run over out- and in-neighbors. Everything that can go wrong is the tail of a hypergeometric
distribution, because a holder is drawn without replacement and the others' fates do not depend on the draw. Each bound is on
the probability that it happens anywhere in the cohort:

* **Holders that collude.** A client with `threshold` corrupt holders is open to them. Below 2**-41.
* **Holders that drop out.** A client with fewer than `threshold` surviving holders spoils the round. Below 2**-31.
* **Too many in-neighbors.** An honest client has more than `largest_in_degree` in-neighbors. Below 2**-31.
* **Honest survivors in two parts.** Without an honest edge between two sets, a server learns the two sums. For a set S of s
  of the h honest survivors, nobody in S drew any of the other h - s, and none of those drew any of S. Draws of different
  clients are independent, so the union over all sets with s <= h / 2 is at most

      sum_s C(h, s) * P[Hyper(n - 1, h - s, k) = 0]**s * P[Hyper(n - 1, s, k) = 0]**(h - s)   <= 2**-41.

**An active server** may tell clients different things. Let c bound the corrupt holders of every client (with
probability below 2**-41 it fails for any of them). With 2 * threshold > k + c no client's two secrets are both opened: of
its honest holders, at least threshold - c gave a share of the one, and none of these gave one of the other. The protocol
(`client/masking.py`) lets an honest client give shares only once `threshold` of its holders acknowledged that they count it
as living, so the mask key of a client that gives shares is never opened. If a client's input is opened, at least
threshold - c of its honest holders gave shares. It shares a mask with each of them, and that mask cancels only if the holder
counts as living: these holders are in the same sum. Hence in any opened sum every honest client has at least threshold - c
of its k draws within the set S of the sum's honest clients, and

      sum_{s < smallest_active_sum} C(h, s) * P[Hyper(n - 1, s - 1, k) >= threshold - c]**s   <= 2**-41

bounds the probability that the server finds any smaller S, however it chooses. Noise against an active server may be counted
up to `smallest_active_sum` shares and no further. The server chooses n too, among those that clients accept. So a plan
counts on `fewest_in_active_sums`, and clients refuse a cohort that promises fewer. No bound here proves that the server
opened the sum of *all* clients that uploaded: it may leave some out.

The fractions are assumed of the cohort as it is committed to. A server that keeps honest clients from advertising, or that
mints identities, raises the corrupt fraction; the protocol cannot detect that. With an honest server, too, it can be
larger than among all clients: a drawn cohort can hold more corrupt clients by chance, and where the part d of the asked
clients is honest and away, the part f of all is f / (1 - d) of those that advertise. An operator who assumes f of all
clients sets a larger fraction.

Source:
    Bell, Bonawitz, Gascón, Lepoint and Raykova 2020, "Secure single-server aggregation with (poly)logarithmic overhead",
    sections 3 and 4 (regular graphs); the bounds for graphs of independent draws are derived above.
"""

from __future__ import annotations

import contextlib
import functools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from shared.errors import ConfigError

if TYPE_CHECKING:
    from shared.config import SecureAggregationSection

SMALLEST_COHORT = 3
LARGEST_COHORT = 10_000
# Two conditions share each budget: 2**-40 for privacy, 2**-30 for rounds that fail although all keep the protocol.
_PRIVACY = -41 * math.log(2)
_CORRECTNESS = -31 * math.log(2)
_SIZES_AT_ONCE = 64
# How far below its neighbors' a cohort's smallest active sum lies, where not every size is tried out.
_BETWEEN_SIZES = 0.95


@dataclass(frozen=True)
class Assumptions:
    """What is assumed of a cohort; public. Each client takes it from its own configuration, by which it also admits a plan.

    Attributes:
        corrupt_fraction: Of the cohort, in [0, 1): clients that tell the server all they know.
        dropout_fraction: Of the cohort, in [0, 1): clients that stop answering after they advertised their keys.
        server: `curious` follows the protocol and reads everything; `active` may break the protocol.
    """

    corrupt_fraction: float
    dropout_fraction: float
    server: Literal["curious", "active"] = "active"

    @classmethod
    def of(cls, settings: SecureAggregationSection) -> Assumptions:
        """Those of a configuration; each side takes its own."""
        return cls(settings.corrupt_fraction, settings.dropout_fraction, settings.server)

    def __post_init__(self) -> None:
        for name, value in (("corrupt_fraction", self.corrupt_fraction), ("dropout_fraction", self.dropout_fraction)):
            if not 0.0 <= value < 1.0:
                raise ConfigError(f"Expected {name} in [0, 1), got {name}={value}. It is a part of the cohort.")
        if self.server not in ("curious", "active"):
            raise ConfigError(f"Expected server curious or active, got server={self.server}. Say what it may do.")


@dataclass(frozen=True)
class Neighborhoods:
    """The sizes of a cohort's neighborhoods; equal wherever they are derived from equal assumptions.

    Attributes:
        num_clients: n, the clients of the cohort that is committed to.
        degree: k, out-neighbors of each client. n - 1 is the complete graph.
        threshold: How many of the k shares open a secret.
        largest_in_degree: A client with more in-neighbors refuses: honest draws do not give it so many.
        smallest_active_sum: Honest clients in every sum that an active server can open; 0 where an active server can open
            both secrets of a client, so that nothing may be claimed against it.
    """

    num_clients: int
    degree: int
    threshold: int
    largest_in_degree: int
    smallest_active_sum: int

    @classmethod
    @functools.lru_cache(maxsize=64)
    def derive(cls, num_clients: int, assumptions: Assumptions) -> Neighborhoods:
        """The smallest neighborhoods that keep every bound above.

        Args:
            num_clients: n in [3, 10,000]. (public)
            assumptions: Of the cohort. (public)

        Raises:
            ConfigError: If n is out of range, or no neighborhood is large enough; the message says why.
        """
        if not SMALLEST_COHORT <= num_clients <= LARGEST_COHORT:
            raise ConfigError(
                f"Expected num_clients in [{SMALLEST_COHORT}, {LARGEST_COHORT}], got num_clients={num_clients}. "
                "Ask more or fewer clients."
            )
        cohort = Cohort(num_clients, math.floor(num_clients * assumptions.corrupt_fraction + 1e-9),
                         math.floor(num_clients * assumptions.dropout_fraction + 1e-9))  # fmt: skip
        active = assumptions.server == "active"
        if not cohort.is_enough(num_clients - 1, active=active):
            raise ConfigError(cohort.why_none(active=active))
        degree = cohort.smallest_degree(active=active)
        threshold = cohort.surviving_holders(degree)
        return cls(
            num_clients,
            degree,
            threshold,
            cohort.largest_in_degree(degree),
            cohort.smallest_active_sum(degree, threshold),
        )


@functools.lru_cache(maxsize=64)
def fewest_in_active_sums(fewest: int, most: int, assumptions: Assumptions) -> int:
    """Honest clients in every sum that an active server can open, in each cohort of a run that clients accept.

    Whole numbers make `smallest_active_sum` fall by a few hundredths here and there as n grows. Where a range is too long to
    try out every n, a few more are left out of the bound, and a client refuses a cohort that lies below it all the same.

    Args:
        fewest: Smallest n of a cohort. (public)
        most: Largest n. (public)
        assumptions: Of the cohort. (public)

    Returns:
        The bound; 0 where there is none. Clients enforce it (`RoundContext.with_cohort`).
    """
    sizes = range(max(fewest, SMALLEST_COHORT), min(most, LARGEST_COHORT) + 1)
    tried = sizes if len(sizes) <= 2 * _SIZES_AT_ONCE else [*sizes[:_SIZES_AT_ONCE], *sizes[:: len(sizes) // _SIZES_AT_ONCE]]
    found = []
    for num_clients in tried:
        with contextlib.suppress(ConfigError):  # no sum is formed in a cohort without neighborhoods
            found.append(Neighborhoods.derive(num_clients, assumptions).smallest_active_sum)
    least = min(found, default=0)
    return least if tried is sizes else math.floor(_BETWEEN_SIZES * least)


@dataclass(frozen=True)
class Cohort:
    """n clients, some of them corrupt, some of them drop-outs; the bounds of this module as functions of the degree."""

    size: int
    corrupt: int
    dropped: int

    def corrupt_holders(self, degree: int) -> int:
        """The smallest c such that no client has more than c corrupt holders, but for 2**-41."""
        tails = _log_upper_tails(self.size - 1, self.corrupt, degree)
        return _first_at_most(tails, _PRIVACY - math.log(self.size)) - 1

    def surviving_holders(self, degree: int) -> int:
        """The largest t such that at least t holders of every client survive, but for 2**-31."""
        tails = _log_upper_tails(self.size - 1, self.dropped, degree)
        return degree - _first_at_most(tails, _CORRECTNESS - math.log(self.size)) + 1

    def is_enough(self, degree: int, *, active: bool) -> bool:
        """Whether a degree keeps all bounds."""
        threshold, corrupt = self.surviving_holders(degree), self.corrupt_holders(degree)
        if not corrupt < threshold or threshold < 1 or self.honest_survivors < 2:
            return False
        if active and 2 * threshold <= degree + corrupt:
            return False
        return self.log_disconnected(degree) <= _PRIVACY

    @property
    def honest_survivors(self) -> int:
        """Clients that keep the protocol and stay."""
        return self.size - self.corrupt - self.dropped

    def smallest_degree(self, *, active: bool) -> int:
        """By bisection, then the first of the twelve below that is enough: whole numbers bend the bounds a little."""
        low, high = 0, self.size - 1
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if self.is_enough(middle, active=active) else (middle, high)
        for degree in range(max(1, high - 12), high):
            if self.is_enough(degree, active=active):
                return degree
        return high

    def largest_in_degree(self, degree: int) -> int:
        """In-neighbors that honest draws do not exceed, but for 2**-31.

        Each of the others draws a client with probability k / (n - 1), independently. If all corrupt clients choose
        one client, they can make it refuse; it has then dropped out.
        """
        others = self.size - 1
        if degree >= others:
            return others
        count = np.arange(others + 1)
        rate = degree / others
        terms = _log_choose(others, count) + count * math.log(rate) + (others - count) * math.log1p(-rate)
        return _first_at_most(_log_sums_from(terms), _CORRECTNESS - math.log(self.size)) - 1

    def smallest_active_sum(self, degree: int, threshold: int) -> int:
        """Honest clients in any sum that an active server opens, but for 2**-41; 0 where it could open both secrets."""
        corrupt = self.corrupt_holders(degree)
        if 2 * threshold <= degree + corrupt:
            return 0
        needed, honest = threshold - corrupt, self.size - self.corrupt
        total = -math.inf
        for start in range(needed + 1, honest + 1, _SIZES_AT_ONCE):
            sizes = np.arange(start, min(start + _SIZES_AT_ONCE, honest + 1))
            tails = np.logaddexp.reduce(_log_hypergeometric(self.size - 1, sizes - 1, degree, np.arange(needed, degree + 1)))
            terms = _log_choose(honest, sizes) + sizes * np.minimum(tails, 0.0)
            sums = np.logaddexp(total, np.logaddexp.accumulate(terms))
            if (sums > _PRIVACY).any():
                return int(sizes[np.argmax(sums > _PRIVACY)])
            total = float(sums[-1])
        return honest

    def log_disconnected(self, degree: int) -> float:
        """log of the bound on the probability that the honest survivors are in two parts."""
        honest, others = self.honest_survivors, self.size - 1
        size = np.arange(1, honest // 2 + 1)
        inside, outside = _log_none(others, honest - size, degree), _log_none(others, size, degree)
        with np.errstate(invalid="ignore"):
            terms = _log_choose(honest, size) + size * inside + (honest - size) * outside
        return float(np.logaddexp.reduce(terms))

    def why_none(self, *, active: bool) -> str:
        """The error message if not even the complete graph is enough."""
        facts = f"num_clients={self.size}, corrupt={self.corrupt}, dropped={self.dropped}"
        if active and self.is_enough(self.size - 1, active=False):
            return (
                f"Expected 1 - dropout_fraction > (1 + corrupt_fraction) / 2, got {facts}. "
                "An active server could open both secrets of a client: assume less, or claim nothing against such a server."
            )
        return (
            f"Expected more surviving than corrupt holders, got {facts}. "
            "No neighborhood is large enough: assume fewer corrupt clients or drop-outs, or ask more clients."
        )


@functools.cache
def _log_factorials() -> NDArray[np.float64]:
    return np.array([math.lgamma(number + 1) for number in range(LARGEST_COHORT + 1)])


def _log_choose(total: int, count: NDArray[np.int64] | int) -> NDArray[np.float64]:
    """log C(total, count), minus infinity where there is none."""
    table, count = _log_factorials(), np.asarray(count)
    held = (count >= 0) & (count <= total)
    chosen = np.where(held, count, 0)
    return np.where(held, table[total] - table[chosen] - table[total - chosen], -np.inf)


def _log_none(total: int, marked: NDArray[np.int64], draws: int) -> NDArray[np.float64]:
    """log P[Hyper(total, marked, draws) = 0] for several numbers of marked ones."""
    table, left = _log_factorials(), total - marked
    held = left >= draws
    chosen = np.where(held, left, draws)
    terms = table[chosen] - table[chosen - draws] - table[total] + table[total - draws]
    return np.where(held, np.minimum(terms, 0.0), -np.inf)


def _log_upper_tails(total: int, marked: int, draws: int) -> NDArray[np.float64]:
    """log P[X >= x] for x from 0 to draws + 1, X the marked ones among so many draws without replacement."""
    return _log_sums_from(_log_hypergeometric(total, np.array([marked]), draws, np.arange(draws + 1))[:, 0])


def _log_hypergeometric(total: int, marked: NDArray[np.int64], draws: int, counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """log P[X = x], X the marked ones among the draws, for each x (rows) and each number of marked ones (columns)."""
    table, count = _log_factorials(), counts[:, np.newaxis]
    held = (count <= marked) & (draws - count <= total - marked)
    some, rest = np.where(held, count, 0), np.where(held, draws - count, 0)
    terms = (
        table[marked] - table[some] - table[marked - some]
        + table[total - marked] - table[rest] - table[total - marked - rest]
        - (table[total] - table[draws] - table[total - draws])
    )  # fmt: skip
    return np.where(held, terms, -np.inf)


def _log_sums_from(terms: NDArray[np.float64]) -> NDArray[np.float64]:
    """log of the sums of exp(terms[x:]) for each x, and of the empty sum."""
    sums = np.logaddexp.accumulate(terms[::-1])[::-1]
    return np.append(sums, -np.inf)


def _first_at_most(tails: NDArray[np.float64], bound: float) -> int:
    """The first place of a falling sequence that is within the bound."""
    return int(np.argmax(tails <= bound))
