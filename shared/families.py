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

Never here: reading files (`shared/backbone.py`), quantization (`shared/frozen_weights.py`).
"""

from __future__ import annotations

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


def require_family(name: str, config: Any) -> None:
    """Refuses an architecture that is not tested to be causal.

    Args:
        name: Of the backbone, for the message. (public)
        config: Its Hugging Face configuration.

    Raises:
        ConfigError: If it is none of `SUPPORTED_MODEL_TYPES`.
    """
    found = getattr(config, "model_type", None) or "none"
    if found not in SUPPORTED_MODEL_TYPES:
        raise ConfigError(
            f"Expected a backbone of type {', '.join(SUPPORTED_MODEL_TYPES)}, got model_type={found} for "
            f"model.backbone={name}. A backbone is a transformer of one stack that takes inputs_embeds, gives one hidden "
            "state a position, and is tested not to look ahead. Choose another model."
        )


def prepare(config: Any, *, num_layers: int) -> None:
    """Changes a configuration: `num_layers` layers, no dropout, no cache, and causal where it has a setting for that."""
    config.num_hidden_layers = num_layers
    if getattr(config, "layer_types", None):
        config.layer_types = list(config.layer_types)[:num_layers]
    if config.model_type == "bert":
        config.is_decoder = True
    config.use_cache = False
    for key, value in config.to_dict().items():
        # Random masks would make per-user gradients and resumed runs differ.
        if ("dropout" in key or "pdrop" in key) and isinstance(value, float | int):
            setattr(config, key, 0.0)


def make_causal(transformer: Any) -> None:
    """Gives the masks to a model that has no causal setting of its own."""
    if transformer.config.model_type == "modernbert":
        transformer.register_forward_pre_hook(_causal_masks, with_kwargs=True)


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
