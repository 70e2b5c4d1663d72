"""Aggregation: the mean of flat updates with public constant weights, then a server optimizer.

Every client counts the same, whatever it says about itself: a weight a client could choose would change both
the noise in the mean and who dominates it. With FFA-LoRA the mean of the updates is the exact mean of the
clients' products BA.

Source:
    McMahan et al. 2017 (FedAvg); Reddi et al. 2021, "Adaptive Federated Optimization", Alg. 2 (server
    optimizers).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from shared.config import ServerSection


def mean_update(updates: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """The unweighted mean of at least one update, summed in float64; shape (d,), float32."""
    total = np.zeros_like(updates[0], dtype=np.float64)
    for update in updates:
        total += update
    return (total / len(updates)).astype(np.float32)


def popularity_prior(counts: Sequence[NDArray[np.float32]], *, noise_stddev: float) -> NDArray[np.float32]:
    """Log-probabilities from the sum of the clients' counts.

    Counts below the noise say nothing and are raised to it; that is post-processing of a released value and
    costs no budget.

    Args:
        counts: One (I,) array a client. (public once noised)
        noise_stddev: Of the noise in the sum; 0 without privacy. (public)

    Returns:
        Shape (I,), float32, log-probabilities that sum to 1 after exp.
    """
    total = np.sum(np.stack(counts).astype(np.float64), axis=0)
    # Without noise the floor keeps never-seen items possible; 0.05 is half a contribution of a 100-item
    # history.
    raised = np.maximum(total, max(noise_stddev, 0.05))
    prior: NDArray[np.float32] = np.log(raised / raised.sum()).astype(np.float32)
    return prior


class ServerOptimizer:
    """Applies mean updates to the adapter through a `torch.optim` optimizer; an update is minus its gradient.

    Args:
        adapter: Shape (d,), float32; where to start.
        config: Which optimizer.
    """

    def __init__(self, adapter: NDArray[np.float32], config: ServerSection) -> None:
        self._parameter = torch.nn.Parameter(torch.from_numpy(adapter.copy()))
        self._optimizer: torch.optim.Optimizer
        if config.optimizer == "adam":
            self._optimizer = torch.optim.Adam([self._parameter], lr=config.learning_rate)
        else:
            self._optimizer = torch.optim.SGD([self._parameter], lr=config.learning_rate, momentum=config.momentum)

    @property
    def adapter(self) -> NDArray[np.float32]:
        """A copy of the current adapter, shape (d,), float32."""
        return self._parameter.detach().numpy().copy()

    def step(self, update: NDArray[np.float32]) -> None:
        """Moves the adapter by one mean update."""
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
