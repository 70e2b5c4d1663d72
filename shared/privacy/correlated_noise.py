"""Correlated noise for training without trusted sampling: the banded square-root factorization (DP-FTRL).

Training only needs prefix sums of gradients, A G with A the lower-triangular matrix of ones. With A = B C, noise z added to
C G comes out of the prefix sums as B z, and of the single steps as w = C^-1 z: what one step adds, later steps partly take
back. C is the square root of A, cut to `bands` diagonals: lower-triangular, Toeplitz, its first column
c_k = binom(2k, k) / 4^k for k < bands. Then w_t = z_t - c_1 w_{t-1} - ... - c_{bands-1} w_{t-bands+1}.

What it costs: whoever takes part in step t moves column t of C. Columns at least `bands` steps apart share no row, so they
are orthogonal, and k participations at least that far apart cost exactly k Gaussian events of multiplier
noise_multiplier / column_norm. Gradients may depend on what was released before.

Why a skipped step, a restart or a repeated step costs no more: leaving entries below C's diagonal out lengthens no column
and makes no two columns meet. The recursion leaves out what it does not remember, which costs utility alone.

What never lives here: who takes part when (`client/training/dp_sgd.py`, the ledger), how much noise (`plan.py`), anything
on disk: a step's noise, subtracted from what was released, is that step's private sum.

Source:
    Kalinin and Lampert 2024, "Banded Square Root Matrix Factorization for Differentially Private Model Training";
    Choquette-Choo et al. 2023, "(Amplified) Banded Matrix Factorization" (separated participations); Denisov et al. 2022,
    "Improved Differential Privacy for SGD via Optimal Private Linear Operators on Adaptive Streams".
"""

from __future__ import annotations

import math
from typing import NoReturn, SupportsIndex

import numpy as np
from numpy.typing import NDArray

from shared.errors import ConfigError, PrivacyError
from shared.randomness import NoiseSource

_NEVER = -1


def coefficients(bands: int) -> NDArray[np.float64]:
    """The first column of C without its zeros: c_k = binom(2k, k) / 4^k, so 1, 1/2, 3/8, 5/16, ...

    Args:
        bands: Diagonals of C, >= 1.

    Returns:
        Shape (bands,), float64, positive and falling.

    Raises:
        ConfigError: If bands < 1.
    """
    if bands < 1:
        raise ConfigError(f"Expected bands >= 1, got bands={bands}. Use 1 for independent noise.")
    k = np.arange(1, bands, dtype=np.float64)
    return np.concatenate([[1.0], np.cumprod((2.0 * k - 1.0) / (2.0 * k))])


def column_norm(bands: int, steps: int) -> float:
    """The largest L2 norm of a column of C: what one contribution of norm 1 moves C G by.

    Args:
        bands: Diagonals of C, >= 1.
        steps: Rows of C, steps of the whole run, >= 1.

    Raises:
        ConfigError: If bands or steps is below 1.
    """
    if steps < 1:
        raise ConfigError(f"Expected steps >= 1, got steps={steps}. Plan at least one step.")
    return float(np.linalg.norm(coefficients(min(bands, steps))))


def event_noise_multiplier(noise_multiplier: float, bands: int, steps: int) -> float:
    """Multiplier of the Gaussian event that ONE participation is.

    Guarantee:
        A user whose participations are at least `bands` steps apart, k of them, is protected exactly as by k independent
        Gaussian mechanisms of this multiplier, that is by one of multiplier / sqrt(k).

    Args:
        noise_multiplier: Standard deviation of z over the bound on one contribution.
        bands: Diagonals of C, >= 1.
        steps: Steps of the whole run, >= 1.
    """
    return noise_multiplier / column_norm(bands, steps)


class BandedNoise:
    """Draws the noise of one step after the other, w = C^-1 z; lives as long as a run does in this process.

    Guarantee:
        With z independent Gaussian of the given standard deviation, what is returned over time is C'^-1 z, where C' is C
        without some entries below the diagonal: those of steps that were skipped, and those from before the generator was
        made anew or a step was repeated. No column of C' is longer than C's, and columns at least `bands` steps apart stay
        orthogonal, so a restart or a gap costs utility and no privacy. A step that is repeated is another participation
        of its users, which the ledger has to count.

    Attributes:
        size: Values a step.
        bands: Diagonals of C; 1 is independent noise.
        stddev: Of z; the unit of the sums it is added to. (public)
        source: Where z comes from; may be replaced between steps.
    """

    def __init__(self, size: int, *, bands: int, stddev: float, source: NoiseSource) -> None:
        if not (math.isfinite(stddev) and stddev >= 0):
            raise ConfigError(f"Expected stddev >= 0 and finite, got stddev={stddev}. Take it from the privacy plan.")
        self.size = size
        self.bands = bands
        self.stddev = stddev
        self.source = source
        self._coefficients = coefficients(bands).astype(np.float32)
        self._outputs = np.zeros((bands - 1, size), dtype=np.float32)
        self._steps = np.full(bands - 1, _NEVER)
        self._last = _NEVER

    def next(self, step: int | None = None) -> NDArray[np.float32]:
        """The noise of one step; drawn here, once, and to be used once.

        Args:
            step: The step's number in the whole run, from 0; by default the one after the last. (public)

        Returns:
            Shape (size,), float32.
        """
        step = self._last + 1 if step is None else step
        if step <= self._last:
            # The step's first noise may be part of something released, and earlier noise must not be taken back twice.
            self._steps[:] = _NEVER
        self._last = step
        fresh = self.source.gaussian(self.size, stddev=self.stddev)
        if self.bands == 1:
            return fresh
        age = step - self._steps
        known = (self._steps != _NEVER) & (age < self.bands)
        taken_back = np.zeros(self.bands - 1, dtype=np.float32)
        taken_back[known] = self._coefficients[age[known]]
        noise = (fresh - taken_back @ self._outputs).astype(np.float32, copy=False)
        row = step % (self.bands - 1)
        self._outputs[row], self._steps[row] = noise, step
        return noise

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        raise PrivacyError(
            "Correlated noise cannot be saved, copied or sent: it would lay earlier contributions bare. Make a new one "
            "instead, which costs no privacy."
        )
