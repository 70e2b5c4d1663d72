"""The two sources of randomness, and nothing that mixes them.

`derive` makes a seeded generator for what must repeat (data, skew, initialization, windows of a history, bootstrap).
`NoiseSource` draws what must stay secret: noise, who is sampled, how a private value is rounded. It comes in two kinds, and
a run uses one of them throughout: `secret_source()` reads the operating system's CSPRNG, `replayable_source(...)` derives
everything from the seed, which makes a run exact to repeat and therefore **not private**.

Secret bytes: each request takes a fresh key from the system's CSPRNG and expands it with AES-256 in counter mode, which is
many times faster than reading every byte from the system. Nothing is kept between requests: a forked process, a thread or
a restored snapshot of this process has no state that it could share with another one.

Floating point: a Gaussian sample computed from 53 random bits cannot take every float, and the gaps tell something about
the value it was added to. Following Holohan and Braghin, several independent samples are added up and the sum is scaled,
which multiplies the number of reachable values beyond what an attacker can enumerate. This is a remedy, not a proof; a
report states it as a limit. Integer noise (`NoiseSource.skellam`) has no such gaps: it is exact up to a stated bound.

What never lives here: the amount of noise (`shared/privacy/plan.py`).

Source:
    Mironov 2012, "On significance of the least significant bits for differential privacy"; Holohan and Braghin 2021,
    "Secure random sampling in differential privacy", section 4; Box and Muller 1958; Agarwal, Kairouz and Liu 2021, "The
    Skellam mechanism for differentially private federated learning"; J. C. P. Miller's backward recurrence, as in Olver
    1964, "Error analysis of Miller's recurrence algorithm".
"""

from __future__ import annotations

import functools
import hashlib
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal, NamedTuple

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CTR
from numpy.typing import NDArray

from shared.errors import ConfigError

# Independent samples added up for one value of noise, as Opacus' secure mode does.
SUMMANDS = 4

# What one Skellam value may differ from the exact distribution by, in total variation: the 2**-89 that the table leaves
# out, and at most 2**22 probabilities rounded to 2**-128. Over 2**24 values (100 rounds of 131,072) this is 2**-64.
SKELLAM_TOTAL_VARIATION = 2.0**-88
# Beyond it the table would no longer fit a processor's cache; larger noise is a sum of several draws, which is exact.
LARGEST_TABLE_VARIANCE = 1e10
# A hundred draws, about a second for 131,072 values.
LARGEST_SKELLAM_VARIANCE = 1e12
# A table of three million entries, some seconds to make.
LARGEST_ROUNDED_STDDEV = 3e5
_TABLE_TAIL_BITS = 90  # Each tail that the table leaves out has a probability below 2**-90.
# A table's words are parted by their first bits: about so many parts a threshold, and at most so many that a processor's
# cache holds them (4 MB).
_PARTS = 8
_FEWEST_BITS = 8
_MOST_BITS = 20
_START_TAIL_BITS = 128  # Where the backward recurrence starts; its error inside the table is about (2**-38)**2.


def derive(seed: int, *labels: int | str) -> np.random.Generator:
    """A seeded generator that depends on every label, e.g. `derive(seed, round_number, client, "windows")`.

    Never use it for noise or sampling in a private run.
    """
    return np.random.Generator(np.random.PCG64(int.from_bytes(_key(seed, *labels)[:16], "little")))


def _key(seed: int, *labels: int | str) -> bytes:
    text = "|".join([str(seed), *(f"{type(label).__name__}:{label}" for label in labels)])
    return hashlib.blake2b(text.encode(), digest_size=32).digest()


