"""How far two computations of one number may lie apart: a bound from the arithmetic, the same on every processor.

Processors and libraries add up in different orders, and float addition is not associative: what is equal in mathematics
differs in its last digits, by how much depends on the machine. So no tolerance of a test is what one machine happened to
show. It is made of what is known beforehand: the type's precision, how many numbers are added up, and how many such sums
follow one another.

What lives here: that bound, and comparisons with it. What never does: a number that was measured.

Source:
    Higham and Mary 2019, "A New Approach to Probabilistic Rounding Error Analysis": after n roundings to precision u a
    result is off by at most lambda * sqrt(n) * u, relative to the magnitudes that went into it, with probability
    1 - 2 exp(-lambda**2 / 2).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from shared.model.recommender import Recommender

# Distance from 1 to the next float32; twice the largest relative error of one rounding.
FLOAT32 = float(np.finfo(np.float32).eps)
# Lambda: at 6 a result is beyond the bound once in 30 million.
_DEVIATIONS = 6.0
# What a softmax with scores of this size, or a norm that divides by a small number, makes of the error of its inputs.
_AMPLIFICATION = 4.0


def rounding(*, sums: int = 1, length: int = 1, epsilon: float = FLOAT32) -> float:
    """How far two results may lie apart, relative to the largest number that went into them.

    Args:
        sums: Sums that follow one another, e.g. matrix products of a network.
        length: Numbers in the longest of them.
        epsilon: Of the type that is summed in.

    Returns:
        Twice (once for each result) the bound on sums * length roundings of epsilon / 2.
    """
    return _DEVIATIONS * math.sqrt(sums * length) * epsilon


def of_model(model: nn.Module, *, backward: bool = False, stored: torch.dtype = torch.float32) -> float:
    """`rounding` of a network's outputs, or of its gradients.

    Every matrix of weights is a sum as long as the network's widest layer, and counted as if it followed all others; that
    covers what lies between them too (attention, norms). A backward pass has two more products for each.

    Args:
        model: The network.
        backward: Whether gradients are compared.
        stored: What the result of each sum is rounded to; it is summed in float32.
    """
    matrices = sum(weight.dim() == 2 for weight in model.parameters())
    sums = matrices * (3 if backward else 1)
    if stored != torch.float32:  # which is so much coarser that the roundings of the sums themselves do not matter
        return rounding(sums=sums, epsilon=torch.finfo(stored).eps)
    return _AMPLIFICATION * rounding(sums=sums, length=_longest_sum(model))


def of_scores(recommender: Recommender) -> float:
    """`of_model` of what a recommender makes of histories."""
    return of_model(recommender.attached.model)


def of_gradients(recommender: Recommender) -> float:
    """The same of gradients, and of updates that consist of a few of them."""
    return of_model(recommender.attached.model, backward=True)


def _longest_sum(model: nn.Module) -> int:
    sides = [(layer.in_features, layer.out_features) for layer in model.modules() if hasattr(layer, "in_features")]
    sides += [tuple(layer.weight.shape) for layer in model.modules() if isinstance(layer, Conv1D)]  # GPT-2's own
    return max(int(side) for pair in sides for side in pair)


def distance(found: Any, expected: Any) -> float:
    """The largest difference over the largest magnitude of what is expected; infinite if one is no number."""
    one, other = (_float64(values) for values in (found, expected))
    assert one.shape == other.shape, f"shapes {one.shape} and {other.shape}"
    scale = float(np.abs(other).max(initial=0.0))
    difference = float(np.abs(one - other).max(initial=0.0))
    if not np.isfinite(difference):
        return float("inf")
    return difference / scale if scale else difference


def assert_close(found: Any, expected: Any, *, within: float) -> None:
    """Fails unless two arrays are equal but for rounding: no difference is above `within` of the largest magnitude.

    A number much smaller than the others is what is left of larger ones, so its error is theirs.
    """
    apart = distance(found, expected)
    assert apart <= within, f"{apart:.3g} of the largest magnitude apart, where rounding explains {within:.3g}"


def _float64(values: Any) -> np.ndarray[Any, np.dtype[np.float64]]:
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu().double().numpy()
    return np.asarray(values, dtype=np.float64)
