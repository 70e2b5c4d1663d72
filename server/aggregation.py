"""Aggregation: the sum of bounded contributions, over a public constant, then a server optimizer.

Two kinds of sum. Silos send floats that carry their own noise, and the mean is over those who answered. Across devices one
user's contribution is a vector of integers modulo 2**bits: the modular sum is exact, the noise is in it (clients' shares) or
added to it (`server/noise.py`) before anything is decoded, and the divisor is the expected cohort. The plain modular sum
here sees every summand; a secure one (`server/masked_sum.py`) gives the sum alone.

Every client counts the same, whatever it says about itself: a weight a client could choose would change both
the noise in the mean and who dominates it. With FFA-LoRA the mean of the updates is the exact mean of the
clients' products BA; where A is trained too, `product_mean.py` adds up the products.

Clients may train a prefix of the rank. A coordinate's mean is then over the clients that have it, so that a small client
neither drags the rest toward zero nor slows it down; across devices, where nobody sees who sent what, the divisor of
each coordinate is the number expected to have it, a public constant too. (A lower limit of a device's own is in no public
constant; what such a device lacks counts as zero there.)

Source:
    McMahan et al. 2017 (FedAvg); Reddi et al. 2021, "Adaptive Federated Optimization", Alg. 2 (server
    optimizers); Cho et al. 2024, "Heterogeneous LoRA for Federated Fine-tuning of On-Device Foundation Models" (clients
    take the global adapter's prefix; there what they send is padded with zeros and weighted by its norm).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from shared.config import ServerSection
from shared.model.low_rank import Pair, prefix_mask
from shared.protocol.wire import SparseValues
from shared.secagg.encoding import RingEncoding

_CLIP_RATE = 0.2
# In standard deviations of the noise; it goes no lower in a catalog of a billion items, and log(1 + exp()) stays above 0.
_LOWEST_COUNT = -7.0
_CLIP_RANGE = 100.0


class FloatSum:
    """Adds float contributions up as they come, so that none has to be kept; in float64.

    Guarantee:
        With a bound the sum is the same to the last bit in whatever order they come: over a network that is chance.

    Args:
        size: Values of each.
        l2_bound: Public bound on the length of each; values are rounded to a grid of 2**-44 of it, on which sums of 512 are
            exact.
    """

    def __init__(self, size: int, l2_bound: float = math.inf) -> None:
        self.total: NDArray[np.float64] = np.zeros(size)
        self._grid = _grid(l2_bound)
        self.count = 0

    def add(self, contribution: NDArray[Any] | SparseValues) -> None:
        """Adds one of shape (size,)."""
        if isinstance(contribution, SparseValues):
            self.total[contribution.places] += _rounded(contribution.values, self._grid)
        else:
            self.total += _rounded(contribution, self._grid)
        self.count += 1

    def mean(self) -> NDArray[np.float32]:
        """The unweighted mean of at least one contribution; shape (size,), float32."""
        return (self.total / self.count).astype(np.float32)


class PrefixSum:
    """Adds updates up as they come, of which some hold a prefix of the rank alone.

    Args:
        size: d.
        l2_bound: As in `FloatSum`.
    """

    def __init__(self, size: int, l2_bound: float = math.inf) -> None:
        self._total: NDArray[np.float64] = np.zeros(size)
        self._grid = _grid(l2_bound)
        self._lacking: NDArray[np.int64] | None = None
        self.count = 0

    def add(self, update: NDArray[np.float32], held: NDArray[np.bool_] | None = None) -> None:
        """Adds one, (size,); zero where it is not `held`, which by default it is everywhere."""
        self._total += _rounded(update, self._grid)
        self.count += 1
        if held is not None:
            self._lacking = (~held).astype(np.int64) if self._lacking is None else self._lacking + ~held

    def mean(self) -> NDArray[np.float32]:
        """Each coordinate's mean over those that have it; 0 where nobody has. Shape (size,), float32."""
        having = self.count - (0 if self._lacking is None else self._lacking)
        return (self._total / np.maximum(having, 1)).astype(np.float32)