@dataclass(frozen=True)
class NoiseSource:
    """Draws noise and decides who is sampled.

    Attributes:
        kind: `secret` (system CSPRNG; a run may be private) or `replayable` (seeded; it is not).
    """

    kind: Literal["secret", "replayable"]
    _random_bytes: Callable[[int], bytes]

    def gaussian(self, size: int, *, stddev: float) -> NDArray[np.float32]:
        """Independent normal noise.

        Args:
            size: Number of values.
            stddev: Standard deviation >= 0, the unit of the values it is added to. (public)

        Returns:
            Shape (size,), float32.
        """
        if stddev == 0.0 or size == 0:
            return np.zeros(size, dtype=np.float32)
        total = np.zeros(size, dtype=np.float64)
        for _ in range(SUMMANDS // 2):  # one Box-Muller transform gives two independent samples
            radius = np.sqrt(-2.0 * np.log1p(-self.uniform(size)))
            angle = (2.0 * np.pi) * self.uniform(size)
            total += radius * (np.cos(angle) + np.sin(angle))
        return (total * (stddev / math.sqrt(SUMMANDS))).astype(np.float32)

    def skellam(self, size: int, *, variance: float) -> NDArray[np.int64]:
        """Independent integer noise: the difference of two Poisson variables of mean variance / 2 each.

        Sums of independent values are again Skellam, with the sum of the variances.

        Guarantee:
            The distribution of each value is within SKELLAM_TOTAL_VARIATION of the exact one. It is drawn by comparing 128
            random bits with a table of exact integers; no float takes part. (Poisson samplers that evaluate a logarithm of
            the gamma function in double precision are off by about 1e-6 at large means.) The time depends on the values
            as memory is cached.

        Args:
            size: Number of values.
            variance: In [0, LARGEST_SKELLAM_VARIANCE], the square of the unit of the values it is added to. (public)

        Returns:
            Shape (size,), int64.

        Raises:
            ConfigError: If the variance is out of range.
        """
        if not 0.0 <= variance <= LARGEST_SKELLAM_VARIANCE:
            raise ConfigError(
                f"Expected variance in [0, {LARGEST_SKELLAM_VARIANCE:g}], got variance={variance:g}. Use a coarser scale."
            )
        if variance == 0.0:
            return np.zeros(size, dtype=np.int64)
        draws = math.ceil(variance / LARGEST_TABLE_VARIANCE)
        table = _skellam_table(variance / draws)
        total = self._symmetric(size, table)
        for _ in range(draws - 1):
            total += self._symmetric(size, table)
        return total

    def rounded_gaussian(self, size: int, *, stddev: float) -> NDArray[np.int64]:
        """Independent integer noise: the whole number nearest to a normal variable.

        Added to integers it is the Gaussian mechanism, rounded afterwards, so the Gaussian's bounds hold for it as they are.
        Unlike Skellam noise, sums of it are of another kind: it is for whoever adds the whole noise.

        Guarantee:
            Each value's distribution is exact but for probabilities off by a factor of at most 1 + 2**-46, and 2**-88 in
            total variation; no float that was noised is ever seen.

        Args:
            size: Number of values.
            stddev: In [1, LARGEST_ROUNDED_STDDEV], of the normal variable, in integer steps. (public)

        Returns:
            Shape (size,), int64.

        Raises:
            ConfigError: If the standard deviation is out of range.
        """
        if not 1.0 <= stddev <= LARGEST_ROUNDED_STDDEV:
            raise ConfigError(
                f"Expected stddev in [1, {LARGEST_ROUNDED_STDDEV:g}], got stddev={stddev:g}. Use a smaller adapter."
            )
        return self._symmetric(size, _rounded_gaussian_table(stddev))

    def _symmetric(self, size: int, table: _TailTable) -> NDArray[np.int64]:
        """Magnitudes by inversion of the table, with independent signs."""
        high = self._words(size)
        position = table.position[(high >> np.uint64(64 - table.bits)).view(np.int64)].astype(np.int64)
        searched = np.flatnonzero(position < 0)
        position[searched] = np.searchsorted(table.high, high[searched], side="right")
        # Where the first 64 bits equal a threshold's, another 64 decide; about one value in 2**44 needs them.
        for tied in searched[(position[searched] > 0) & (table.high[position[searched] - 1] == high[searched])]:
            first = np.searchsorted(table.high, high[tied], side="left")
            position[tied] = first + np.searchsorted(table.low[first : position[tied]], self._words(1)[0], side="right")
        magnitude = np.subtract(len(table.high), position, out=position)
        negative = np.unpackbits(np.frombuffer(self._random_bytes(-(-size // 8)), dtype=np.uint8), count=size).view(np.int8)
        # In two's complement -x is x with all bits turned, plus 1; np.where takes three times as long.
        sign = np.negative(negative, out=negative)
        magnitude ^= sign
        magnitude -= sign
        return magnitude

    def bernoulli(self, size: int, *, probability: float | NDArray[np.float64]) -> NDArray[np.bool_]:
        """Independent coins that are True with the given probability, one for all or one each; shape (size,)."""
        return self.uniform(size) < probability

    def generator(self) -> np.random.Generator:
        """A fast generator for choices that are private but need no secrecy of their own, e.g. a training window.

        Never use it for noise or for who is sampled: what it draws can be predicted from what it drew.
        """
        return np.random.Generator(np.random.PCG64(int.from_bytes(self._random_bytes(16), "little")))

    def uniform(self, size: int) -> NDArray[np.float64]:
        """Independent values on [0, 1) with 53 bits; shape (size,)."""
        return (self._words(size) >> np.uint64(11)).astype(np.float64) * 2.0**-53

    def words32(self, size: int) -> NDArray[np.uint32]:
        """Independent whole numbers, uniform in [0, 2**32); shape (size,), read-only."""
        return np.frombuffer(self._random_bytes(4 * size), dtype=np.uint32)

    def _words(self, size: int) -> NDArray[np.uint64]:
        return np.frombuffer(self._random_bytes(8 * size), dtype=np.uint64)


class _TailTable(NamedTuple):
    """P(|K| >= m) * 2**128 for m from the largest down to 1, so that both arrays together ascend; 64 bits in each.

    Words with the same first `bits` bits mostly have one and the same position in the table: `position` lists it, shape
    (2**bits,), or -1 where a threshold lies among them. That takes the place of nine searches in ten, at six to nine times
    their speed.
    """

    high: NDArray[np.uint64]
    low: NDArray[np.uint64]
    bits: int
    position: NDArray[np.int32]


@functools.lru_cache(maxsize=4)
def _skellam_table(variance: float) -> _TailTable:
    """Tail probabilities of |K|, K the difference of two Poisson variables of mean variance / 2.

    P(K = m) is proportional to the modified Bessel function I_m(variance), and I_{m-1} = I_{m+1} + (2m / variance) I_m.
    Run from far beyond the table towards 0, this adds positive numbers only and is stable. In whole numbers of more than 128
    bits it is also exact to 2**-128 at every step, and so are the sums and the division by the total. A second for a
    standard deviation of 100,000, a tenth for 10,000; then the table is remembered.
    """
    numerator, denominator = variance.as_integer_ratio()
    largest = _order_beyond(variance, _TABLE_TAIL_BITS)
    weights = []
    above, here = 0, 1 << 128
    for order in range(_order_beyond(variance, _START_TAIL_BITS), 0, -1):
        if order <= largest:
            weights.append(here)
        above, here = here, above + 2 * order * denominator * here // numerator
    return _tail_table(weights, center=here)


@functools.lru_cache(maxsize=4)
def _rounded_gaussian_table(stddev: float) -> _TailTable:
    """Tail probabilities of |K|, K the whole number nearest to a normal variable.

    P(K = m) is the density's integral over a cell of width 1, by 20-point Gauss-Legendre quadrature, which for a standard
    deviation of at least 1 is exact to double precision; a probability is then off by a factor of at most 1 + 2**-46.
    """
    largest = math.ceil(stddev * math.sqrt(2 * _TABLE_TAIL_BITS * math.log(2))) + 1
    orders = np.arange(largest, -1, -1, dtype=np.float64)
    cells = np.zeros(len(orders))
    for node, weight in zip(*np.polynomial.legendre.leggauss(20), strict=True):
        cells += weight * np.exp(-0.5 * ((orders + 0.5 * node) / stddev) ** 2)
    # As whole numbers the sums that follow are exact.
    weights = [int(weight) for weight in np.ldexp(cells, 200)]
    return _tail_table(weights[:-1], center=weights[-1])


def _tail_table(weights: list[int], *, center: int) -> _TailTable:
    """The table of a symmetric distribution from its weights at the largest order down to 1, and at 0."""
    tails = list(accumulate(weights))
    total = center + 2 * tails[-1]
    words = b"".join([((2 * tail << 128) // total).to_bytes(16, "little") for tail in tails])
    low, high = np.frombuffer(words, dtype="<u8").astype(np.uint64).reshape(-1, 2).T
    bits = min(max(_FEWEST_BITS, (_PARTS * len(high)).bit_length()), _MOST_BITS)
    starts = np.searchsorted(high, np.arange(2**bits, dtype=np.uint64) << np.uint64(64 - bits), side="left")
    ends = np.append(starts[1:], len(high))
    position = np.where(starts == ends, starts, -1).astype(np.int32)
    table = _TailTable(high=high.copy(), low=low.copy(), bits=bits, position=position)
    table.high.flags.writeable = table.low.flags.writeable = table.position.flags.writeable = False
    return table


def _order_beyond(variance: float, bits: int) -> int:
    """The smallest m for which Chernoff's bound says P(K >= m) <= 2**-bits."""

    def bound_holds(order: int) -> bool:
        # -log P(K >= m) >= m asinh(m / v) - (sqrt(m^2 + v^2) - v), the difference of roots without cancellation.
        root = math.hypot(order, variance)
        return order * math.asinh(order / variance) - order * (order / (root + variance)) >= bits * math.log(2)

    high = 1
    while not bound_holds(high):
        high *= 2
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if bound_holds(middle) else (middle, high)
    return high


def secret_bytes(size: int) -> bytes:
    """Bytes that nobody can predict: the AES-256-CTR stream of a key and a nonce that are used for this call only.

    Guarantee:
        No two calls share a stream, in whatever processes: nothing but the system's CSPRNG is read.

    Args:
        size: Number of bytes >= 0.
    """
    return Cipher(AES256(os.urandom(32)), CTR(os.urandom(16))).encryptor().update(bytes(size))


def secret_source() -> NoiseSource:
    """Noise and sampling from the operating system's CSPRNG."""
    return NoiseSource("secret", secret_bytes)


def replayable_source(seed: int, *labels: int | str) -> NoiseSource:
    """Noise and sampling derived from the seed: exact to repeat, and known to whoever knows the seed.

    A run that uses it claims no privacy.
    """
    generator = derive(seed, "noise", *labels)
    return NoiseSource("replayable", generator.bytes)
