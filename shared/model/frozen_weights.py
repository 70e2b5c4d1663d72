"""How the frozen transformer is kept in memory: float32, bfloat16, or linear layers of 8 or 4 bits.

Only what is frozen is kept so. LoRA's factors, per-user gradients, clipping and noise are float32 whatever the setting, and
vectors enter and leave the transformer as float32. 8 and 4 bits are bitsandbytes' (rows of integers, and NF4). Its treatment
of outliers is off: it chooses columns by the largest values of a whole batch, so that one user's gradient would depend on
the others. Not torchao, which does 8 bits as well: where it is installed, transformers imports it with every model, which
costs a second and prints what of it cannot be loaded.

Source:
    Dettmers et al. 2022, "LLM.int8()", section 3 (rows, outliers); Dettmers et al. 2023, "QLoRA" (NF4; LoRA on a quantized,
    frozen base).
"""

from __future__ import annotations

import ctypes
import importlib.util
import logging
from typing import Any, Final

import torch

from shared.errors import ConfigError

# Bytes of a weight of a linear layer, scales included: a float32 for every 64 weights of NF4.
BYTES_A_WEIGHT: Final = {"float32": 4.0, "bfloat16": 2.0, "int8": 1.0, "int4": 0.5 + 4 / 64}
_PACKAGE: Final = "bitsandbytes"


def require_package(weights: str) -> None:
    """Refuses a setting that this machine cannot do, before anything is loaded.

    Raises:
        ConfigError: If the package is missing.
    """
    if weights in ("int8", "int4") and importlib.util.find_spec(_PACKAGE) is None:
        raise ConfigError(
            f"Expected the package {_PACKAGE} for model.weights={weights}, found none. Install it with pip install "
            "'tacit[quantized]', or use bfloat16."
        )


def loading_arguments(weights: str, device: str) -> dict[str, Any]:
    """What `from_pretrained` needs to load weights so.

    Quantized ones are put where they are used, because transformers would otherwise put them on a GPU that is there.
    """
    if weights in ("int8", "int4"):
        from transformers import BitsAndBytesConfig

        # It says on every import which of the kernels for other machines it did not find.
        logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
        return {
            "dtype": torch.float32,
            "device_map": {"": device},
            "quantization_config": BitsAndBytesConfig(
                load_in_8bit=weights == "int8",
                llm_int8_threshold=0.0,
                load_in_4bit=weights == "int4",
                bnb_4bit_quant_type="nf4",
                bnb_4bit_compute_dtype=torch.float32 if device == "cpu" else torch.bfloat16,
            ),
        }
    return {"dtype": torch.bfloat16 if weights == "bfloat16" else torch.float32}


def let_go_of_the_file(transformer: Any) -> None:
    """Gives back what quantizing took beside the weights that it made: a third of a large model stays in use otherwise.

    The few weights that stay float32 lie in the mapped file, and with them all of it; and the C library keeps the pieces
    that were converted for later use.
    """
    for parameter in transformer.parameters():
        if parameter.dtype == torch.float32:
            parameter.data = parameter.data.clone()
    library = ctypes.CDLL(None)
    if hasattr(library, "malloc_trim"):  # glibc has it, others need not
        library.malloc_trim(0)


def keep_float32_outside(transformer: Any) -> None:
    """Lets float32 vectors enter and leave a transformer of bfloat16 weights."""
    transformer.register_forward_pre_hook(_to_bfloat16, with_kwargs=True)
    transformer.register_forward_hook(_to_float32)


def _to_bfloat16(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return args, {**kwargs, "inputs_embeds": kwargs["inputs_embeds"].to(torch.bfloat16)}


def _to_float32(module: Any, args: tuple[Any, ...], output: Any) -> Any:
    output.last_hidden_state = output.last_hidden_state.float()
    return output
