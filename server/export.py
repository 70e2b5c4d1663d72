"""`tacit export`: a finished run as a plain `transformers` model, with what else its scores need, and a model card.

The folder is for people without Tacit. `AutoModel.from_pretrained` gives the causal transformer, its kept layers with LoRA
and residual merged in and its word embeddings in place; `recommender.safetensors` holds the maps before and behind it; and
the card (`model_card.py`) holds the code that turns a history into scores. What was written is read again and compared
before the folder gets its name, so that a backbone that plain `transformers` runs differently is refused and not exported.

What never lives here: numbers about privacy or quality. The card takes them from the run's own reports.
"""

from __future__ import annotations

import contextlib
import copy
import json
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from server.model_card import CardFacts, model_card
from server.reporting.records import ReleaseRecord, RunRecord, read_release, read_run
from shared.artifact import load_recommender
from shared.config import RunConfig
from shared.data.catalog import ItemCatalog
from shared.errors import CheckpointError, TacitError
from shared.files import write_atomically, write_json
from shared.folder_claim import claimed, publish
from shared.model import adapter as lora
from shared.model import families
from shared.model.backbone import locate, weight_files
from shared.model.low_rank import Cut
from shared.model.recommender import Recommender
from shared.model.statistics import PAIR_DECAY, PAIR_ITEMS, TRANSITION_DECAY, TRANSITION_ITEMS
from shared.run_folder import RECORD, RELEASE, check_unused, load_catalog, load_config

WEIGHTS, ITEMS, CARD = "recommender.safetensors", "items.json", "README.md"
_TOKENIZER = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.txt", "vocab.json",
    "merges.txt", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model",
)  # fmt: skip
# Largest difference between the transformer's outputs before and after; relative to their largest value.
_TOLERANCE = 1e-4
_TRIED_ITEMS = 8


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        folder: Where.
        files: Names in it.
        rank: What every product was cut to; None where none was.
        cuts: Per module, what that cut off.
        difference: Largest difference between the transformer's outputs in the run and from the folder.
    """

    folder: Path
    files: list[str]
    rank: int | None
    cuts: dict[str, Cut]
    difference: float

    @property
    def overall(self) -> float:
        """The share of the Frobenius norm that was cut off all modules together."""
        return sum(self.cuts.values(), Cut(0.0, 0.0)).share

    def to_json(self) -> dict[str, Any]:
        """The same as plain values."""
        shares = {module: cut.share for module, cut in self.cuts.items()}
        truncation = {"rank": self.rank, "error": self.overall, "modules": shares} if self.rank else None
        return {
            "folder": str(self.folder), "files": self.files, "truncation": truncation, "largest_difference": self.difference,
        }  # fmt: skip


def export(run_dir: Path, destination: Path, *, rank: int | None = None) -> Exported:
    """Writes a finished run as a plain model.

    Args:
        run_dir: A finished run.
        destination: A new or empty folder.
        rank: Cuts every module's product to its best approximation of this rank first; the error is stated.

    Raises:
        ConfigError: If the destination holds something.
        CheckpointError: If the run is not finished, or its files are damaged.
        TacitError: If plain `transformers` does not compute what the run's own model does.
    """
    with claimed(destination, check_unused):
        return _export(run_dir, destination, rank=rank)


def _export(run_dir: Path, destination: Path, *, rank: int | None) -> Exported:
    release, record = _reports(run_dir)
    config, catalog = load_config(run_dir), load_catalog(run_dir)
    recommender = load_recommender(run_dir)
    cuts = lora.truncate(recommender.attached, rank) if rank is not None else {}
    temporary = Path(tempfile.mkdtemp(dir=destination.parent, prefix=f".{destination.name}."))
    try:
        with _quietly():
            pooled = _write_transformer(recommender, config, temporary)
            _write_parts(recommender, config, catalog, temporary)
            difference = _compare(recommender, config, temporary)
        exported = Exported(destination, [], rank, cuts, difference)
        facts = CardFacts(config, release, record, rank, exported.overall, difference, pooled=pooled)
        write_atomically(temporary / CARD, lambda stream: stream.write(model_card(facts).encode()))
        _publish(temporary, destination)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    files = sorted(path.name for path in destination.iterdir())
    return Exported(destination, files, rank, cuts, difference)


def _publish(temporary: Path, destination: Path) -> None:
    """Gives the folder its name, readable for everybody as other files are."""
    for path in temporary.iterdir():
        path.chmod(0o644)
    temporary.chmod(0o755)
    publish(temporary, destination)


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Without progress bars, and without a report of the layers that are left out on purpose."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def _reports(run_dir: Path) -> tuple[ReleaseRecord, RunRecord | None]:
    """The release report of a finished run, and its research record if it has one.

    Raises:
        CheckpointError: If the run is not finished, or one of them is damaged.
    """
    load_config(run_dir)  # says what is wrong with a folder that is no run
    release = read_release(run_dir) if (run_dir / RELEASE).exists() else None
    record = read_run(run_dir) if (run_dir / RECORD).exists() else None
    if release is None or (record is not None and record.status != "complete"):
        raise CheckpointError(
            f"Expected a finished run in {run_dir}/, found one without its reports. Finish it with: "
            f"tacit simulate --resume {run_dir}"
        )
    return release, record


@torch.no_grad()
def _write_transformer(recommender: Recommender, config: RunConfig, folder: Path) -> bool:
    """Writes the merged transformer and the tokenizer; returns whether BERT's pooling layer, of no use here, is in it."""
    from transformers import AutoModel

    source = locate(config.model.backbone)
    own: Any = copy.deepcopy(recommender.attached.model.transformer.config)
    if hasattr(own, "quantization_config"):  # how this run kept its weights says nothing about the merged ones
        del own.quantization_config
    is_bert = own.model_type == "bert"
    pooled = is_bert and _has_pooler(weight_files(source, config.model.backbone))
    extra = {"add_pooling_layer": pooled} if is_bert else {}
    plain = AutoModel.from_pretrained(source, config=own, local_files_only=True, dtype=torch.float32, **extra)
    exact = config.model.weights == "float32"
    for name, module in plain.named_modules():
        if any(pair.module == f"transformer.{name}" for pair in recommender.attached.pairs):
            frozen = None if exact else module.weight
            merged = lora.merged_weight(recommender.attached, f"transformer.{name}", frozen=frozen)
            module.weight.copy_(torch.from_numpy(merged))
    plain.save_pretrained(str(folder))
    for name in _TOKENIZER:
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)
    return pooled or not is_bert