# Bits of a float64's 53 that a contribution takes; the others are for the sum of up to 2**9 of them.
_GRID_BITS = 44


def _grid(l2_bound: float) -> float:
    """The distance of the values on which contributions are rounded; 0 for none. A power of two, so that sums are exact."""
    return 0.0 if not math.isfinite(l2_bound) else 2.0 ** (math.ceil(math.log2(max(l2_bound, 1e-200))) - _GRID_BITS)


def _rounded(values: NDArray[Any], grid: float) -> NDArray[Any]:
    return values if grid == 0.0 else np.rint(values.astype(np.float64) / grid) * grid


@dataclass(frozen=True, eq=False)
class Aggregation:
    """How the updates of one run become one.

    Attributes:
        pairs: Where each module's factors lie in an update.
        products: Whether their products are added up, rather than the tensors.
        shares: (d,), across devices: the share of the clients that train each coordinate; None where all train all. (public)
    """

    pairs: Sequence[Pair] = ()
    products: bool = False
    shares: NDArray[np.float64] | None = None

    def divided(self, total: NDArray[np.float64], expected_cohort: float) -> NDArray[np.float32]:
        """A noised sum over the clients expected to have each coordinate; 0 where nobody has it."""
        if self.shares is None:
            return (total / expected_cohort).astype(np.float32)
        over = np.where(self.shares > 0, expected_cohort * self.shares, np.inf)
        return (total / over).astype(np.float32)


def held_shares(pairs: Sequence[Pair], size: int, largest_ranks: Sequence[int]) -> NDArray[np.float64] | None:
    """The share of the clients that is expected to train each coordinate, where each has one of the ranks by chance.

    Args:
        pairs: Where each module's factors lie.
        size: d.
        largest_ranks: One of which each client has; empty where all train all.

    Returns:
        Shape (d,), in [0, 1]; None where all train all.
    """
    if not largest_ranks:
        return None
    held = np.stack([prefix_mask(pairs, size, rank) for rank in largest_ranks])
    return np.asarray(held.mean(axis=0), dtype=np.float64)


class RingSum:
    """Adds ring integers up as they come: the exact sum modulo 2**bits, in whatever order.

    Args:
        encoding: Size and modulus.
    """

    def __init__(self, encoding: RingEncoding) -> None:
        self._encoding = encoding
        self._total = np.zeros(encoding.dimension, dtype=np.uint32)
        self.count = 0

    def add(self, contribution: NDArray[Any] | SparseValues) -> None:
        """Adds one: packed, (encoding.packed_bytes,) uint8, or where it never left the process (encoding.dimension,) uint32.

        Raises:
            ProtocolViolation: If it is neither; the sum stays as it was.
        """
        if isinstance(contribution, SparseValues):
            self._total[contribution.places] += contribution.values.astype(np.uint32)  # different places
            self.count += 1
            return
        if contribution.dtype != np.uint32 or contribution.shape != self._total.shape:
            contribution = self._encoding.unpack(contribution)
        self._total += contribution  # modulo 2**32, of which 2**bits is a divisor
        self.count += 1

    def take(self, total: NDArray[np.uint32], count: int) -> None:
        """Takes a sum that was formed elsewhere: one of so many contributions, of which no single one was seen."""
        self._total, self.count = total, count

    @property
    def total(self) -> NDArray[np.uint32]:
        """The sum, values in [0, 2**bits)."""
        return self._encoding.add(self._total, np.zeros_like(self._total))


def raised_counts(total: NDArray[np.float64], *, noise_stddev: float) -> NDArray[np.float64]:
    """Counts of at least the noise in them; without noise a floor keeps never-seen items possible.

    0.05 is half a contribution of a 100-item history.
    """
    return np.maximum(total, max(noise_stddev, 0.05))


