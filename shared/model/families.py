"""The families of transformers that may be a backbone: what each needs to be causal, and what works with it.

A backbone takes `inputs_embeds` (B, L, H) and gives one hidden state a position, which depends on nothing that follows. A
model that silently attends to the future would report wonderful and wrong numbers, so what is not here, tested, is refused.

| family | made causal by | weights |
|---|---|---|
| bert | `is_decoder` | linear layers |
| modernbert | masks of our own: causal, and within half of `local_attention` back in its local layers | linear layers |
| gpt2 | itself | transposed layers (`Conv1D`) |
| gpt_neo, gpt_neox, gptj | themselves | linear layers |
| llama, mistral, qwen2, qwen3 | themselves, sliding windows included | linear layers |

Never here: reading files (`shared/model/backbone.py`), quantization (`shared/model/frozen_weights.py`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import nn

from shared.errors import ConfigError

SUPPORTED_MODEL_TYPES: Final = (
    "bert",
    "gpt2",
    "gpt_neo",
    "gpt_neox",
    "gptj",
    "llama",
    "mistral",
    "modernbert",
    "qwen2",
    "qwen3",
)


def require_family(name: str, own: Mapping[str, Any]) -> None:
    """Refuses an architecture that is not tested to be causal, before any code that is made for it runs.

    Args:
        name: Of the backbone, for the message. (public)
        own: What its config.json holds.

    Raises:
        ConfigError: If it is none of `SUPPORTED_MODEL_TYPES`, or its weights were quantized by whoever saved them.
    """
    found = str(own.get("model_type"))
    if found not in SUPPORTED_MODEL_TYPES:
        # The file is somebody else's, and its words go to a terminal.
        said = found if re.fullmatch(r"[\w.-]{1,64}", found) else "unreadable"
        raise ConfigError(
            f"Expected a backbone of type {', '.join(SUPPORTED_MODEL_TYPES)}, got model_type={said} for "
            f"model.backbone={name}. A backbone is a transformer of one stack that takes inputs_embeds, gives one hidden "
            "state a position, and is tested not to look ahead. Choose another model."
        )
    if own.get("quantization_config"):
        raise ConfigError(
            f"Expected a backbone with weights of 16 or 32 bits, got quantized ones for model.backbone={name}. Take the "
            "model that they were made from, with model.weights=int8 or int4."
        )


def prepare(config: Any, *, num_layers: int) -> None:
    """Changes a configuration: `num_layers` layers, no dropout, no cache, and causal where it has a setting for that."""
    config.num_hidden_layers = num_layers
    if getattr(config, "layer_types", None):
        config.layer_types = list(config.layer_types)[:num_layers]
    if config.model_type == "bert":
        config.is_decoder = True
    # Some models are published with attention to both sides, and say so here.
    config.is_causal = True
    config.return_dict = True
    config.use_cache = False
    for key, value in config.to_dict().items():
        # Random masks would make per-user gradients and resumed runs differ.
        if ("dropout" in key or "pdrop" in key) and isinstance(value, float | int):
            setattr(config, key, 0.0)


def make_causal(transformer: Any) -> None:
    """Gives the masks to a model that has no causal setting of its own."""
    if transformer.config.model_type == "modernbert":
        transformer.register_forward_pre_hook(_causal_masks, with_kwargs=True)


def require_causal(name: str, transformer: Any) -> None:
    """Tries out that a loaded transformer does not look ahead: what its config.json may say is not known once and for all.

    Raises:
        ConfigError: If what follows a position changes its output.
    """
    if looks_ahead(transformer):
        raise ConfigError(
            f"Expected a backbone that does not look ahead, got one whose outputs depend on what follows for "
            f"model.backbone={name}. Its config.json changes its attention in a way that is not known here; choose another."
        )


@torch.no_grad()
def looks_ahead(transformer: Any) -> bool:
    """Whether what follows a position changes its output, or the output is no number; tried out on random vectors."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(1, 6, int(transformer.config.hidden_size), generator=generator)
    changed = torch.cat([inputs[:, :3], torch.randn(1, 3, inputs.shape[2], generator=generator)], dim=1)
    # Quantized weights may lie on the GPU already.
    before, after = (transformer(inputs_embeds=x.to(transformer.device)).last_hidden_state[:, :3] for x in (inputs, changed))
    return not bool((after - before).abs().max() <= 1e-3 * before.abs().max())


def _causal_masks(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """ModernBERT's two masks as (1, 1, L, L) booleans, True where a position may look."""
    embeds: torch.Tensor = kwargs["inputs_embeds"]
    places = torch.arange(embeds.shape[1], device=embeds.device)
    back = places.unsqueeze(1) - places
    causal = back >= 0
    # `local_attention` counts both sides of a position, and a causal layer keeps the side that lies behind.
    local = causal & (back <= module.config.local_attention // 2)
    return args, {**kwargs, "attention_mask": {"full_attention": causal[None, None], "sliding_attention": local[None, None]}}


def linear_layers(transformer: nn.Module) -> list[Any]:
    """The layers that hold the weights of a transformer, GPT-2's transposed ones included."""
    from transformers.pytorch_utils import Conv1D

    return [module for module in transformer.modules() if isinstance(module, nn.Linear | Conv1D)]
