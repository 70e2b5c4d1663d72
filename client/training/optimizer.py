"""Opacus' optimizer over the adapters of one or many clients, with user-level clipping and our own noise.

The one module of local training that imports Opacus' optimizers: who adds no noise to local steps does without. Why its own
clipping and noise are replaced stands in `dp_sgd.py`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from opacus.optimizers import DPOptimizer
from torch import Tensor

from client.training.clipping import add_rows, clip_factors, clipped_sums, with_margin, without_faulty
from shared.privacy.plan import PrivacyPlan


class UserLevelOptimizer(DPOptimizer):  # type: ignore[misc]
    """Opacus' optimizer, its clipping and noise replaced as the module's docstring says."""

    def __init__(self, optimizer: torch.optim.Optimizer, plan: PrivacyPlan, divisor: float, precision: torch.dtype) -> None:
        super().__init__(
            optimizer,
            noise_multiplier=plan.noise_multiplier,
            max_grad_norm=with_margin(plan.l2_clip_norm, precision),
            expected_batch_size=None,
            loss_reduction="sum",
        )
        self._divisor = divisor
        self._forget()

    def accumulate(self, samples: Sequence[Tensor], rows: Tensor) -> None:
        """Clips the gradients of the examples just seen and adds them to their clients' running sums.

        Args:
            samples: One tensor a parameter, (B, ...) float32. (private)
            rows: (B,) int64, the client each belongs to. (private)
        """
        (adapters,) = self.params
        if adapters.summed_grad is None:
            # In float32 a sum over many users would lose one of them to rounding.
            adapters.summed_grad = torch.zeros_like(adapters, dtype=torch.float64)
        if len(adapters) == 1:
            total = torch.cat([part.reshape(-1) for part in clipped_sums(samples, self.max_grad_norm)])
            adapters.summed_grad[0] += total
            return
        factor, finite = clip_factors(samples, self.max_grad_norm)
        add_rows(adapters.summed_grad, without_faulty(samples, finite), factor, rows)

    def add_noise(self, noise: NDArray[np.float32]) -> None:
        """Turns the sums into noised gradients; rounded to float32 only then.

        Args:
            noise: (clients, d), used once.
        """
        (adapters,) = self.params
        drawn = torch.from_numpy(noise).to(adapters.device)
        total = adapters.summed_grad
        adapters.grad = drawn if total is None else (total + drawn).float()
        self._forget()

    def scale_grad(self) -> None:
        """Divides by the public constant."""
        for parameter in self.params:
            parameter.grad /= self._divisor

    def _forget(self) -> None:
        for parameter in self.params:
            parameter.summed_grad = None
