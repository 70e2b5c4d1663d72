"""Real vectors as integers modulo 2**bits, so that sums are exact, sensitivity is exact, and noise can come in shares.

    bounded -> pad, public random signs, Hadamard matrix (`hadamard.py`) -> scale -> round at random -> (+ noise, + mask)
    -> modulo 2**bits -> sum -> center -> unscale -> rotate back

Vectors come with their bound (`Bounded`): they were clipped where they were made and are not clipped again. No guarantee
rests on that: a vector whose integers are out of bounds counts as zeros.

A vector with few nonzero values among very many is not rotated. It is rounded towards zero, so it stays sparse.

The rotation spreads a vector over all coordinates, so that few bits suffice for each. It adds and subtracts whole numbers
that a double holds exactly, whatever a matrix product's shape: a vector's encoding is the same alone, among others and with
any number of threads. Rounding is unbiased to 2**-32 of a step and conditional: it is drawn again until the
integer vector's L2 norm is within `l2_sensitivity`, which therefore holds for the very integers that are summed, not only up
to float rounding. All arithmetic after rounding is in the ring, where nothing is lost: the masked sum equals the plain sum
bit by bit.

What never lives here: how much noise is needed and what it buys (`shared/privacy`), keys and masks. A sum that leaves the
ring's range wraps around: that harms the result and never the privacy.

Source:
    Kairouz, Liu and Steinke 2021, "The distributed discrete Gaussian mechanism for federated learning with secure
    aggregation" (rotation, conditional randomized rounding, modular clipping); Agarwal, Kairouz and Liu 2021, "The Skellam
    mechanism for differentially private federated learning" (noise).
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from shared.errors import ConfigError, ProtocolViolation, SensitivityError
from shared.model.state import l2_norms
from shared.randomness import LARGEST_SKELLAM_VARIANCE, NoiseSource, derive
from shared.secagg import hadamard, packing

# Room for rounding: the integers' sensitivity, and with it the noise, is larger by this factor than without rounding.
# 0.1 % more noise is far below what any accountant loses, and 20 bits leave that room at 131,072 parameters for noise
# multipliers up to 17; above, one or two bits more do.
ROUNDING_MARGIN = 0.001
# Fewest integer steps of sensitivity, and fewest of them over the fourth root of a vector's coordinates: the accountant
# relies on both (`shared/privacy/skellam.py`), and integer noise then costs what continuous does. Rotated vectors have
# enough steps anyway, for rounding.
MIN_SENSITIVITY = 1000
FINENESS = 80.0
# The ring holds this many standard deviations of a coordinate of the sum on either side. By Hoeffding's inequality over the
# random signs a coordinate leaves it with probability below 2 exp(-7**2 / 2) = 5e-11, for 131,072 of them below 6e-6 a sum,
# even if all clients send the same vector at the full bound. These are of the noise as
# planned. Where more clients answer than its shares are made for, the noise is wider, and the ring holds fewer of its
# standard deviations: hardly more than two where ten times as many answer. Whoever chooses a vector knowing
# the signs can aim at one coordinate, and a client that ignores the protocol can send any ring element: neither is kept out
# here.
HEADROOM = 7.0
# Noise of so many integer steps is drawn from a table that fits a processor's cache, and the rounding of a million clients
# adds less than a thousandth to its variance.
ENOUGH_NOISE_STEPS = 2.0**14
SMALLEST_BITS = 20
LARGEST_BITS = 32
# After so many draws out of bounds, each less likely than 1/2, rounding is towards zero, which is never out of bounds.
ROUNDING_DRAWS = 20
# Rounding is in whole numbers of 64 bits: there is room for 32 binary places, and for the square of a norm of a bit more.
LARGEST_SENSITIVITY = 2.0**30
# Whole numbers of 64 bits hold a vector of up to so many times the bound, and its square; a longer one is zeros at once.
_LONGEST = 1.25
# A dimension is a multiple of it, so that its packed form is whole bytes for every number of bits.
_WHOLE_BYTES = 8
# Values that are encoded at once: in a processor's cache, and enough of them that a call costs little beside its arithmetic.
_BLOCK = 2**15


@dataclass(frozen=True, eq=False)
class Bounded:
    """Vectors with their bound. Only `client/contribution.py` makes them, by clipping.

    Attributes:
        rows: Shape (n, k), float32. (private)
        l2_bound: C > 0: the L2 norm of a row is at most C * (1 + 2**-20). (public)
    """

    rows: NDArray[np.float32]
    l2_bound: float


@dataclass(frozen=True)
class RingEncoding:
    """How vectors of one kind become ring integers; made by `choose`, equal wherever it is chosen from equal constants.

    Attributes:
        size: Values of a vector, d >= 1.
        l2_bound: C > 0: the largest bound of a vector that is encoded.
        noise_multiplier: Standard deviation of the sum's noise over `l2_sensitivity`, >= 0.
        num_summands: Largest number of vectors that are added up.
        seed: Of the rotation. Public, and chosen before the vectors.
        bits: The ring is the integers modulo 2**bits.
        scale: Integer steps in one unit of a vector.
        rotated: Whether vectors are rotated first. One with few nonzero values among very many is not: rounded towards zero
            as it is, it stays sparse, at the price of a ring that holds `num_summands` times the bound in one coordinate.
    """

    size: int
    l2_bound: float
    noise_multiplier: float
    num_summands: int
    seed: int
    bits: int
    scale: float
    rotated: bool = True

    @classmethod
    @functools.lru_cache(maxsize=64)  # made for every message from the same constants, and its signs with it
    def choose(
        cls,
        *,
        size: int,
        l2_bound: float,
        noise_multiplier: float,
        num_summands: int,
        seed: int,
        rotated: bool = True,
    ) -> RingEncoding:
        """The smallest ring with enough headroom for the sum, and steps fine enough for the noise and the rounding.

        Args: all public; see the class.

        Raises:
            ConfigError: If a value is out of range, or no ring is large enough.
        """
        for name, value, holds, relation in (
            ("size", size, size >= 1, ">= 1"),
            ("l2_bound", l2_bound, 0.0 < l2_bound < math.inf, "> 0 and finite"),
            ("noise_multiplier", noise_multiplier, 0.0 <= noise_multiplier < math.inf, ">= 0 and finite"),
            ("num_summands", num_summands, num_summands >= 1, ">= 1"),
        ):
            if not holds:
                raise ConfigError(f"Expected {name} {relation}, got {name}={value}. Secure sums need it to size their ring.")
        for bits in range(SMALLEST_BITS, LARGEST_BITS + 1):
            encoding = cls(size, l2_bound, noise_multiplier, num_summands, seed, bits, 1.0, rotated)
            exact = LARGEST_SENSITIVITY / (l2_bound * (1.0 + ROUNDING_MARGIN))
            scale = min(encoding._largest_scale(), encoding._enough_scale(), exact)
            encoding = dataclasses.replace(encoding, scale=scale)
            if encoding._is_fine_enough():
                if encoding.noise_variance > LARGEST_SKELLAM_VARIANCE:
                    break
                return encoding
        raise ConfigError(
            f"Expected a sum that fits a ring of {LARGEST_BITS} bits with noise of at most "
            f"{math.sqrt(LARGEST_SKELLAM_VARIANCE):g} steps, got size={size}, noise_multiplier={noise_multiplier}, "
            f"num_summands={num_summands}. Use a smaller adapter, less noise or fewer clients."
        )

    @property
    def dimension(self) -> int:
        """D: what a vector is padded to: a Hadamard matrix' order where it is rotated, else what packs into whole bytes."""
        return hadamard.order_for(self.size) if self.rotated else -(-self.size // _WHOLE_BYTES) * _WHOLE_BYTES

    @property
    def l2_sensitivity(self) -> float:
        """Largest L2 norm of an encoded vector, in integer steps."""
        return self.scale * self.l2_bound * (1.0 + ROUNDING_MARGIN)

    @property
    def noise_variance(self) -> float:
        """Of the whole noise in a coordinate of the sum, in squared integer steps."""
        return (self.noise_multiplier * self.l2_sensitivity) ** 2

    @property
    def noise_stddev(self) -> float:
        """Standard deviation of the whole noise in a value of the decoded sum, in the vectors' own unit."""
        return math.sqrt(self.noise_variance) / self.scale

    @property
    def packed_bytes(self) -> int:
        """What an encoded vector takes on the wire."""
        return packing.packed_bytes(self.dimension, self.bits)

    def encode_rows(self, vectors: Bounded, sources: Sequence[NoiseSource]) -> NDArray[np.uint32]:
        """Rotates, scales and rounds each of many vectors; adds no noise.

        Guarantee:
            Each row of the result, centered, is an integer vector of L2 norm <= l2_sensitivity, exactly, for every input:
            a row with NaN or infinity counts as zeros, and so does a row whose integers would exceed that norm because it
            is longer than its bound. No value raises an error. Rounding is drawn again until the norm is within the bound.
            The number of draws is not returned and changes no message; an observer who can time the encoding on the device
            can learn it.

            A row depends on the same row of `vectors` and on what its source draws, on nothing else.

        Args:
            vectors: Of `size` values, and bounded by `l2_bound` or less. (private)
            sources: Where rounding comes from, one a row: secret in a private run. Of one source that all rows share, rows
                draw together.

        Returns:
            Shape (n, D), values in [0, 2**bits).

        Raises:
            SensitivityError: If the shape, the type or the bound is wrong.
        """
        if vectors.rows.shape[1:] != (self.size,):
            raise SensitivityError(
                f"Expected a vector of {self.size} values, got shape={vectors.rows.shape[1:]}. "
                "The client runs another configuration."
            )
        rows = self._finite(vectors)
        if len(sources) != len(rows):
            raise SensitivityError(
                f"Expected a source for each of {len(rows)} vectors, got sources={len(sources)}. "
                "Repeat a secret source; derive one a vector in a run that must repeat."
            )
        if not self.rotated:
            padding = ((0, 0), (0, self.dimension - self.size))
            return np.pad(self.to_ring(self._towards_zero(rows)), padding)
        signs, step = self._signs * self._grid, self.scale / (self._grid * math.sqrt(self.dimension))
        rings = np.empty((len(rows), self.dimension), dtype=np.uint32)
        at_once = max(1, min(_BLOCK // self.dimension, len(rows)))
        memory = np.empty((2, at_once, self.dimension))
        for start in range(0, len(rows), at_once):
            some = slice(start, start + at_once)
            values, spare = memory[:, : len(rows[some])]
            values[:, : self.size] = rows[some]
            values[:, self.size :] = 0.0
            values *= signs
            rotated, free = hadamard.multiply(np.rint(values, out=values), spare)
            rotated *= step
            rings[some] = self.to_ring(self._round(rotated, sources[some], memory=free))
        return rings

    def encode_sparse(self, values: Bounded) -> NDArray[np.uint32]:
        """The nonzero integers of one vector that is not rotated: what `encode_rows` gives at the places of these values.

        Guarantee:
            That of `encode_rows`. Rounding is towards zero, so no randomness is needed to stay within the bound.

        Args:
            values: One row, of the values at k different coordinates. (private)

        Returns:
            (k,), values in [0, 2**bits).

        Raises:
            SensitivityError: If the type or the bound is wrong.
        """
        (integers,) = self._towards_zero(self._finite(values))
        return self.to_ring(integers)

    def _finite(self, vectors: Bounded) -> NDArray[np.float32]:
        """The rows, (n, k); zeros in place of those that are not finite, or so long that integers could not hold them.

        Nothing is scaled: a row that is longer than its bound has no meaning.
        """
        if not vectors.l2_bound <= self.l2_bound or vectors.rows.dtype != np.float32:
            raise SensitivityError(
                f"Expected float32 vectors bounded by {self.l2_bound:g}, got l2_bound={vectors.l2_bound:g}, "
                f"dtype={vectors.rows.dtype}. The client runs another configuration."
            )
        with np.errstate(invalid="ignore"):  # what a signaling NaN would say
            held = l2_norms(vectors.rows) <= _LONGEST * self.l2_bound
        return vectors.rows if held.all() else np.where(held[:, np.newaxis], vectors.rows, np.float32(0.0))

    def _towards_zero(self, rows: NDArray[np.float32]) -> NDArray[np.int64]:
        """(n, k) values as integers within the bound; an integer vector is never longer than the one it is made of.

        The norm of a clipped row exceeds the bound by 2**-20 of it at most, which `ROUNDING_MARGIN` is far above.
        """
        integers = np.trunc(rows.astype(np.float64) * self.scale).astype(np.int64)
        integers[self._too_long(integers)] = 0
        return integers

    def noise(self, source: NoiseSource, *, share: float = 1.0, shares: int = 1) -> NDArray[np.uint32]:
        """The sum of so many shares of the noise; shares that add up to 1 make the noise of the plan.

        Skellam noise is closed under sums, so one draw is distributed as the sum of as many independent shares.

        Args:
            source: Secret in a private run.
            share: Part of the variance, in (0, 1], e.g. 1 / (survivors - colluders). (public)
            shares: How many of them, >= 1. (public)

        Returns:
            Shape (D,), values in [0, 2**bits), of variance shares * share * noise_variance before the modulus.
        """
        if not 0.0 < share <= 1.0:
            raise ConfigError(f"Expected share in (0, 1], got share={share}. It is one over the clients that add noise.")
        variance = shares * share * self.noise_variance
        draws = math.ceil(variance / LARGEST_SKELLAM_VARIANCE) or 1
        total = source.skellam(self.dimension, variance=variance / draws)
        for _ in range(draws - 1):
            total += source.skellam(self.dimension, variance=variance / draws)
        return self.to_ring(total)

    def to_ring(self, integers: NDArray[np.int64]) -> NDArray[np.uint32]:
        """Whole numbers modulo 2**bits, e.g. noise that another module drew; shape (D,)."""
        return integers.astype(np.uint32) & self._mask  # the cast is modulo 2**32, of which 2**bits is a divisor

    def add(self, a: NDArray[np.uint32], b: NDArray[np.uint32]) -> NDArray[np.uint32]:
        """The sum of two ring vectors; shape (D,)."""
        return (a + b) & self._mask

    def decode(self, ring_sum: NDArray[np.uint32]) -> NDArray[np.float64]:
        """The sum of the vectors, up to noise and rounding: center, unscale, rotate back, leave the padding out.

        Args:
            ring_sum: Shape (D,), a sum of at most `num_summands` encodings, noise and masks that cancel.

        Returns:
            Shape (size,).
        """
        half = 1 << (self.bits - 1)
        centered = (ring_sum.astype(np.int64) + half) % (1 << self.bits) - half
        if not self.rotated:
            return centered[: self.size] / self.scale
        rotated_back = hadamard.transform(centered.astype(np.float64)) / self.scale * self._signs
        return rotated_back[: self.size]

    def pack(self, ring: NDArray[np.uint32]) -> NDArray[np.uint8]:
        """The wire form: `bits` bits a value, least significant first; shape (packed_bytes,)."""
        return np.frombuffer(packing.pack(ring, self.bits), dtype=np.uint8)

    def unpack(self, packed: NDArray[np.uint8]) -> NDArray[np.uint32]:
        """The inverse of `pack`; every array of the right form is some ring vector.

        Raises:
            ProtocolViolation: If the shape or the type is wrong.
        """
        if packed.shape != (self.packed_bytes,) or packed.dtype != np.uint8:
            raise ProtocolViolation(
                f"Expected a masked update of {self.packed_bytes} bytes, got shape={packed.shape}, dtype={packed.dtype}. "
                "The client runs another configuration."
            )
        return packing.unpack(packed.tobytes(), length=self.dimension, bits=self.bits)

    def _largest_scale(self) -> float:
        """Fills the ring with HEADROOM standard deviations of a coordinate; each rounding has a variance of at most 1/4.

        Without a rotation all vectors may have all of their length in one coordinate, and the noise comes on top.
        """
        if not self.rotated:
            spread = HEADROOM * self.noise_multiplier * self.l2_bound * (1.0 + ROUNDING_MARGIN)
            return (1 << (self.bits - 1)) / (self.num_summands * self.l2_bound + spread)
        steps = ((1 << (self.bits - 1)) / HEADROOM) ** 2 - self.num_summands / 4
        aligned = (self.num_summands * self.l2_bound) ** 2 / self.dimension
        noise = (self.noise_multiplier * self.l2_bound * (1.0 + ROUNDING_MARGIN)) ** 2
        return math.sqrt(max(steps, 0.0) / (aligned + noise))

    def _enough_scale(self) -> float:
        """Where a finer scale gains nothing: rounding is in bounds, and the noise has ENOUGH_NOISE_STEPS."""
        if not self.noise_multiplier:
            return math.inf
        if not self.rotated:
            return self._fewest_steps / self.l2_bound
        margin, spread = (1.0 + ROUNDING_MARGIN) ** 2 - 1.0, math.sqrt(2 * math.log(2))
        rounding = self.dimension / 4 + spread * math.sqrt(self.dimension) / 2
        # The norm at which `_is_fine_enough` begins to hold, with a little room.
        smallest = 1.01 * (spread + math.sqrt(spread**2 + 4 * margin * rounding)) / (2 * margin)
        return max(smallest, self._fewest_steps, ENOUGH_NOISE_STEPS / self.noise_multiplier) / self.l2_bound

    def _is_fine_enough(self) -> bool:
        """Whether noise costs what continuous noise does, and rounding stays in bounds with probability >= 1/2.

        With probability at least 1 - beta the rounded norm of a vector at the bound, squared, is at most norm**2 + D / 4 +
        sqrt(2 log(1 / beta)) (norm + sqrt(D) / 2) (Kairouz et al. 2021).
        """
        if not self.rotated:
            return self.l2_sensitivity >= self._fewest_steps
        norm = self.scale * self.l2_bound
        slack = self.dimension / 4 + math.sqrt(2 * math.log(2)) * (norm + math.sqrt(self.dimension) / 2)
        return self.l2_sensitivity >= self._fewest_steps and norm**2 + slack <= self.l2_sensitivity**2

    @property
    def _fewest_steps(self) -> float:
        """Of sensitivity."""
        return max(MIN_SENSITIVITY, FINENESS * math.sqrt(math.sqrt(self.dimension)))

    @functools.cached_property
    def _signs(self) -> NDArray[np.float64]:
        """The public random signs; raw bits, because numpy promises that those never change between its versions."""
        words = derive(self.seed, "rotation").bit_generator.random_raw(-(-self.dimension // 64))
        bits = np.unpackbits(words.astype("<u8").view(np.uint8), count=self.dimension)
        return np.where(bits, -1.0, 1.0)

    @property
    def _mask(self) -> np.uint32:
        return np.uint32((1 << self.bits) - 1)

    @functools.cached_property
    def _grid(self) -> float:
        """A power of two: a vector times this is rounded to whole numbers, of which the rotation is then exact.

        No partial sum of a transform of D numbers exceeds their L1 norm, which is at most sqrt(D) times their L2 norm and
        here below 2**53. Rounding moves a vector by at most l2_bound * D * 2**-51 in L2 norm, for 131,072 parameters less
        than a thousandth of what float32 may. No float32 is finer than 2**-149.
        """
        _, exponent = math.frexp(self.l2_bound)
        return 2.0 ** min(52 - exponent - self.dimension.bit_length() // 2, 149)

    @functools.cached_property
    def _largest_square(self) -> int:
        """In exact numbers: a float comparison would be off by its own rounding."""
        return math.floor(Fraction(self.l2_sensitivity) ** 2)

    def _round(
        self, scaled: NDArray[np.float64], sources: Sequence[NoiseSource], *, memory: NDArray[np.float64]
    ) -> NDArray[np.int64]:
        """Rounds rows at random within the bound; overwrites both arrays, and the result is the first, as integers.

        It is floor(x + u) for a uniform u, in whole numbers of 2**-32. What a value has beyond that is cut off, so a draw's
        mean is less than 2**-32 off, towards zero.
        """
        scaled *= 2.0**32
        fixed, rounded = memory.view(np.int64), scaled.view(np.int64)
        fixed[:] = scaled
        np.add(fixed, self._words(sources), out=rounded)
        rounded >>= 32
        for number in np.flatnonzero(self._too_long(rounded)).tolist():
            row, exact = rounded[number], fixed[number]
            for _ in range(ROUNDING_DRAWS - 1):
                np.add(exact, sources[number].words32(self.dimension), out=row)
                row >>= 32
                if not self._too_long(row):
                    break
            else:
                row[:] = np.trunc(exact * 2.0**-32)
                row[self._too_long(row)] = 0  # it was longer than it said
        return rounded

    def _too_long(self, rounded: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether whole numbers (..., D) are out of bounds, (...)."""
        return np.asarray(np.einsum("...i,...i->...", rounded, rounded) > self._largest_square)

    def _words(self, sources: Sequence[NoiseSource]) -> NDArray[np.uint32]:
        """A first draw of (n, D) words; of the same source all at once, because a draw costs more than its bytes."""
        if all(source is sources[0] for source in sources):
            return sources[0].words32(len(sources) * self.dimension).reshape(-1, self.dimension)
        return np.stack([source.words32(self.dimension) for source in sources])
