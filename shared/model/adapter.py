"""The LoRA adapter: attach, flatten, load, save. The only importer of `peft`.

What travels is one flat float32 array of the *trained* tensors in the order of their names: a message of one array is
ten times cheaper in Flower than a message of 200 (each array is its own HTTP object). Under privacy `lora_A` stays at a
public, seeded initialization and only `lora_B` is trained (FFA-LoRA): the mean of clients' products is then exact, and
noise is not multiplied by noise.

Where each module's two factors lie in that array is said by `pairs`; what follows from it is algebra
(`shared/model/low_rank.py`). A residual (`shared/model/residual.py`) is there where the configuration aggregates products
and keeps what does not fit.

peft keeps two tensors of an embedding's LoRA as bare parameters, which Opacus' hooks never see; input-side item factors
are therefore refused under privacy rather than silently left unclipped.

Source:
    Hu et al. 2021, "LoRA"; Sun et al. 2024, "Improving LoRA in Privacy-preserving Federated Learning" (FFA-LoRA).
"""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from shared.config import RunConfig
from shared.errors import CheckpointError, ConfigError, UnsupportedMechanism
from shared.model.low_rank import Cut, Pair, Product, prefix_mask, truncated
from shared.model.residual import Residual, keeps_transposed
from shared.model.sequence_recommender import SequenceRecommender

AdapterVector = NDArray[np.float32]  # shape (d,), the trained tensors one after the other
# Names that an error lists of a model's modules.
_MOST_NAMES = 6
# What turns the transformer's output into scores.
_HEADS = ("output_projection.", "item_head.")


