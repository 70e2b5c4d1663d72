"""How much memory a run will need, estimated from a configuration and the backbone's config.json before anything loads.

    frozen weights   parameters of the kept layers, at the bytes of `model.weights`
    encoding texts   the whole backbone, word table included, as it is kept, while texts are encoded for the first time
    items            I x (2 H + C) float32: item vectors, their centered copy, C content directions; and I x I similarities
                     of texts where there are few items
    one pass         tokens x layers x (12 H + 4 F) float32 of activations kept for the backward pass, or with gradient
                     checkpointing tokens x H a layer and one layer's own, or one layer's own where nothing that is trained
                     lies before the transformer's output; and 4 x tokens x candidates float32 of scores
    gradients        a float32 vector of d numbers an example, four times, at most 256 MB
    statistics       the server's pairs of a head of H items: their noised sum, and nine H x H float64 while it is denoised;
                     and I x 128 factors and I x C directions of them, in the state, as a message, and in the model

F is the width between the two layers of the feed-forward part, tokens are `training.physical_batch_size` times
`model.max_history_length`, candidates are I or the sampled negatives. It is an estimate: it leaves out what torch and the
libraries take (about half a gigabyte), the interactions, and temporary copies. Eight and four bits take up to 40 % more than
it says where there is no GPU, because bitsandbytes then multiplies by temporary copies in float32.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from typing import Any

import torch

from shared.config import RunConfig
from shared.errors import ConfigError
from shared.model import families, frozen_weights
from shared.model.backbone import kept_layers, read_config
from shared.model.sequence_recommender import MOST_PAIRED_ITEMS
from shared.model.statistics import RANK_OF_PAIRS

_GIB = 2**30
_GRADIENT_BYTES = 2**28
# Matrices of H x H float64 that the server has at one time: the sum of the pairs, and what `server/denoising.py` makes.
_HEAD_MATRICES = 10
# Of an item's factors and directions: the state's, a message's, the model's.
_COPIES_OF_FACTORS = 3


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes.

    Attributes:
        parameters: Of the kept layers, a count.
        weights: Frozen weights as they are kept.
        encoding: The whole backbone while texts are encoded.
        items: Tables with a row an item.
        one_pass: Activations and scores of one pass of training.
        gradients: Per-example gradients.
        statistics: The server's part of the pairs.
    """

    parameters: int
    weights: int
    encoding: int
    items: int
    one_pass: int
    gradients: int
    statistics: int = 0

    @property
    def largest(self) -> int:
        """The most at one time: texts are encoded before anything is released or trained, but beside the kept layers."""
        return self.weights + max(self.encoding, self.items + max(self.one_pass + self.gradients, self.statistics))

    def sentence(self) -> str:
        """One line for a person."""
        parts = {
            "frozen weights": self.weights,
            "items": self.items,
            "a pass of training": self.one_pass,
            "gradients": self.gradients,
            "statistics": self.statistics,
            "encoding texts": self.encoding,
        }
        said = ", ".join(f"{name} {size_text(size)}" for name, size in parts.items())
        return f"About {size_text(self.largest)} of memory beside what the libraries take: {said}."


def memory_needed(config: RunConfig, *, num_items: int, adapter_size: int = 0, head: int = 0) -> MemoryEstimate:
    """Estimates the memory of a run.

    Args:
        config: Backbone, layers, weights, size of a pass. (public)
        num_items: I. (public)
        adapter_size: d, trained numbers, where it is known.
        head: H, items whose pairs are counted; 0 where none are. (public)

    Raises:
        ConfigError: If the backbone is absent, unsupported, or has fewer layers.
    """
    model = config.model
    own = read_config(model.backbone)
    whole = _count(own)
    families.prepare(own, num_layers=kept_layers(own, model.layers))
    kept = _count(own)
    width, layers = int(own.hidden_size), int(own.num_hidden_layers)
    inner = int(getattr(own, "intermediate_size", None) or 4 * width)
    tokens = config.training.physical_batch_size * model.max_history_length
    a_layer = tokens * (12 * width + 4 * inner)
    activations = layers * a_layer
    if not _trains_into_the_transformer(config):
        activations = a_layer
    elif config.training.gradient_checkpointing:
        activations = layers * tokens * width + a_layer
    candidates = config.training.negatives or num_items
    return MemoryEstimate(
        parameters=kept.linear + kept.other,
        weights=_bytes(kept, model.weights),
        encoding=_bytes(whole, model.weights) + (2 if model.weights == "bfloat16" else 4) * whole.words,
        items=4
        * (num_items * (2 * width + model.content_dimensions) + (num_items**2 if num_items <= MOST_PAIRED_ITEMS else 0)),
        one_pass=4 * (activations + 4 * tokens * candidates),
        gradients=min(16 * adapter_size * config.training.physical_batch_size, _GRADIENT_BYTES),
        statistics=_head_bytes(head) + (_factor_bytes(num_items, model.content_dimensions) if head else 0),
    )


