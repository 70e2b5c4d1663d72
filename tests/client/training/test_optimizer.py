"""Opacus' optimizer with our own clipping and noise: sums in float64, noise added once."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from client.training.optimizer import UserLevelOptimizer
from tests.plans import silo_plan

PLAN = silo_plan()


def test_sums_over_batches_do_not_lose_a_user_to_rounding() -> None:
    """In float32 2**24 + 1 is 2**24: whether one more user moves a sum would depend on the others."""
    for clients in (1, 2):
        adapters = torch.nn.Parameter(torch.zeros(clients, 1))
        optimizer = UserLevelOptimizer(
            torch.optim.SGD([adapters]), replace(PLAN, l2_clip_norm=1e9), divisor=1.0, precision=torch.float32
        )
        for value in (2.0**24, 1.0):
            optimizer.accumulate([torch.full((1, 1), value)], torch.tensor([clients - 1]))
        optimizer.add_noise(np.full((clients, 1), -(2.0**24), dtype=np.float32))
        assert adapters.grad[-1].item() == 1.0


def test_without_an_example_the_gradient_is_the_noise_over_the_divisor_and_nothing_of_the_last_step_stays() -> None:
    adapters = torch.nn.Parameter(torch.zeros(2, 3))
    optimizer = UserLevelOptimizer(torch.optim.SGD([adapters]), PLAN, divisor=4.0, precision=torch.float32)
    noise = np.arange(6, dtype=np.float32).reshape(2, 3)
    optimizer.accumulate([torch.full((1, 3), 0.01)], torch.tensor([1]))
    optimizer.add_noise(noise.copy())
    assert adapters.grad is not None and (adapters.grad.numpy() != noise).any()
    optimizer.add_noise(noise.copy())
    optimizer.scale_grad()
    np.testing.assert_array_equal(adapters.grad.numpy(), noise / 4)