@dataclass(frozen=True)
class AttachedAdapter:
    """A recommender with LoRA layers in place.

    Attributes:
        model: The recommender, its LoRA layers injected.
        trained: Name and tensor of everything that is trained, sorted by name; their order is the flat array's.
        pairs: Where each module's factors lie in it, by name.
        residual: What is added to the frozen weights, where the configuration keeps what aggregation cuts off.
    """

    model: SequenceRecommender
    peft_model: nn.Module
    trained: tuple[tuple[str, nn.Parameter], ...]
    pairs: tuple[Pair, ...]
    residual: Residual | None = None

    @property
    def size(self) -> int:
        """d, the number of trained parameters."""
        return sum(parameter.numel() for _, parameter in self.trained)

    @property
    def residual_size(self) -> int:
        """Values of the residual; 0 where there is none."""
        return 0 if self.residual is None else self.residual.size

    @property
    def adds_nothing(self) -> bool:
        """Whether every score that comes through the transformer is zero, as before any training.

        The frozen heads are zero, so what they say is LoRA's product, whose B starts at zero, and the residual.
        """
        heads = [weight for name, weight in self.trained if name.startswith(_HEADS) and ".lora_B." in name]
        left = self.residual is not None and bool(self.residual.vector.any())
        return not left and not any(bool(weight.any()) for weight in heads)

    def prefix(self, largest_rank: int | None) -> NDArray[np.bool_]:
        """Which coordinates of the flat array a node has that trains ranks up to `largest_rank`; None: all. Shape (d,)."""
        return prefix_mask(self.pairs, self.size, largest_rank)

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
        ConfigError: If a pattern of `adapter.ranks` fits no module, or nothing is left to train.
        UnsupportedMechanism: If input-side item factors are asked for under privacy.
    """
    peft = _peft()
    adapter = config.adapter
    ranks = _ranks(model, config)
    if "item_embedding" in ranks and config.is_private:
        raise UnsupportedMechanism(
            f"Expected adapter.item_rank = 0 under privacy, got adapter.item_rank={ranks['item_embedding']}. Opacus cannot "
            "clip LoRA on an embedding per user; set it to 0, or epsilon to inf."
        )
    names = sorted(ranks)
    lora = peft.LoraConfig(
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
        peft_model = peft.get_peft_model(model, lora)
    return _attached(model, peft_model, config)


def _peft() -> Any:
    """The library, which is not to see bitsandbytes: so it puts the same plain LoRA beside every frozen layer.

    Where bitsandbytes is installed peft would import it in every process, quantized weights or not. That takes a second or
    more and prints what it did not find, and its own LoRA layers are not what per-user gradients are recorded on. What peft
    finds out on its first import it remembers.
    """
    name = "bitsandbytes"
    found, known = sys.modules.get(name), name in sys.modules
    sys.modules[name] = None  # type: ignore[assignment]
    try:
        import peft
        from peft.import_utils import is_bnb_4bit_available, is_bnb_available

        is_bnb_available(), is_bnb_4bit_available()
    finally:
        del sys.modules[name]
        if known:
            sys.modules[name] = found  # type: ignore[assignment]
    return peft


def _ranks(model: SequenceRecommender, config: RunConfig) -> dict[str, int]:
    """Module name -> rank, for every module that gets LoRA: the first pattern that fits, else the key of its kind."""
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
    patterns = adapter.rank_patterns()
    for pattern, _ in patterns:
        if not any(re.search(pattern, name) for name in ranks):
            names = ", ".join(sorted(ranks, key=lambda name: ("." in name, name))[:_MOST_NAMES])
            raise ConfigError(
                f"Expected every pattern of adapter.ranks to fit a module's name, got '{pattern}', which fits none. Names "
                f"are {names} and {max(0, len(ranks) - _MOST_NAMES)} more."
            )
    for name in ranks:
        ranks[name] = next((rank for pattern, rank in patterns if re.search(pattern, name)), ranks[name])
    chosen = {name: rank for name, rank in ranks.items() if rank}
    if not chosen:
        raise ConfigError(
            f"Expected a rank > 0 for at least one module, got adapter.ranks={adapter.ranks}, which leaves none. With every "
            "rank 0 there is nothing to train."
        )
    return chosen


def _attached(model: SequenceRecommender, peft_model: nn.Module, config: RunConfig) -> AttachedAdapter:
    model.requires_grad_(False)
    # In a linear layer peft draws A at random and starts B at zero; in an embedding it is the other way round.
    # What is frozen under FFA is always the random factor.
    trained_tensors = ["lora_B.", "lora_embedding_A."]
    if not config.freezes_a:
        trained_tensors += ["lora_A.", "lora_embedding_B."]
    trained = sorted(
        (name, parameter) for name, parameter in model.named_parameters() if any(part in name for part in trained_tensors)
    )
    for _, parameter in trained:
        parameter.requires_grad_(True)
    pairs = _pairs(model, trained)
    residual = Residual(model, pairs) if config.adapter.aggregation == "residual" else None
    return AttachedAdapter(model=model, peft_model=peft_model, trained=tuple(trained), pairs=pairs, residual=residual)


def _factors(layer: Any) -> tuple[nn.Parameter, nn.Parameter]:
    """A LoRA layer's A (r, in) and B (out, r); an embedding's are those of its transposed table."""
    if len(layer.lora_embedding_A):
        return layer.lora_embedding_A["default"], layer.lora_embedding_B["default"]
    return layer.lora_A["default"].weight, layer.lora_B["default"].weight


def _pairs(model: SequenceRecommender, trained: Sequence[tuple[str, nn.Parameter]]) -> tuple[Pair, ...]:
    sizes = [parameter.numel() for _, parameter in trained]
    starts = {id(parameter): start for (_, parameter), start in zip(trained, np.cumsum([0, *sizes]).tolist(), strict=False)}
    layers = sorted((name, module) for name, module in model.named_modules() if hasattr(module, "lora_embedding_A"))
    found = [(name, *_factors(layer)) for name, layer in layers]
    return tuple(
        Pair(name, a.shape[0], b.shape[0], a.shape[1], a=starts.get(id(a)), b=starts.get(id(b))) for name, a, b in found
    )


@torch.no_grad()
def truncate(attached: AttachedAdapter, rank: int) -> dict[str, Cut]:
    """Cuts every module's product BA down to its best approximation of at most `rank`, whichever factors are trained.

    Args:
        attached: Its factors are overwritten; they keep their shapes, zeros beyond `rank`. A frozen A of FFA-LoRA is
            changed too: what comes out is for use and not for going on with the run.
        rank: At least 1.

    Returns:
        What was cut off of each module.
    """
    cuts = {}
    for pair in attached.pairs:
        own_a, own_b = _factors(attached.model.get_submodule(pair.module))
        product = Product(pair.out_features, pair.in_features)
        product.add(own_b.double().cpu().numpy(), own_a.double().cpu().numpy())
        b, a, cuts[pair.module] = truncated(product, min(rank, pair.rank))
        own_b.zero_()[:, : b.shape[1]] = torch.from_numpy(b)
        own_a.zero_()[: len(a)] = torch.from_numpy(a)
    return cuts


@torch.no_grad()
def merged_weight(attached: AttachedAdapter, module: str, *, frozen: torch.Tensor | None = None) -> NDArray[np.float64]:
    """A module's weight with all that was learned of it added, in the weight's own layout.

    Args:
        attached: The adapter.
        module: Its name; a module without LoRA has its weight alone.
        frozen: What to add to instead of the weight in memory, which may be kept in fewer bits.
    """
    layer: Any = attached.model.get_submodule(module)
    has_lora = hasattr(layer, "get_delta_weight")
    base = layer.get_base_layer() if has_lora else layer
    weight: NDArray[np.float64] = (base.weight if frozen is None else frozen).double().cpu().numpy()
    if not has_lora:
        return weight
    a, b = (factor.double().cpu().numpy() for factor in _factors(layer))
    product: NDArray[np.float64] = float(layer.scaling["default"]) * (b @ a)
    return np.add(weight, product.T if keeps_transposed(base) else product)


def save(attached: AttachedAdapter, folder: Path) -> None:
    """Writes the adapter in peft's own file format (`adapter_config.json`, `adapter_model.safetensors`).

    Frozen LoRA factors are saved too, so that the files alone reproduce the scores on a freshly built base; a residual goes
    into a file beside them.
    """
    attached.peft_model.save_pretrained(str(folder), save_embedding_layers=False)  # type: ignore[operator]
    # peft adds a model card that speaks of a hub model which does not exist here.
    (folder / "README.md").unlink(missing_ok=True)
    if attached.residual is not None:
        attached.residual.save(folder)


def load(model: SequenceRecommender, folder: Path, config: RunConfig) -> AttachedAdapter:
    """Attaches a saved adapter to a freshly built recommender.

    Raises:
        CheckpointError: If the files are absent, damaged, or do not fit the model.
    """
    peft = _peft()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="fan_in_fan_out is set to")
            # Where a tensor is missing peft only warns, and scores with whatever the layer was initialized to.
            warnings.filterwarnings("error", message="Found missing adapter keys")
            peft_model = peft.PeftModel.from_pretrained(model, str(folder), local_files_only=True)
    except Exception as error:  # peft, safetensors and json each raise their own
        raise CheckpointError(
            f"Expected a readable adapter in {folder.name}/, got {type(error).__name__}. "
            "It is damaged or belongs to another catalog; use the run that wrote it."
        ) from error
    attached = _attached(model, peft_model, config)
    if attached.residual is not None:
        attached.residual.read(folder)
    return attached
