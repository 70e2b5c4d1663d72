"""From a private vector to what may leave: bounded, noised or encoded. The last step before the reply.

Two ways, by the plan. A silo adds its full Gaussian noise to floats. Across devices one user's bounded vector is rounded to
integers modulo 2**bits, with this client's share of the noise under `distributed`, and with none where the server adds it
to the sum. What never lives here: how large a bound or a noise is (`shared/privacy/plan.py`).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from shared.privacy.plan import PrivacyPlan
from shared.randomness import NoiseSource
from shared.secagg.encoding import RingEncoding
from shared.update import clip


def noised(vector: NDArray[np.float64], *, stddev: float, source: NoiseSource) -> NDArray[np.float32]:
    """Adds a silo's own noise to a sum of bounded contributions.

    Args:
        vector: Any shape (n,). (private)
        stddev: 0 adds none. (public)
        source: Noise.

    Returns:
        Shape (n,), float32: rounded only now, because rounding a clean sum could move it by more than the sensitivity.
    """
    return (vector + source.gaussian(len(vector), stddev=stddev)).astype(np.float32)


def clipped_update(update: NDArray[np.float32], *, plan: PrivacyPlan, l2_clip_norm: float) -> NDArray[np.float32]:
    """One user's whole update with L2 norm <= C, and under adaptive clipping a coordinate that says whether it was within.

    Guarantee:
        The result's L2 norm is at most plan.l2_bound(l2_clip_norm) * (1 + 2**-20), for every input; NaN and infinity count
        as zero.

    Args:
        update: (d,) float32. (private)
        plan: The share of adaptive clipping. (public)
        l2_clip_norm: This round's C. (public)

    Returns:
        (d,) or (d + 1,) float32.

    Source:
        Andrew, Thakkar, McMahan and Ramaswamy 2021, "Differentially Private Learning with Adaptive Clipping".
    """
    clipped = clip(update, l2_clip_norm=l2_clip_norm)
    if not plan.clipping_share:
        return clipped
    norm = float(np.linalg.norm(update.astype(np.float64)))
    bit = plan.clipping_bit(l2_clip_norm)
    return np.append(clipped, np.float32(bit if norm <= l2_clip_norm else -bit))


def pack(
    vector: NDArray[np.float32] | NDArray[np.float64], encoding: RingEncoding, *, plan: PrivacyPlan, source: NoiseSource
) -> NDArray[np.uint8]:
    """Encodes one bounded contribution, with this client's share of the noise if the plan has shares.

    Guarantee:
        The integers' L2 norm is at most encoding.l2_sensitivity before noise, whatever the vector is; the packed size
        depends on the encoding alone.

    Args:
        vector: (encoding.size,). (private)
        encoding: Bound, scale and modulus. (public)
        plan: The share. (public)
        source: Rounding and noise.

    Returns:
        Packed integers, uint8.
    """
    ring = encoding.encode(vector, source)
    if plan.noise_share:
        ring = encoding.add(ring, encoding.noise(source, share=plan.noise_share))
    return encoding.pack(ring)
