"""What `tacit doctor --backbone NAME` finds out about a backbone: what it is, what it needs, and what works with it.

Nothing is believed: where memory allows, the model is loaded, shown not to look ahead, and one user's gradient is compared
with what plain autograd says.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from shared.errors import ConfigError, TacitError
from shared.model.state import RecommenderState

if TYPE_CHECKING:
    from shared.model.recommender import Recommender

_ITEMS = 10_000
_TOLERANCE = 1e-3


def examine_backbone(name: str) -> Iterator[dict[str, Any]]:
    """Rows with name, value, ok (None where it is only said) and advice, cheapest first; it ends with the first that fails.

    Args:
        name: A bundled name, a local directory, or a hub name. (public)
    """
    import torch

    from shared.config import RunConfig
    from shared.model.backbone import locate, read_config, weights_digest
    from shared.model.memory import available_memory, memory_needed, size_text

    try:
        own, folder = read_config(name), locate(name)
        yield _row("family", f"{own.model_type}, {own.num_hidden_layers} layers of width {own.hidden_size}", True)
        yield _row("longest history", f"{own.max_position_embeddings} positions", None)
        yield _tokenizer(folder)
        yield _row("weights", f"sha256 {weights_digest(name)[:12]}...", True)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        available, where = available_memory(device)
        fits = []
        for weights in ("float32", "bfloat16", "int8", "int4"):
            config = RunConfig.from_mapping({"model.backbone": name, "model.layers": 0, "model.weights": weights})
            estimate = memory_needed(config, num_items=_ITEMS)
            there = max(estimate.weights, estimate.encoding) <= available
            fits += [weights] if there else []
            advice = f"More than {where} has; keep fewer model.layers or smaller weights."
            found = (
                f"{size_text(estimate.weights)} frozen ({estimate.parameters / 1e6:.1f} million parameters), "
                f"{size_text(estimate.encoding)} more while texts are encoded; {size_text(estimate.largest)} at most "
                f"in training with {_ITEMS:,} items{_lacking(weights)}"
            )
            yield _row(f"memory, {weights}", found, None if there else False, advice)
        if fits:
            yield from _tried(name, fits[0])
    except TacitError as error:
        yield _row("backbone", name, False, str(error))


def _lacking(weights: str) -> str:
    from shared.model.frozen_weights import require_package

    try:
        require_package(weights)
    except ConfigError:
        return "; needs pip install 'tacit[quantized]'"
    return ""


def _row(name: str, value: str, ok: bool | None, advice: str = "") -> dict[str, Any]:
    return {"name": name, "value": value, "ok": ok, "advice": "" if ok else advice}


def _tokenizer(folder: Path) -> dict[str, Any]:
    found = next((name for name in ("tokenizer.json", "vocab.txt", "vocab.json") if (folder / name).is_file()), None)
    advice = "Save the tokenizer into the same directory; without it items need model.modalities without text."
    return _row("tokenizer", found or "missing", found is not None, advice)


def _tried(name: str, weights: str) -> Iterator[dict[str, Any]]:
    """Makes a recommender of the lowest layer on vectors that need no encoding, and puts it to the test."""
    import torch

    from shared.config import RunConfig
    from shared.data.catalog import ItemCatalog
    from shared.model.recommender import build

    settings = {"model.backbone": name, "model.layers": 1, "model.weights": weights, "model.max_history_length": 8}
    config = RunConfig.from_mapping({**settings, "model.modalities": "vector", "adapter.rank": 2, "adapter.output_rank": 2})
    ids = ("a", "b", "c", "d")
    vectors = pl.Series("vector", np.eye(4, dtype=np.float32).tolist(), dtype=pl.Array(pl.Float32, 4))
    recommender = build(config, ItemCatalog(ids, ids, vectors.to_frame()))
    generator = torch.Generator().manual_seed(0)
    vector = torch.from_numpy(recommender.initial_adapter)
    learned = vector + torch.randn(vector.shape, generator=generator) / 4
    recommender.load_state(RecommenderState(np.zeros(len(ids), dtype=np.float32), learned.numpy()))
    transformer = recommender.attached.model.transformer
    width = recommender.attached.model.item_embedding.embedding_dim
    inputs = torch.randn(2, 8, width, generator=generator).to(recommender.device)
    changed = inputs.clone()
    changed[:, 5:] = torch.randn(2, 3, width, generator=generator).to(recommender.device)
    with torch.no_grad():
        before, after = (transformer(inputs_embeds=x).last_hidden_state for x in (inputs, changed))
    ahead = float((after - before)[:, :5].abs().max())
    yield _row("looks ahead", "no" if ahead < _TOLERANCE else "yes", ahead < _TOLERANCE, "It cannot be used.")
    error = _gradient_error(recommender)
    advice = "Per-user clipping would clip something else; do not train privately on it, and report it."
    yield _row("gradients of each user", f"those of autograd within {error:.0e}", error < _TOLERANCE, advice)
    yield _row("privacy", "closed form and Opacus; with gradient checkpointing the closed form alone", True)


def _gradient_error(recommender: Recommender) -> float:
    """The largest relative difference between a user's gradient in a batch and by itself; NaN without any."""
    import torch

    from client.training.examples import Examples, batch_losses, to_batch
    from client.training.per_example import closed_form
    from shared.data.sequences import RaggedHistories

    histories = [np.array([0, 1, 2, 3, 1]), np.array([2, 0, 3])]
    parameters = recommender.attached.parameters

    def losses(chosen: list[Any]) -> torch.Tensor:
        examples = Examples(RaggedHistories.of(chosen), np.zeros(len(chosen), dtype=np.bool_))
        return batch_losses(recommender, to_batch(examples, recommender))

    with closed_form(recommender.attached.model, parameters) as collect:
        losses(histories).sum().backward()  # type: ignore[no-untyped-call]
        together = [sample.reshape(len(histories), -1) for sample in collect(len(histories))]
    errors = []
    for row, history in enumerate(histories):
        alone = torch.autograd.grad(losses([history]).sum(), parameters)
        expected = torch.cat([gradient.flatten() for gradient in alone])
        errors.append(float((torch.cat([sample[row] for sample in together]) - expected).norm() / expected.norm()))
    return float(np.max(errors))
