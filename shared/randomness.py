"""The two sources of randomness, and nothing that mixes them.

`derive` makes a seeded generator for what must repeat (data, skew, initialization, windows of a history, bootstrap).
`NoiseSource` draws what must stay secret: Gaussian noise and who is sampled. It comes in two kinds, and a run uses one
of them throughout: `secret_source()` reads the operating system's CSPRNG, `replayable_source(...)` derives everything
from the seed, which makes a run exact to repeat and therefore **not private**.

Floating point: a Gaussian sample computed from 53 random bits cannot take every float, and the gaps tell something about
the value it was added to. Following Holohan and Braghin, several independent samples are added up and the sum is scaled,
which multiplies the number of reachable values beyond what an attacker can enumerate. This is a remedy, not a proof; a
report states it as a limit. What never lives here: the amount of noise (`shared/privacy/plan.py`).

Source:
    Mironov 2012, "On significance of the least significant bits for differential privacy"; Holohan and Braghin 2021,
    "Secure random sampling in differential privacy", section 4; Box and Muller 1958.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

# Independent samples added up for one value of noise, as Opacus' secure mode does.
SUMMANDS = 4


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
            radius = np.sqrt(-2.0 * np.log1p(-self._uniform(size)))
            angle = (2.0 * np.pi) * self._uniform(size)
            total += radius * (np.cos(angle) + np.sin(angle))
        return (total * (stddev / math.sqrt(SUMMANDS))).astype(np.float32)

    def bernoulli(self, size: int, *, probability: float) -> NDArray[np.bool_]:
        """Independent coins that are True with the given probability; shape (size,)."""
        return self._uniform(size) < probability

    def generator(self) -> np.random.Generator:
        """A fast generator for choices that are private but need no secrecy of their own, e.g. a training window.

        Never use it for noise or for who is sampled: what it draws can be predicted from what it drew.
        """
        return np.random.Generator(np.random.PCG64(int.from_bytes(self._random_bytes(16), "little")))

    def _uniform(self, size: int) -> NDArray[np.float64]:
        """Uniform on [0, 1) with 53 bits."""
        bits = np.frombuffer(self._random_bytes(8 * size), dtype=np.uint64)
        return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def secret_source() -> NoiseSource:
    """Noise and sampling from the operating system's CSPRNG."""
    return NoiseSource("secret", os.urandom)


def replayable_source(seed: int, *labels: int | str) -> NoiseSource:
    """Noise and sampling derived from the seed: exact to repeat, and known to whoever knows the seed.

    A run that uses it claims no privacy.
    """
    generator = derive(seed, "noise", *labels)
    return NoiseSource("replayable", generator.bytes)