def _head_bytes(head: int) -> int:
    return 8 * _HEAD_MATRICES * head**2


def _factor_bytes(num_items: int, dimensions: int) -> int:
    return 4 * _COPIES_OF_FACTORS * num_items * (RANK_OF_PAIRS + dimensions)


def head_that_fits(head: int, *, beside: int, available: int) -> int:
    """The head, or what of it the server's memory has room for; at least two items.

    Which machine a run is planned on is no fact that clients know, so a smaller head becomes a setting of the run, the same
    for everybody (`statistics.head`), before anybody is asked for anything.

    Args:
        head: H that is wanted. (public)
        beside: Bytes that are taken by something else at the same time.
        available: Bytes in all.
    """
    room = max(available - beside, 0)
    return head if _head_bytes(head) <= room else max(2, math.isqrt(room // (8 * _HEAD_MATRICES)))


def require_memory_for_head(head: int) -> None:
    """Refuses a head whose pairs this machine cannot hold, before anybody is asked: the same head is everybody's.

    Raises:
        ConfigError: If it does not fit; names the largest that does.
    """
    available, where = available_memory(torch.device("cpu"))
    fits = head_that_fits(head, beside=0, available=available)
    if fits < head:
        raise ConfigError(
            f"Expected the pairs of a head of {head} items to fit the {size_text(available)} of {where}, where they need "
            f"{size_text(_head_bytes(head))}. Set statistics.head={fits} or less, for the server and all clients."
        )


def _trains_into_the_transformer(config: RunConfig) -> bool:
    adapter = config.adapter
    return any((adapter.rank, adapter.input_rank, adapter.item_rank, *(rank for _, rank in adapter.rank_patterns())))


def require_memory(estimate: MemoryEstimate, *, available: int, where: str, weights: str) -> None:
    """Refuses a run whose frozen weights alone, or while texts are encoded, cannot fit; the rest only slows down or halves.

    Raises:
        ConfigError: If they are larger than what is there.
    """
    needed = max(estimate.weights, estimate.encoding)
    if needed > available:
        raise ConfigError(
            f"Expected a backbone that fits the {size_text(available)} of {where}, got one of {size_text(needed)} with "
            f"model.weights={weights}. Use fewer model.layers, model.weights=bfloat16, int8 or int4, or a smaller backbone."
        )


def available_memory(device: torch.device) -> tuple[int, str]:
    """Bytes in all of the device that the model runs on, and what to call it; a limit of the container counts."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory), "the GPU"
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        with open("/sys/fs/cgroup/memory.max", encoding="utf-8") as stream:  # noqa: PTH123
            total = min(total, int(stream.read()))
    except (OSError, ValueError):
        pass  # there is no limit, or no control group
    return total, "this machine"


@dataclass(frozen=True)
class _Parameters:
    """Counts: of linear layers, of words in the word table, of everything else."""

    linear: int
    words: int
    other: int


def _count(own: Any) -> _Parameters:
    """Counts without making a single weight."""
    from transformers import AutoModel

    without_pooler = {"add_pooling_layer": False} if own.model_type == "bert" else {}
    with torch.device("meta"):
        model = AutoModel.from_config(own, **without_pooler)
    linear = sum(int(layer.weight.numel()) for layer in families.linear_layers(model))
    words = model.get_input_embeddings().weight.numel()
    return _Parameters(linear, words, sum(parameter.numel() for parameter in model.parameters()) - linear - words)


def _bytes(found: _Parameters, weights: str) -> int:
    """Bytes without the word table; what is no linear layer stays float32 in 8 and 4 bits."""
    other = frozen_weights.BYTES_A_WEIGHT["bfloat16" if weights == "bfloat16" else "float32"]
    return int(found.linear * frozen_weights.BYTES_A_WEIGHT[weights] + found.other * other)


def size_text(size: int) -> str:
    """Bytes for a person, e.g. `87 MiB`."""
    return f"{size / _GIB:.1f} GiB" if size >= _GIB / 10 else f"{size / 2**20:.0f} MiB"