def _has_pooler(files: Sequence[Path]) -> bool:
    from safetensors import safe_open

    for file in files:
        with safe_open(file, "pt") as weights:
            if any("pooler." in name for name in weights.keys()):  # noqa: SIM118
                return True
    return False


def _write_parts(recommender: Recommender, config: RunConfig, catalog: ItemCatalog, folder: Path) -> None:
    """Writes what turns items into the transformer's inputs and its outputs into scores."""
    from safetensors.numpy import save

    attached, model, settings = recommender.attached, recommender.attached.model, config.model
    table = lora.merged_weight(attached, "item_embedding") @ lora.merged_weight(attached, "input_projection").T
    tensors: dict[str, NDArray[np.float64]] = {
        "item_table": table,
        "output_map": lora.merged_weight(attached, "output_projection"),
        **{name: getattr(model, name).double().cpu().numpy() for name in ("content", "centered_texts", "log_prior")},
    }
    if model.statistics is not None:
        names = ("pair_factors", "directions", "transition")
        tensors |= {name: getattr(model, name).double().cpu().numpy() for name in names}
    if model.has_item_factors:
        tensors["head_map"] = lora.merged_weight(attached, "item_head")
    scalars = {
        name: getattr(settings, name)
        for name in (
            "max_history_length", "text_similarity_decay", "text_similarity_items",
        )
    }  # fmt: skip
    scalars |= {
        "weights": dict(zip(("text", "prior", "pairs", "transitions", "adapter"), model.weights, strict=True)),
        "pairs": {"items": PAIR_ITEMS, "decay": PAIR_DECAY},
        "transitions": {"items": TRANSITION_ITEMS, "decay": TRANSITION_DECAY},
    }
    rounded = {name: np.ascontiguousarray(tensor, dtype=np.float32) for name, tensor in tensors.items()}
    content = save(rounded, metadata={"settings": json.dumps(scalars)})
    write_atomically(folder / WEIGHTS, lambda stream: stream.write(content))
    write_json(folder / ITEMS, {"ids": list(catalog.ids), "texts": list(catalog.texts)})


@torch.no_grad()
def _compare(recommender: Recommender, config: RunConfig, folder: Path) -> float:
    """The largest difference between what the run's transformer and the written one make of some public items.

    Raises:
        TacitError: If it is more than rounding, although the run's weights were whole ones, or if the written one looks
            ahead, whatever the weights were.
    """
    from safetensors.torch import load_file
    from transformers import AutoModel

    written: nn.Module = AutoModel.from_pretrained(folder, local_files_only=True).eval()
    table = load_file(folder / WEIGHTS)["item_table"]
    rows = torch.arange(min(_TRIED_ITEMS, len(table), config.model.max_history_length)).unsqueeze(0)
    expected = recommender.attached.model.hidden(rows.to(recommender.device)).float().cpu()
    found = written(inputs_embeds=table[rows]).last_hidden_state
    difference = float((found - expected).abs().max())
    close = config.model.weights != "float32" or difference <= _TOLERANCE * float(expected.abs().max())
    if not close or families.looks_ahead(written):
        raise TacitError(
            f"Expected plain transformers to compute what the run's model does, got a difference of {difference:.2g}. "
            f"Nothing was written; model.backbone={Path(config.model.backbone).name} cannot be exported."
        )
    return difference
