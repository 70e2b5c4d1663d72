"""Per-example gradients -> sums of bounded ones: the sensitivity of every local step rests on this file.

Norms are taken in float32 whatever the precision of the forward pass, because bfloat16 norms overshoot the bound by 0.4 %;
sums are made in float64, because a float32 sum of many users is rounded by more than one of them may move it. An example
whose gradient is not finite counts as zero. What never lives here: where gradients come from
(`gradients.py`), noise (`optimizer.py`).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

# Clipping aims at C / (1 + margin), by the precision of the forward pass. The margin covers the float32 rounding of a norm
# over d values, and what another user's presence could change in the rounding of the others' gradients if a processor's
# matrix product of some rows depended on how many rows there are: passes are made so that nothing else can
# (`batches.passes`). Rounding is about 1e-7 of a gradient in float32, and up to 5e-3 in bfloat16.
_MARGINS = {torch.float32: 2.0**-14, torch.bfloat16: 2.0**-8}


def with_margin(l2_clip_norm: float, precision: torch.dtype) -> float:
    """The norm that gradients are scaled to, so that a sum of them moves by at most `l2_clip_norm` in that precision."""
    return l2_clip_norm / (1.0 + _MARGINS[precision])


def clipped_sums(samples: Sequence[Tensor], l2_clip_norm: float) -> list[Tensor]:
    """Scales each user's whole gradient down to an L2 norm and adds the users up.

    Guarantee:
        Adding or removing one user moves the result by at most l2_clip_norm, up to the rounding that `with_margin` leaves
        room for, in L2 norm over all tensors together, whatever their shapes, one value a user included. A user with NaN or
        infinity anywhere, or with a norm beyond float32, counts as zero.

    Args:
        samples: One tensor a parameter, (B, ...) float32. (private)
        l2_clip_norm: From `with_margin`, > 0. (public)

    Returns:
        One tensor a parameter, float64, without the leading B.
    """
    factor, finite = clip_factors(samples, l2_clip_norm)
    # The closed form's longer side may be the inner one in memory; flattened in that order nothing is copied.
    turned = [sample.dim() == 3 and sample.mT.is_contiguous() for sample in samples]
    dense = [sample.mT if turn else sample for sample, turn in zip(without_faulty(samples, finite), turned, strict=True)]
    sums = [(factor.double() @ sample.reshape(len(sample), -1).double()).view(sample.shape[1:]) for sample in dense]
    return [total.mT if turn else total for total, turn in zip(sums, turned, strict=True)]


def clip_factors(samples: Sequence[Tensor], l2_clip_norm: float) -> tuple[Tensor, Tensor]:
    """What each example's gradient is multiplied by, (B,), and whether it is finite; 0 where it is not."""
    flat = [(part.mT if part.dim() == 3 and part.mT.is_contiguous() else part).reshape(len(part), -1) for part in samples]
    norms = torch.stack([torch.linalg.vector_norm(rows, dim=1) for rows in flat]).norm(dim=0)
    finite = norms.isfinite()
    factor = (l2_clip_norm / norms.clamp(min=1e-30)).clamp(max=1.0)
    return torch.where(finite, factor, 0.0), finite


def without_faulty(samples: Sequence[Tensor], finite: Tensor) -> Sequence[Tensor]:
    """The gradients with zeros where one is not finite: 0 * infinity is NaN, so such rows are overwritten, not scaled."""
    if finite.all():
        return samples
    return [torch.where(finite.view(-1, *[1] * (sample.dim() - 1)), sample, 0.0) for sample in samples]


def add_rows(sums: Tensor, samples: Sequence[Tensor], factor: Tensor, rows: Tensor) -> None:
    """Adds factor[b] * sample[b] to row rows[b] of `sums` (clients, d), parameter after parameter."""
    start = 0
    for sample in samples:
        size = sample[0].numel()
        scaled = sample * factor.view(-1, *[1] * (sample.dim() - 1))
        part = sums[:, start : start + size].unflatten(1, sample.shape[1:])  # type: ignore[no-untyped-call]
        part.index_add_(0, rows, scaled.to(sums.dtype))
        start += size
