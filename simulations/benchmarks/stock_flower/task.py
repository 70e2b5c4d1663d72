"""Model, data and one private local step of the stock app, laid out as Flower's own examples lay them out.

The app is the peer that `against_flower` measures, so it is written the way Flower's quickstart and its Opacus example are:
one message a client, `ArrayRecord`s of named tensors, an Opacus `PrivacyEngine` made for every message, `FedAvg`. It gets
every help that a careful user would give it: the backbone, the item texts and the histories are loaded once a Ray actor (a
module's globals outlive a message only where the module can be imported), only the trained tensors travel, nothing is
evaluated. The privacy engine's epsilon is not asked for: after one message it is that message's alone, and costs time.

What never lives here: the project's own training, clipping, noise or messages. Model, data and split are the project's,
because both sides have to do the same arithmetic.

Source:
    The examples `quickstart-pytorch` and `opacus` of https://github.com/adap/flower, in the Message API of flwr 1.41.
"""

from __future__ import annotations

import json
import random
import warnings
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from opacus import PrivacyEngine
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from shared.config import RunConfig
from shared.data.catalog import ItemCatalog
from shared.data.splitting import split
from shared.model.recommender import Recommender, build
from simulations.preparing import dataset_of

# Opacus warns, for every message, that its noise is not from a secure source and that Poisson sampling of one example may
# give an empty batch; torch, that the first adapted layer's input needs no gradient.
warnings.filterwarnings("ignore", module="opacus")
warnings.filterwarnings("ignore", message="Full backward hook is firing")


@lru_cache(maxsize=1)
def load_model(settings: str) -> Recommender:
    """The recommender with its adapter, once a process.

    Args:
        settings: JSON object of the `RunConfig` keys that differ from their defaults. (public)
    """
    config, catalog, _ = _read(settings)
    return build(config, catalog)


def num_users(settings: str) -> int:
    """How many clients there are: users with at least one interaction to learn from another."""
    return len(_read(settings)[2])


def load_data(settings: str, partition_id: int) -> DataLoader[tuple[Tensor, Tensor]]:
    """One client's data: one user, one example, batches of one."""
    config, _, histories = _read(settings)
    return DataLoader(OneUser(histories[partition_id], length=config.model.max_history_length), batch_size=1)


@lru_cache(maxsize=1)
def _read(settings: str) -> tuple[RunConfig, ItemCatalog, list[NDArray[np.int64]]]:
    config = RunConfig.from_mapping(json.loads(settings))
    dataset = dataset_of(config)
    found = split(dataset.interactions, dataset.catalog, method=config.data.split, seed=config.run.seed).histories
    histories = [history.to_numpy().astype(np.int64) for history in found["train"]]
    return config, dataset.catalog, [history for history in histories if len(history) >= 2]


class OneUser(Dataset[tuple[Tensor, Tensor]]):
    """A user's history as one example: a random window of at most L + 1 interactions, anew each time.

    Args:
        history: Catalog rows in time order, two or more. (private)
        length: L, the most interactions that the model reads.
    """

    def __init__(self, history: NDArray[np.int64], *, length: int) -> None:
        self._history = history
        self._length = length

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """The model's input, and at each position the item that follows."""
        start = random.randint(0, max(0, len(self._history) - self._length - 1))
        window = torch.from_numpy(self._history[start : start + self._length + 1])
        return window[:-1], window[1:]


def get_weights(recommender: Recommender) -> dict[str, Tensor]:
    """The trained tensors by name; the frozen ones never travel."""
    return {name: parameter.detach() for name, parameter in recommender.attached.trained}


@torch.no_grad()
def set_weights(recommender: Recommender, weights: dict[str, Tensor]) -> None:
    """Overwrites the trained tensors."""
    for name, parameter in recommender.attached.trained:
        parameter.copy_(weights[name])


def train(
    recommender: Recommender,
    loader: DataLoader[tuple[Tensor, Tensor]],
    *,
    learning_rate: float,
    max_grad_norm: float,
    noise_multiplier: float,
) -> float:
    """One epoch, which is one step, of plain SGD through Opacus; returns the loss."""
    model, optimizer, private_loader = PrivacyEngine().make_private(
        module=recommender.attached.model,
        optimizer=torch.optim.SGD(recommender.attached.parameters, lr=learning_rate),
        data_loader=loader,
        noise_multiplier=noise_multiplier,
        max_grad_norm=max_grad_norm,
    )
    losses = []
    try:
        for inputs, targets in private_loader:
            optimizer.zero_grad()
            scores = model(inputs.to(recommender.device))
            loss = nn.functional.cross_entropy(scores.flatten(0, 1), targets.to(recommender.device).flatten())
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            losses.append(loss.item())
    finally:
        # The model stays in this process, and the next message's engine puts hooks of its own on it.
        model.to_standard_module()
    return float(np.mean(losses))