def popularity_prior(total: NDArray[np.float64], *, noise_stddev: float) -> NDArray[np.float32]:
    """Log-probabilities from the sum of the clients' counts.

    Under noise a count y becomes s log(1 + exp(y / s)), s the noise's standard deviation: y itself where it is well above
    the noise, and below zero a factor e less for each s, so that what little the noise leaves of the order of rare items
    counts. Raised to the noise instead, all rare items would be as likely as one that is just above it. That matters where
    most of a catalog is below the noise: on Amazon Scientific NDCG@10 goes from .0784, .0747, .0741 to .0806, .0772, .0772
    at epsilon 8, 2, 1; on MovieLens it stays within the noise (three draws each, `simulations/README.md`, which has milder
    rules too). It is post-processing of a released value and costs no budget.

    Args:
        total: (I,), the sum of all contributions. (public once noised)
        noise_stddev: Of the noise in the sum; 0 without privacy. (public)

    Returns:
        Shape (I,), float32, log-probabilities that sum to 1 after exp.
    """
    counts = raised_counts(total, noise_stddev=0.0)
    if noise_stddev:
        counts = noise_stddev * np.logaddexp(0.0, np.maximum(total / noise_stddev, _LOWEST_COUNT))
    prior: NDArray[np.float32] = np.log(counts / counts.sum()).astype(np.float32)
    return prior


def next_clip_norm(
    l2_clip_norm: float, *, bits_sum: float, bit: float, expected_cohort: float, quantile: float, start: float
) -> float:
    """Moves the clip norm toward a quantile of the norms: post-processing of a noised count.

    Args:
        l2_clip_norm: This round's C.
        bits_sum: Noised sum over the cohort of +bit (norm within C), -bit (above) or 0 (no update). (public)
        bit: Absolute value of a bit.
        expected_cohort: Public constant.
        quantile: Share of norms that should be within C.
        start: First C; the norm stays within a factor 100 of it, so that noise cannot carry it away.

    Source:
        Andrew et al. 2021, the geometric update; rate 0.2 as there.
    """
    within = min(max(0.5 * (bits_sum / bit / expected_cohort + 1.0), 0.0), 1.0)
    moved = l2_clip_norm * math.exp(-_CLIP_RATE * (within - quantile))
    return min(max(moved, start / _CLIP_RANGE), start * _CLIP_RANGE)


class ServerOptimizer:
    """Applies mean updates to the adapter through a `torch.optim` optimizer; an update is minus its gradient.

    Args:
        adapter: Shape (d,), float32; where to start.
        config: Which optimizer.
    """

    def __init__(self, adapter: NDArray[np.float32], config: ServerSection) -> None:
        self._parameter = torch.nn.Parameter(torch.from_numpy(adapter.copy()))
        self._learning_rate = config.learning_rate
        self._optimizer: torch.optim.Optimizer
        if config.optimizer == "adam":
            self._optimizer = torch.optim.Adam([self._parameter], lr=config.learning_rate)
        else:
            self._optimizer = torch.optim.SGD([self._parameter], lr=config.learning_rate, momentum=config.momentum)

    @property
    def adapter(self) -> NDArray[np.float32]:
        """A copy of the current adapter, shape (d,), float32."""
        return self._parameter.detach().numpy().copy()

    def step(self, update: NDArray[np.float32], *, rate_factor: float = 1.0) -> None:
        """Moves the adapter by one mean update; `rate_factor` scales the learning rate of this step."""
        for group in self._optimizer.param_groups:
            group["lr"] = self._learning_rate * rate_factor
        self._parameter.grad = torch.from_numpy(-update)
        self._optimizer.step()

    def state(self) -> dict[str, Any]:
        """What `load` needs to go on exactly as before."""
        return self._optimizer.state_dict()

    def load(self, adapter: NDArray[np.float32], state: dict[str, Any]) -> None:
        """Restores adapter and optimizer."""
        with torch.no_grad():
            self._parameter.copy_(torch.from_numpy(adapter))
        self._optimizer.load_state_dict(state)
