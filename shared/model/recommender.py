"""A recommender ready to use: backbone, model and adapter on a device, resident in the worker.

Building one reads the backbone and encodes the catalog, which takes seconds; a client's work takes milliseconds. So one
instance stays in the process (an actor of a simulation, a node's worker) and its state is overwritten for every task.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from shared.config import RunConfig
from shared.data.item_vectors import TEXT, chosen_modalities, fuse
from shared.data.sequences import RaggedHistories
from shared.errors import ConfigError
from shared.model import adapter as lora
from shared.model.backbone import encode_texts, load_backbone
from shared.model.passes import PassShapes
from shared.model.sequence_recommender import SequenceRecommender
from shared.model.state import RecommenderState
from shared.model.statistics import NUM_WEIGHTS, Statistics

if TYPE_CHECKING:
    from shared.data.catalog import ItemCatalog


# Modules with a row an item: how many these are decides how much of the seed's random numbers they take.
_OF_ITEMS = ("item_head.", "item_embedding.")
# What may be remembered of encoded histories; 256 MB hold about 80,000 users of MiniLM's width.
_REMEMBERED_BYTES = 256 * 2**20
# Places in a pass of scoring. A user alone pays for all of them, so on a CPU there are no more than keep it busy.
_SCORED_TOKENS = {"cpu": 512, "cuda": 8192}


@dataclass(eq=False)
class Recommender:
    """The model with its adapter attached.

    Attributes:
        attached: Model and trained tensors.
        device: Where it runs.
        autocast: Whether the forward pass is in bfloat16.
        backbone_digest: SHA-256 of the backbone's weights.
        num_layers: Transformer layers kept.
        initial_adapter: (d,) float32, the seeded (or saved) adapter it was built with, whatever was loaded since.
    """

    attached: lora.AttachedAdapter
    device: torch.device
    autocast: bool
    backbone_digest: str
    num_layers: int
    initial_adapter: lora.AdapterVector
    _encoded: dict[bytes, tuple[torch.Tensor, torch.Tensor]] = field(default_factory=dict, repr=False)
    _encoded_bytes: int = 0
    _remembered: dict[bytes, torch.Tensor] = field(default_factory=dict, repr=False)
    _remembered_bytes: int = 0

    @property
    def has_frozen_transformer(self) -> bool:
        """Whether nothing that is trained lies before the transformer's output."""
        heads = ("output_projection.", "item_head.")
        return all(name.startswith(heads) for name, _ in self.attached.trained)

    @property
    def num_items(self) -> int:
        """I."""
        num_items: int = self.attached.model.num_items
        return num_items

    def load_state(self, state: RecommenderState) -> None:
        """Overwrites all that was learned."""
        self.attached.model.set_log_prior(state.log_prior)
        self.attached.model.set_statistics(Statistics.from_vector(state.statistics, num_items=self.num_items))
        self.attached.load_vector(state.adapter)
        if self.attached.residual is not None:
            self.attached.residual.load(state.residual)

    def read_state(self, vector: NDArray[np.float32]) -> RecommenderState:
        """What `RecommenderState.to_vector` made of a state of this model.

        Raises:
            CheckpointError: If it is too short or not float32.
        """
        return RecommenderState.from_vector(
            vector,
            num_items=self.num_items,
            adapter_size=self.attached.size,
            residual_size=self.attached.residual_size,
        )

    def state(self) -> RecommenderState:
        """A copy of all that was learned."""
        residual, statistics = self.attached.residual, self.attached.model.statistics
        none = np.zeros(0, dtype=np.float32)
        return RecommenderState(
            log_prior=self.attached.model.log_prior.cpu().numpy().copy(),
            adapter=self.attached.to_vector(),
            residual=none if residual is None else residual.vector.copy(),
            statistics=none if statistics is None else statistics.to_vector(),
        )

    @property
    def arithmetic(self) -> torch.dtype:
        """The type that a forward pass computes in."""
        return torch.bfloat16 if self.autocast else torch.float32

    def precision(self) -> contextlib.AbstractContextManager[object]:
        """The arithmetic of a forward pass."""
        if self.autocast:
            return torch.autocast(self.device.type, dtype=torch.bfloat16)
        return contextlib.nullcontext()

    def scores(self, items: torch.Tensor, mask: torch.Tensor, *, recurring: NDArray[np.bool_]) -> torch.Tensor:
        """Scores every item after every position; what training goes through.

        Args:
            items: (B, L) int64 catalog rows. (private)
            mask: (B, L), True at the positions that count. (private)
            recurring: (B,), which rows will come again as they are. (private)

        Returns:
            (B, L, I); its graph ends in the trained tensors.
        """
        model = self.attached.model
        with self.precision():
            if not self.has_frozen_transformer:
                return model(items)  # type: ignore[no-any-return]
            return model.scores_after(self._hidden(items, mask, recurring), items)

    def sampled_scores(
        self,
        items: torch.Tensor,
        mask: torch.Tensor,
        *,
        targets: torch.Tensor,
        negatives: torch.Tensor,
        recurring: NDArray[np.bool_],
    ) -> torch.Tensor:
        """Scores of the target at every position and of some public negatives: `scores` for a catalog too large for it.

        Args:
            items: (B, L) int64 catalog rows. (private)
            mask: (B, L), True at the positions that count. (private)
            targets: (B, L) int64. (private)
            negatives: (N,) int64. (public)
            recurring: (B,), which rows will come again as they are. (private)

        Returns:
            (B, L, 1 + N), the target first; its graph ends in the trained tensors.
        """
        model = self.attached.model
        with self.precision():
            hidden = self._hidden(items, mask, recurring) if self.has_frozen_transformer else model.hidden(items)
            return model.sampled_scores_after(hidden, items, targets, negatives)

    @torch.no_grad()
    def _hidden(self, items: torch.Tensor, mask: torch.Tensor, recurring: NDArray[np.bool_]) -> torch.Tensor:
        """The transformer's output (B, L, H), remembered for rows that come again, as far as there is room.

        In bfloat16 a pass with anything unknown in it is computed whole: how many rows a matrix product has may change the
        rounding of each, and which are known depends on who was there before.

        What is remembered stays: where there are more rows than room, a known part of them is found again in every round,
        while with the oldest leaving first each would have left before it came again.
        """
        model = self.attached.model
        if not recurring.any():
            return model.hidden(items)
        lengths = mask.sum(dim=1).tolist()
        keys = [row[:length].tobytes() for row, length in zip(items.cpu().numpy(), lengths, strict=True)]
        known = [self._remembered.get(key) for key in keys]
        unknown = [row for row, found in enumerate(known) if found is None and lengths[row]]
        whole = all(found is None for found in known) or (self.autocast and bool(unknown))
        fresh = model.hidden(items if whole else items[unknown]) if whole or unknown else None
        if fresh is not None and whole:
            hidden = fresh
        else:
            first = next(found for found in known if found is not None)
            hidden = first.new_zeros((*items.shape, first.shape[-1]))
            for row, (found, length) in enumerate(zip(known, lengths, strict=True)):
                if found is not None:
                    hidden[row, :length] = found
            if fresh is not None:
                hidden[unknown] = fresh
        for row in unknown:
            size = lengths[row] * hidden.shape[-1] * hidden.element_size()
            if recurring[row] and self._remembered_bytes + size <= _REMEMBERED_BYTES:
                self._remembered[keys[row]] = hidden[row, : lengths[row]].clone()
                self._remembered_bytes += size
        return hidden

    def scoring_shapes(self, at_once: int) -> PassShapes:
        """The shapes of the passes that `score` and `score_parts` make.

        Args:
            at_once: Most histories in one pass. (public)
        """
        return PassShapes(
            tokens=_SCORED_TOKENS.get(self.device.type, _SCORED_TOKENS["cpu"]),
            rows=at_once,
            longest=self.attached.model.config.max_history_length,
            fills_up=True,
        )

    def score(self, histories: list[NDArray[np.int32]], *, at_once: int = 128) -> NDArray[np.float32]:
        """Scores every item for a batch of histories; the one scoring function of device, server and report.

        It knows nothing of where a history came from. An empty history gets the popularity prior alone.

        Guarantee:
            A row depends on its own history alone, whatever the others are and how many (as far as `shared/model/passes.py`
            says).

        Args:
            histories: B arrays of catalog rows in time order. (private)
            at_once: Most histories in one pass; with another number a row may be rounded otherwise. (public)

        Returns:
            (B, I) float32.
        """
        model = self.attached.model
        scores = np.empty((len(histories), self.num_items), dtype=np.float32)
        for rows, batch in self._passes(histories, at_once):
            with self.precision():
                found = model.score_encoded(*self._encode(*batch), *batch)
            scores[rows] = found[: len(rows)].float().cpu().numpy()
        scores[_empty(histories)] = (model.popularity_weight * model.log_prior).cpu().numpy()
        return scores

    def score_parts(self, histories: list[NDArray[np.int32]], *, at_once: int = 128) -> NDArray[np.float32]:
        """What `score` adds up, before its weights: text, prior, pairs, transitions and adapter.

        Guarantee:
            As of `score`, for what a history gets.

        Args:
            histories: B arrays of catalog rows in time order. (private)
            at_once: As in `score`. (public)

        Returns:
            (5, B, I) float32; of an empty history only the prior is not zero.
        """
        model = self.attached.model
        parts = np.empty((NUM_WEIGHTS, len(histories), self.num_items), dtype=np.float32)
        for rows, batch in self._passes(histories, at_once):
            with self.precision():
                found = model.score_parts(*self._encode(*batch), *batch)
            parts[:, rows] = found[:, : len(rows)].float().cpu().numpy()
        empty = _empty(histories)
        parts[:, empty] = 0.0
        parts[1, empty] = model.log_prior.cpu().numpy()
        return parts

    def _passes(
        self, histories: list[NDArray[np.int32]], at_once: int
    ) -> Iterator[tuple[NDArray[np.int64], tuple[torch.Tensor, torch.Tensor]]]:
        """Passes of fixed shapes.

        Yields:
            Which histories are in one, the first rows of the pass; and of all its rows the items (R, L) and the real lengths
            (R,), which are at least 1.
        """
        shapes = self.scoring_shapes(at_once)
        read = RaggedHistories.of(histories).last(shapes.longest)
        for rows, width in shapes.passes(read.lengths):
            padded = read.take(rows).filled_up(shapes.most_rows(width)).padded(width)
            items = torch.from_numpy(np.maximum(padded.items, 0)).to(self.device)
            yield rows, (items, torch.from_numpy(np.maximum(padded.lengths, 1)).to(self.device))

    def _encode(self, items: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor]:
        """What the transformer makes of a batch; remembered where no adapter can change it.

        With a frozen transformer (all ranks before its output 0) a history means the same in every round, and validating
        after each round would compute it again. What is kept is as private as the histories that are in memory anyway.
        Where the adapter adds nothing to any score, the transformer does not run: None stands for its output.
        """
        model = self.attached.model
        if self.attached.adds_nothing:
            return None, model.recent_sum(items, lengths)
        if not self.has_frozen_transformer:
            return model.encode_last(items, lengths)
        key = hashlib.blake2b(items.cpu().numpy().tobytes() + lengths.cpu().numpy().tobytes()).digest()
        encoded = self._encoded.pop(key, None)
        if encoded is None:
            encoded = model.encode_last(items, lengths)
            self._encoded_bytes += _bytes(encoded)
        self._encoded[key] = encoded  # a dict keeps the order of insertion: the oldest leave first
        while self._encoded_bytes > _REMEMBERED_BYTES:
            self._encoded_bytes -= _bytes(self._encoded.pop(next(iter(self._encoded))))
        return encoded


