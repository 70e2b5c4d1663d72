"""The LoRA adapter: attach, flatten, load, save. The only importer of `peft`.

What travels is one flat float32 array of the *trained* tensors in the order of their names: a message of one array is
ten times cheaper in Flower than a message of 200 (each array is its own HTTP object). Under privacy `lora_A` stays at a
public, seeded initialization and only `lora_B` is trained (FFA-LoRA): the mean of clients' products is then exact, and
noise is not multiplied by noise.

peft keeps two tensors of an embedding's LoRA as bare parameters, which Opacus' hooks never see; input-side item factors
are therefore refused under privacy rather than silently left unclipped.

Source:
    Hu et al. 2021, "LoRA"; Sun et al. 2024, "Improving LoRA in Privacy-preserving Federated Learning" (FFA-LoRA).
"""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from shared.config import RunConfig
from shared.errors import CheckpointError, UnsupportedMechanism
from shared.model import SequenceRecommender

AdapterVector = NDArray[np.float32]  # shape (d,), the trained tensors one after the other


@dataclass(frozen=True)
class AttachedAdapter:
    """A recommender with LoRA layers in place.

    Attributes:
        model: The recommender, its LoRA layers injected.
        trained: Name and tensor of everything that is trained, sorted by name; their order is the flat array's.
    """

    model: SequenceRecommender
    peft_model: nn.Module
    trained: tuple[tuple[str, nn.Parameter], ...]

    @property
    def size(self) -> int:
        """d, the number of trained parameters."""
        return sum(parameter.numel() for _, parameter in self.trained)

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The trained tensors in flat order."""
        return [parameter for _, parameter in self.trained]

    def to_vector(self) -> AdapterVector:
        """A copy of the trained tensors as one flat array, shape (d,), float32."""
        parts = [parameter.detach().reshape(-1).float() for parameter in self.parameters]
        return torch.cat(parts).cpu().numpy().copy()

    @torch.no_grad()
    def load_vector(self, vector: AdapterVector) -> None:
        """Overwrites the trained tensors with a flat array of shape (d,).

        Raises:
            CheckpointError: If the array has another size.
        """
        if vector.shape != (self.size,):
            raise CheckpointError(
                f"Expected an adapter of {self.size} parameters, got shape={vector.shape}. "
                "It belongs to another catalog or configuration."
            )
        self.load_tensor(torch.from_numpy(np.ascontiguousarray(vector, dtype=np.float32)))

    @torch.no_grad()
    def load_tensor(self, vector: torch.Tensor) -> None:
        """Overwrites the trained tensors with a flat tensor of shape (d,), wherever it lies."""
        for parameter, part in zip(self.parameters, self.split(vector.unsqueeze(0)), strict=True):
            parameter.copy_(part[0])

    def split(self, adapters: torch.Tensor) -> list[torch.Tensor]:
        """Views of many adapters, (clients, d), as the trained tensors: (clients, *shape) each."""
        sizes = [parameter.numel() for parameter in self.parameters]
        parts = torch.split(adapters, sizes, dim=1)
        return [part.view(-1, *parameter.shape) for part, parameter in zip(parts, self.parameters, strict=True)]


def attach(model: SequenceRecommender, config: RunConfig) -> AttachedAdapter:
    """Injects LoRA into the recommender; the initialization depends on the seed alone.

    Args:
        model: A freshly built recommender; it is changed in place.
        config: Ranks, kind of adapter, seed. (public)

    Raises:
        UnsupportedMechanism: If input-side item factors are asked for under privacy.
    """
    from peft import LoraConfig, get_peft_model

    adapter = config.adapter
    if adapter.item_rank and config.is_private:
        raise UnsupportedMechanism(
            f"Expected adapter.item_rank = 0 under privacy, got adapter.item_rank={adapter.item_rank}. Opacus cannot "
            "clip LoRA on an embedding per user; set it to 0, or epsilon to inf."
        )
    ranks = _ranks(model, config)
    names = sorted(ranks)
    lora = LoraConfig(
        r=max(ranks.values()),
        lora_alpha=adapter.scaling * max(ranks.values()),
        target_modules=names,
        rank_pattern={f"^{re.escape(name)}": rank for name, rank in ranks.items()},
        alpha_pattern={f"^{re.escape(name)}": adapter.scaling * rank for name, rank in ranks.items()},
        lora_dropout=0.0,
    )
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        # GPT-2 stores its linear layers transposed; peft sets that right by itself and says so for each layer.
        warnings.filterwarnings("ignore", message="fan_in_fan_out is set to")
        torch.manual_seed(config.run.seed % 2**63)
        peft_model = get_peft_model(model, lora)
    return _attached(model, peft_model, freezes_a=config.freezes_a)


def _ranks(model: SequenceRecommender, config: RunConfig) -> dict[str, int]:
    """Module name -> rank, for every module that gets LoRA."""
    from transformers.pytorch_utils import Conv1D

    adapter = config.adapter
    ranks = {
        "input_projection": adapter.input_rank,
        "output_projection": adapter.output_rank,
        "item_head": adapter.head_rank,
        "item_embedding": adapter.item_rank,
    }
    for name, module in model.transformer.named_modules(prefix="transformer"):
        if isinstance(module, nn.Linear | Conv1D):
            ranks[name] = adapter.rank
    return {name: rank for name, rank in ranks.items() if rank}


def _attached(model: SequenceRecommender, peft_model: nn.Module, *, freezes_a: bool) -> AttachedAdapter:
    model.requires_grad_(False)
    # In a linear layer peft draws A at random and starts B at zero; in an embedding it is the other way round.
    # What is frozen under FFA is always the random factor.
    trained_tensors = ["lora_B.", "lora_embedding_A."]
    if not freezes_a:
        trained_tensors += ["lora_A.", "lora_embedding_B."]
    trained = sorted(
        (name, parameter) for name, parameter in model.named_parameters() if any(part in name for part in trained_tensors)
    )
    for _, parameter in trained:
        parameter.requires_grad_(True)
    return AttachedAdapter(model=model, peft_model=peft_model, trained=tuple(trained))


def save(attached: AttachedAdapter, folder: Path) -> None:
    """Writes the adapter in peft's own file format (`adapter_config.json`, `adapter_model.safetensors`).

    Frozen LoRA factors are saved too, so that the files alone reproduce the scores on a freshly built base.
    """
    attached.peft_model.save_pretrained(str(folder), save_embedding_layers=False)  # type: ignore[operator]
    # peft adds a model card that speaks of a hub model which does not exist here.
    (folder / "README.md").unlink(missing_ok=True)


def load(model: SequenceRecommender, folder: Path, *, freezes_a: bool) -> AttachedAdapter:
    """Attaches a saved adapter to a freshly built recommender.

    Raises:
        CheckpointError: If the files are absent, damaged, or do not fit the model.
    """
    from peft import PeftModel

    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="fan_in_fan_out is set to")
            # Where a tensor is missing peft only warns, and scores with whatever the layer was initialized to.
            warnings.filterwarnings("error", message="Found missing adapter keys")
            peft_model = PeftModel.from_pretrained(model, str(folder), local_files_only=True)
    except Exception as error:  # peft, safetensors and json each raise their own
        raise CheckpointError(
            f"Expected a readable adapter in {folder.name}/, got {type(error).__name__}. "
            "It is damaged or belongs to another catalog; use the run that wrote it."
        ) from error
    return _attached(model, peft_model, freezes_a=freezes_a)
