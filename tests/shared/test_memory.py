"""The estimate of memory: against counts by hand and against what a process really takes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from shared.backbone import load_backbone
from shared.config import RunConfig
from shared.errors import ConfigError
from shared.families import SUPPORTED_MODEL_TYPES
from shared.memory import available_memory, memory_needed, require_memory

Folders = Callable[[str], str]


def configured(backbone: str, **values: object) -> RunConfig:
    settings = {"model.backbone": backbone, "model.layers": 0, "model.max_history_length": 10}
    return RunConfig.from_mapping({**settings, **{key.replace("__", "."): value for key, value in values.items()}})


@pytest.mark.parametrize("family", SUPPORTED_MODEL_TYPES)
def test_the_parameters_of_every_family_are_counted_without_making_them(family: str, tiny_family: Folders) -> None:
    folder = tiny_family(family)
    for layers in (1, 0):
        estimate = memory_needed(configured(folder, model__layers=layers), num_items=10)
        loaded = load_backbone(folder, num_layers=layers).transformer
        # The word table's stand-in has one parameter.
        assert estimate.parameters == sum(parameter.numel() for parameter in loaded.parameters()) - 1
        assert estimate.weights == 4 * estimate.parameters


@pytest.mark.parametrize("weights", ["bfloat16", "int8", "int4"])
def test_smaller_weights_take_the_bytes_they_are_made_of(weights: str, tiny_family: Folders) -> None:
    folder = tiny_family("llama")
    transformer = load_backbone(folder, weights=weights).transformer
    kept = sum(parameter.numel() * parameter.element_size() for parameter in transformer.parameters())
    estimate = memory_needed(configured(folder, model__weights=weights), num_items=10)
    scales = 4 * estimate.parameters // 64 if weights == "int4" else 0
    assert estimate.weights == pytest.approx(kept + scales, rel=0.02)


def test_items_grow_with_the_catalog_and_negatives_bound_the_scores_of_a_pass(tiny_bert: str) -> None:
    few, many = (memory_needed(configured(tiny_bert), num_items=count) for count in (100, 100_000))
    assert many.items == 1000 * few.items == 4 * 100_000 * (2 * 16 + 128)
    assert many.one_pass > 100 * few.one_pass
    sampled = memory_needed(configured(tiny_bert, training__negatives=100), num_items=100_000)
    assert sampled.one_pass == few.one_pass


def test_checkpointing_keeps_less_of_a_pass(tiny_family: Folders) -> None:
    folder = tiny_family("llama")
    kept = memory_needed(configured(folder), num_items=10)
    again = memory_needed(configured(folder, training__gradient_checkpointing=True), num_items=10)
    assert again.one_pass < kept.one_pass


def test_weights_that_cannot_fit_are_refused_and_others_are_not(tiny_bert: str) -> None:
    estimate = memory_needed(configured(tiny_bert), num_items=10)
    needed = max(estimate.weights, estimate.encoding)
    require_memory(estimate, available=needed, where="this machine", weights="float32")
    message = r"^Expected a backbone that fits the 0 MiB of this machine, got one of \d+ MiB with model\.weights=float32\."
    with pytest.raises(ConfigError, match=message):
        require_memory(estimate, available=needed - 1, where="this machine", weights="float32")


def test_the_memory_of_this_machine_is_no_more_than_it_has() -> None:
    import psutil
    import torch

    available, where = available_memory(torch.device("cpu"))
    assert 2**28 < available <= psutil.virtual_memory().total and where == "this machine"


_TRAIN = """
import resource, sys
import numpy as np, torch
torch.set_num_threads(1)
from shared.config import RunConfig
from shared.catalog import ItemCatalog
from shared.recommender import build
from client.batches import Examples, batch_losses, to_batch
from shared.sequences import RaggedHistories
config = RunConfig.from_mapping({"model.backbone": sys.argv[1], "model.layers": 0, "adapter.rank": 2})
ids = tuple(f"w{i % 60} {i}" for i in range(2000))
recommender = build(config, ItemCatalog(ids, ids))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
length = config.model.max_history_length + 1
histories = [np.arange(length) for _ in range(config.training.physical_batch_size)]
batch = to_batch(Examples(RaggedHistories.of(histories), np.zeros(len(histories), dtype=bool)), recommender)
batch_losses(recommender, batch).sum().backward()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_a_pass_of_training_takes_about_what_was_estimated() -> None:
    """Within a factor of two, in a process of its own, for the default backbone with all its layers."""
    root = Path(__file__).parent.parent.parent
    settings = configured("all-MiniLM-L6-v2", adapter__rank=2, model__max_history_length=50)
    estimate = memory_needed(settings, num_items=2000)
    done = subprocess.run(
        [sys.executable, "-c", _TRAIN, "all-MiniLM-L6-v2"], cwd=root, capture_output=True, text=True, check=True, timeout=300
    )
    taken = 1024 * int(done.stdout)
    assert estimate.one_pass / 2 < taken < 2 * estimate.one_pass