def _empty(histories: list[NDArray[np.int32]]) -> NDArray[np.bool_]:
    """Which histories have no interaction, (B,)."""
    return np.fromiter((not len(history) for history in histories), dtype=np.bool_, count=len(histories))


def _bytes(tensors: Iterable[torch.Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def choose_device(name: str) -> torch.device:
    """`auto` takes CUDA where there is one.

    Raises:
        ConfigError: If CUDA is asked for and absent.
    """
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise ConfigError("Expected a CUDA device for run.device=cuda, found none. Use --device auto or cpu.")
    return torch.device("cuda" if name == "cuda" or (name == "auto" and available) else "cpu")


def build(config: RunConfig, catalog: ItemCatalog) -> Recommender:
    """Builds the recommender with a freshly initialized adapter.

    Items that came after training do not move the initialization: theirs is zero, and the rest is what it was without them,
    so that an adapter finds the frozen half that it was trained beside.

    Raises:
        ConfigError: If the backbone or the device cannot be used.
    """
    model, digest, layers, device, autocast = _base(config, catalog)
    attached = lora.attach(model, config)
    if catalog.num_new_items and any(name.startswith(_OF_ITEMS) for name, _ in attached.trained):
        known = catalog.take(range(catalog.num_items - catalog.num_new_items))
        copy_factors(build(config, known).attached, attached)
    attached.peft_model.to(device)
    return Recommender(attached, device, autocast, digest, layers, attached.to_vector())


@torch.no_grad()
def copy_factors(old: lora.AttachedAdapter, new: lora.AttachedAdapter) -> None:
    """Copies every LoRA tensor, frozen ones included; what the larger one has beyond is zero."""
    factors = dict(old.model.named_parameters())
    for name, parameter in new.model.named_parameters():
        if "lora_" in name:
            parameter.zero_()
            source = factors[name]
            parameter[tuple(slice(size) for size in source.shape)].copy_(source)


def build_from_saved(config: RunConfig, catalog: ItemCatalog, folder: object) -> Recommender:
    """Builds the recommender on a fresh base with an adapter saved by `shared.model.adapter.save`."""
    from pathlib import Path

    model, digest, layers, device, autocast = _base(config, catalog)
    attached = lora.load(model, Path(str(folder)), config)
    attached.peft_model.to(device)
    return Recommender(attached, device, autocast, digest, layers, attached.to_vector())


def _base(config: RunConfig, catalog: ItemCatalog) -> tuple[SequenceRecommender, str, int, torch.device, bool]:
    device = choose_device(config.run.device)
    backbone = load_backbone(
        config.model.backbone,
        num_layers=config.model.layers,
        weights=config.model.weights,
        device=str(device),
        gradient_checkpointing=config.training.gradient_checkpointing,
    )
    vectors = fuse(catalog, _texts(config, catalog, device), config.model, width=backbone.hidden_size)
    model = SequenceRecommender(backbone, vectors, config.model, num_new_items=catalog.num_new_items)
    precision = config.training.precision
    autocast = precision == "bfloat16" or (precision == "auto" and device.type == "cuda")
    return model, backbone.digest, backbone.num_layers, device, autocast


def _texts(config: RunConfig, catalog: ItemCatalog, device: torch.device) -> NDArray[np.float32] | None:
    """Encoded texts (I, H), those of new items apart, so that the others are found again; None where they play no part."""
    if TEXT not in chosen_modalities(catalog, config.model):
        return None
    known = catalog.num_items - catalog.num_new_items
    parts = [texts for texts in (catalog.texts[:known], catalog.texts[known:]) if texts]
    settings = config.model
    encoded = [
        encode_texts(texts, backbone=settings.backbone, weights=settings.weights, device=str(device)) for texts in parts
    ]
    return np.concatenate(encoded)


@lru_cache(maxsize=2)
def _resident(model_key: str, catalog_digest: str) -> list[Recommender]:
    return []


def resident(config: RunConfig, catalog: ItemCatalog) -> Recommender:
    """The process's own recommender for this configuration and catalog; built on first use.

    Its state is whatever the last task left: call `load_state` before anything else.
    """
    flat = config.to_flat()
    parts = {key: value for key, value in flat.items() if key.startswith(("model.", "adapter."))}
    parts |= {key: flat[key] for key in ("run.seed", "run.device", "training.precision", "training.gradient_checkpointing")}
    # Whether noise is asked for decides what is trained, and what `attach` has to refuse.
    parts |= {"freezes_a": config.freezes_a, "is_private": config.is_private}
    slot = _resident(repr(sorted(parts.items())), catalog.digest)
    if not slot:
        slot.append(build(config, catalog))
    return slot[0]
