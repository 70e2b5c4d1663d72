"""The server's own noise, for mechanisms whose exact sum the server may see: drawn once a release, never kept.

The sum is of integers and so is the noise: a Gaussian sample rounded to the next integer. Rounding the noised sum of
integers is the same as rounding the noise, so the release is a function of the ideal Gaussian mechanism's, the Gaussian
bound holds for it, sampling included, and no float gives the sum away. Under DP-FTRL the samples of successive rounds are
correlated; what that needs of the past lives in memory alone, and a restarted server begins anew, which costs no privacy
(`shared/privacy/correlated_noise.py`). Its samples are computed in floats before they are rounded, which is a remedy and
not a proof.

What never lives here: how much noise (`shared/privacy/plan.py`).

Source:
    Dwork and Roth 2014, "The Algorithmic Foundations of Differential Privacy", Prop. 2.1 (post-processing).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from shared.privacy.correlated_noise import BandedNoise
from shared.privacy.plan import PrivacyPlan
from shared.randomness import NoiseSource, replayable_source, secret_source
from shared.secagg.encoding import RingEncoding


class ServerNoise:
    """Noise for the sums of one run.

    Args:
        plan: Which releases the server noises.
        seed: Used in reproducible runs alone, which claim no privacy.
    """

    def __init__(self, plan: PrivacyPlan, *, seed: int) -> None:
        self._plan, self._seed = plan, seed
        self._banded: BandedNoise | None = None

    def source(self, purpose: str, round_number: int, *, step: int = 0) -> NoiseSource:
        """Noise and sampling of the server: the system's CSPRNG, or derived from the seed in a reproducible run."""
        if self._plan.reproducible:
            labels: tuple[int | str, ...] = ("step", step) if step else ()
            return replayable_source(self._seed, "server", purpose, round_number, *labels)
        return secret_source()

    def added_to(
        self, total: NDArray[np.uint32], encoding: RingEncoding, *, purpose: str, round_number: int, step: int = 0
    ) -> NDArray[np.uint32]:
        """The ring sum with the server's noise in it; unchanged where clients added their shares.

        Args:
            total: (encoding.dimension,) exact modular sum. (private until the noise is in it)
            encoding: Scale, modulus and noise of the release.
            purpose: What is released: `train`, `popularity`, or the evaluation of a target.
            round_number: Of the release.
            step: Which release of this purpose and round.
        """
        if self._plan.mechanism.shares_noise or not encoding.noise_multiplier:
            return total
        source = self.source(purpose, round_number, step=step)
        if self._plan.mechanism.clients_take_turns and purpose == "train":
            noise = np.rint(self._correlated(encoding, source, round_number)).astype(np.int64)
        else:
            noise = source.rounded_gaussian(encoding.dimension, stddev=math.sqrt(encoding.noise_variance))
        return encoding.add(total, encoding.to_ring(noise))

    def _correlated(self, encoding: RingEncoding, source: NoiseSource, round_number: int) -> NDArray[np.float32]:
        if self._banded is None:
            self._banded = BandedNoise(
                encoding.dimension,
                bands=self._plan.min_separation,
                stddev=math.sqrt(encoding.noise_variance),
                source=source,
            )
        self._banded.source = source
        return self._banded.next(round_number - 1)
