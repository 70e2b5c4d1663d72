"""From private vectors to what may leave: bounded, noised or encoded. The last step before the reply; one row a client.

Only this file makes vectors `Bounded`; it clips each of them once. The plan then decides between two ways. A silo adds its
full Gaussian noise to floats. Across devices one user's bounded vector is rounded to integers modulo 2**bits, with this
client's share of the noise under `distributed`, and with none where the server adds it to the sum.

A simulation that plays many clients in one process adds them up there and sends nothing: it draws the sum of their shares
at once, which is distributed as the shares' sum and costs one draw (`shares_of_noise`). What never lives here: how large a
bound or a noise is (`shared/privacy/plan.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from client.statistics.sparse import SparseRows
from shared.model.state import clip_rows
from shared.privacy.plan import PrivacyPlan
from shared.protocol.messages import ContributionReply
from shared.protocol.wire import SparseValues
from shared.randomness import NoiseSource
from shared.secagg.encoding import Bounded, RingEncoding


def noised(vectors: NDArray[np.float64], *, stddev: float, sources: Sequence[NoiseSource]) -> NDArray[np.float32]:
    """Adds each silo's own noise to its sum of bounded contributions.

    Args:
        vectors: (N, n). (private)
        stddev: 0 adds none. (public)
        sources: Noise, one a client.

    Returns:
        (N, n), float32: rounded only now, because rounding a clean sum could move it by more than the sensitivity.
    """
    noise = np.stack([source.gaussian(vectors.shape[1], stddev=stddev) for source in sources])
    return (vectors + noise).astype(np.float32)


def bounded(vectors: NDArray[np.floating], *, l2_bound: float) -> Bounded:
    """Scales each vector that is longer than the bound down to it.

    Guarantee:
        The L2 norm of a row is at most l2_bound * (1 + 2**-22), for every input; a row with NaN, infinity or a value beyond
        float32 counts as zero.

    Args:
        vectors: (N, n), taken as float32. (private)
        l2_bound: C > 0. (public)
    """
    with np.errstate(over="ignore", invalid="ignore"):  # a value beyond float32 becomes infinite, and its row is zeroed
        return Bounded(clip_rows(vectors.astype(np.float32, copy=False), l2_clip_norm=l2_bound), l2_bound)


def clipped_updates(updates: NDArray[np.float32], *, plan: PrivacyPlan, l2_clip_norm: float) -> Bounded:
    """Each user's whole update with L2 norm <= C, and under adaptive clipping a coordinate that says whether it was within.

    Guarantee:
        The L2 norm of a row is at most plan.l2_bound(l2_clip_norm) * (1 + 2**-20), for every input; a row with NaN or
        infinity counts as zero. A row without an update is all zeros, the coordinate included, so the bound on a row is
        also the largest distance between a row and that of a user whose data were taken out: under add-or-remove-one and
        under zero-out one user moves the sum by at most that much.

    Args:
        updates: (N, d) float32. (private)
        plan: The share of adaptive clipping. (public)
        l2_clip_norm: This round's C. (public)

    Returns:
        (N, d) or (N, d + 1), bounded by plan.l2_bound(l2_clip_norm).

    Source:
        Andrew, Thakkar, McMahan and Ramaswamy 2021, "Differentially Private Learning with Adaptive Clipping".
    """
    clipped = clip_rows(updates, l2_clip_norm=l2_clip_norm)
    l2_bound = plan.l2_bound(l2_clip_norm)
    if not plan.clipping_share:
        return Bounded(clipped, l2_bound)
    norms = np.linalg.norm(updates.astype(np.float64), axis=1)
    bit = plan.clipping_bit(l2_clip_norm)
    # A user without data must send no bit: +bit would be 2 * bit away from the -bit of a user whose norm is above C.
    says = np.where(norms <= l2_clip_norm, bit, -bit) * clipped.any(axis=1)
    return Bounded(np.hstack([clipped, says.astype(np.float32)[:, None]]), l2_bound)


def encoded(
    vectors: Bounded,
    encoding: RingEncoding,
    *,
    plan: PrivacyPlan,
    sources: Sequence[NoiseSource],
) -> NDArray[np.uint32]:
    """Encodes bounded contributions and adds their clients' shares of the noise if the plan has shares.

    Guarantee:
        The L2 norm of a row's integers is at most encoding.l2_sensitivity before noise, whatever the vector is; the packed
        size depends on the encoding alone. One row carries its share; the sum of several carries all of theirs.

    Args:
        vectors: N vectors of encoding.size values, within encoding.l2_bound. (private)
        encoding: Bound, scale and modulus. (public)
        plan: The share. (public)
        sources: Rounding and noise, one a client.

    Returns:
        (N, D) ring integers.
    """
    ring = encoding.encode_rows(vectors, sources)
    for place, noise in shares_of_noise(encoding, plan=plan, sources=sources):
        ring[place] = encoding.add(ring[place], noise)
    return ring


def shares_of_noise(
    encoding: RingEncoding, *, plan: PrivacyPlan, sources: Sequence[NoiseSource]
) -> Iterator[tuple[int, NDArray[np.uint32]]]:
    """The clients' shares of the noise, each with the place of the contribution that carries it; none if the plan has none.

    Clients of one source are of one process, which adds their contributions up: the sum of their shares is drawn once, and
    the first contribution carries it. A client with a source of its own, or under masks, whose contribution may be
    missing from the sum alone, carries its own share.

    Guarantee:
        The sum of what is yielded is distributed as the sum of one independent share a client.

    Args:
        encoding: Scale, modulus and the whole noise. (public)
        plan: The share. (public)
        sources: One a client.

    Yields:
        A place among the clients, and (D,) ring integers.
    """
    if not plan.noise_share:
        return
    if not plan.masks_contributions and len({id(source) for source in sources}) == 1:
        yield 0, encoding.noise(sources[0], share=plan.noise_share, shares=len(sources))
        return
    for place, source in enumerate(sources):
        yield place, encoding.noise(source, share=plan.noise_share)


def in_the_ring(
    vectors: NDArray[np.float64] | SparseRows, encoding: RingEncoding, *, plan: PrivacyPlan, sources: Sequence[NoiseSource]
) -> list[ContributionReply]:
    """Contributions, bounded and encoded; sparse vectors stay sparse where no noise is added to them."""
    l2_bound = encoding.l2_bound
    if not isinstance(vectors, SparseRows):
        within = bounded(vectors, l2_bound=l2_bound)
        return [ContributionReply(row, encoding) for row in encoded(within, encoding, plan=plan, sources=sources)]
    parts = (vectors.row(number) for number in range(len(vectors)))
    rings = [(places, encoding.encode_sparse(bounded(values[np.newaxis], l2_bound=l2_bound))) for places, values in parts]
    replies = [ContributionReply(SparseValues(encoding.dimension, places, ring), encoding) for places, ring in rings]
    for place, noise in shares_of_noise(encoding, plan=plan, sources=sources):
        places, ring = rings[place]
        noise[places] = encoding.add(noise[places], ring)
        replies[place] = ContributionReply(noise, encoding)
    return replies


def as_floats(
    vectors: NDArray[np.float64] | SparseRows, *, stddev: float, sources: Sequence[NoiseSource]
) -> list[ContributionReply]:
    """A silo's sums under its own noise; sparse ones stay so where there is none."""
    if not isinstance(vectors, SparseRows):
        return [ContributionReply(row) for row in noised(vectors, stddev=stddev, sources=sources)]
    if not stddev:
        parts = (vectors.row(number) for number in range(len(vectors)))
        return [ContributionReply(SparseValues(vectors.size, at, some.astype(np.float32))) for at, some in parts]
    rows = (vectors.dense(number)[np.newaxis] for number in range(len(vectors)))
    each = (noised(row, stddev=stddev, sources=[own]) for row, own in zip(rows, sources, strict=True))
    return [ContributionReply(row[0]) for row in each]
