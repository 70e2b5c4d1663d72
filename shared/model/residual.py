"""What exact aggregation could not fit into the adapter: one matrix a module, added to its frozen weight.

It is part of what was learned: the server makes it (`server/product_mean.py`), clients get it with the adapter, checkpoints
and the released folder hold it. It is as large as the adapted weights, because a sum of many clients' products has no small
rank; who cannot afford that uses `adapter.aggregation = stack`. It is never trained and never sent by a client.

Source:
    Singhal, Ponkshe and Vepakomma 2024, "FedEx-LoRA" (what the average cannot hold goes into the frozen weight).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from shared.errors import CheckpointError
from shared.files import write_atomically
from shared.model.low_rank import Pair
from shared.model.sequence_recommender import ZeroLinear

RESIDUAL = "residual.safetensors"


class Residual:
    """The residual of one model.

    Args:
        model: With its LoRA layers in place; the frozen weights of these are changed by `load`.
        pairs: The layers.
    """

    def __init__(self, model: nn.Module, pairs: Sequence[Pair]) -> None:
        self._pairs = tuple(pairs)
        self._layers: list[Any] = [model.get_submodule(pair.module) for pair in pairs]
        self._frozen: list[torch.Tensor] = []
        self.size = sum(pair.size for pair in pairs)
        self.vector: NDArray[np.float32] = np.zeros(self.size, dtype=np.float32)

    def matrices(self, vector: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        """Views of a flat residual (size,), one (out, in) a module."""
        ends = np.cumsum([pair.size for pair in self._pairs])[:-1]
        parts = zip(self._pairs, np.split(vector, ends), strict=True)
        return [part.reshape(pair.out_features, pair.in_features) for pair, part in parts]

    @torch.no_grad()
    def load(self, vector: NDArray[np.float32]) -> None:
        """Sets the frozen weights to what they were plus scaling times the residual.

        Args:
            vector: Shape (size,), float32; or empty, which means zero.

        Raises:
            CheckpointError: If it has another size.
        """
        if len(vector) == 0:
            vector = np.zeros(self.size, dtype=np.float32)
        if vector.shape != (self.size,):
            raise CheckpointError(
                f"Expected a residual of {self.size} values, got shape={vector.shape}. It belongs to another catalog or "
                "configuration."
            )
        if np.array_equal(vector, self.vector):
            return
        if not self._frozen:
            self._frozen = [_frozen(layer.get_base_layer()) for layer in self._layers]
        for layer, frozen, matrix in zip(self._layers, self._frozen, self.matrices(vector), strict=True):
            added = torch.from_numpy(matrix) * layer.scaling["default"]
            base = layer.get_base_layer()
            weight = frozen + (added.T if keeps_transposed(base) else added)
            if isinstance(base, ZeroLinear):
                base.set_weight(weight.to(base.weight.device))
            else:
                base.weight.copy_(weight)
        self.vector = vector.copy()

    def save(self, folder: Path) -> None:
        """Writes `residual.safetensors`: a matrix (out, in) a module, before it is scaled."""
        from safetensors.numpy import save

        named = {pair.module: matrix for pair, matrix in zip(self._pairs, self.matrices(self.vector), strict=True)}
        write_atomically(folder / RESIDUAL, lambda stream: stream.write(save(named)))

    def read(self, folder: Path) -> None:
        """Loads what `save` wrote.

        Raises:
            CheckpointError: If the file is absent, damaged, or does not fit the model.
        """
        from safetensors.numpy import load_file

        try:
            named = load_file(folder / RESIDUAL)
            parts = [named[pair.module].astype(np.float32) for pair in self._pairs]
            if any(part.shape != matrix.shape for part, matrix in zip(parts, self.matrices(self.vector), strict=True)):
                raise ValueError
        except Exception as error:  # safetensors raises its own, and several of Python's
            raise CheckpointError(
                f"Expected a readable {RESIDUAL} in {folder.name}/, got {type(error).__name__}. It is part of what "
                "was learned with adapter.aggregation=residual; use the run that wrote it."
            ) from error
        self.load(np.concatenate([part.ravel() for part in parts]))


def _frozen(base: Any) -> torch.Tensor:
    """A copy of a layer's weight before anything was added; of a weight of zeros one number."""
    return torch.zeros(1) if isinstance(base, ZeroLinear) else base.weight.detach().cpu().clone()


def keeps_transposed(base: nn.Module) -> bool:
    """Whether a layer keeps its weight (in, out): GPT-2's linear layers, and an embedding's table."""
    from transformers.pytorch_utils import Conv1D

    return isinstance(base, nn.Embedding | Conv1D)
