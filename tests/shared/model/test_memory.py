"""The estimate of memory: against counts by hand and against what a process really takes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from shared.config import RunConfig
from shared.errors import ConfigError
from shared.model.backbone import load_backbone
from shared.model.families import SUPPORTED_MODEL_TYPES
from shared.model.memory import available_memory, head_that_fits, memory_needed, require_memory, require_memory_for_head
from simulations.feasibility import require_enough_memory

Folders = Callable[[str], str]
ROOT = Path(__file__).parents[3]


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
    assert many.items == 4 * 100_000 * (2 * 16 + 128)
    assert few.items == 4 * 100 * (2 * 16 + 128) + 4 * 100**2  # few items have a table of similarities
    assert many.one_pass > 100 * few.one_pass
    sampled = memory_needed(configured(tiny_bert, training__negatives=100), num_items=100_000)
    assert sampled.one_pass == few.one_pass


def test_checkpointing_and_a_transformer_without_adapters_keep_less_of_a_pass(tiny_family: Folders) -> None:
    folder = tiny_family("llama")

    def one_pass(**values: object) -> int:
        return memory_needed(configured(folder, **values), num_items=10).one_pass

    kept, again = (one_pass(adapter__rank=2, training__gradient_checkpointing=value) for value in (False, True))
    tokens, scores = 64 * 10, 4 * 4 * 64 * 10 * 10
    a_layer = 4 * tokens * (12 * 64 + 4 * 128)
    assert (kept, again) == (2 * a_layer + scores, 4 * 2 * tokens * 64 + a_layer + scores)
    assert one_pass(adapter__rank=0, adapter__head_rank=4) == a_layer + scores
    for part in ("input_rank", "item_rank"):
        assert one_pass(**{f"adapter__{part}": 1}, privacy__epsilon=float("inf")) == kept
    assert one_pass(adapter__ranks="layers.1=2") == kept


_LOAD = """
import sys
from shared.model.backbone import load_backbone

def held():
    lines = dict(line.split(":") for line in open("/proc/self/status"))
    return int(lines["VmRSS"].split()[0]) * 1024

load_backbone(sys.argv[2], weights=sys.argv[3])  # a tiny one, for all that is imported on the way
before = held()
kept = load_backbone(sys.argv[1], weights=sys.argv[3]).transformer
print(held() - before)
"""


@pytest.mark.soak
@pytest.mark.parametrize("weights", ["int8", "int4"])
def test_a_process_holds_quantized_weights_and_not_what_they_were_made_from(
    weights: str, tiny_family: Folders, tmp_path: Path
) -> None:
    """38 million parameters, 150 MB in their file."""
    from transformers import LlamaConfig, LlamaModel

    config = LlamaConfig(
        vocab_size=100, hidden_size=768, num_hidden_layers=5, num_attention_heads=12, intermediate_size=2304, pad_token_id=0
    )
    LlamaModel(config).save_pretrained(tmp_path)
    needed = memory_needed(configured(str(tmp_path), model__weights=weights), num_items=10).weights
    command = [sys.executable, "-c", _LOAD, str(tmp_path), tiny_family("llama"), weights]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=300)
    assert needed / 2 < int(done.stdout) < 2 * needed + 8 * 2**20


def test_weights_that_cannot_fit_are_refused_and_others_are_not(tiny_bert: str) -> None:
    estimate = memory_needed(configured(tiny_bert), num_items=10)
    needed = max(estimate.weights, estimate.encoding)
    require_memory(estimate, available=needed, where="this machine", weights="float32")
    message = r"^Expected a backbone that fits the 0 MiB of this machine, got one of \d+ MiB with model\.weights=float32\."
    with pytest.raises(ConfigError, match=message):
        require_memory(estimate, available=needed - 1, where="this machine", weights="float32")


def test_pairs_take_ten_matrices_of_the_head_and_their_factors_and_are_in_the_sentence(tiny_bert: str) -> None:
    without, few, many = (memory_needed(configured(tiny_bert), num_items=10, head=head) for head in (0, 1000, 2000))
    of_items = 3 * 4 * 10 * (128 + 128)  # factors and directions of ten items
    assert (without.statistics, few.statistics - of_items, many.statistics - of_items) == (0, 80 * 1000**2, 80 * 2000**2)
    assert many.largest - few.largest <= 80 * 3 * 1000**2
    assert "statistics 76 MiB" in few.sentence()


@pytest.mark.parametrize("head", [2, 50, 2000])
def test_the_head_is_the_largest_that_memory_has_room_for(head: int) -> None:
    needed = 80 * head**2
    assert head_that_fits(head, beside=7, available=needed + 7) == head
    assert head_that_fits(2000, beside=7, available=needed + 7) == head
    assert head_that_fits(head, beside=0, available=0) == 2


def test_a_head_that_this_machine_cannot_hold_is_refused_with_one_that_it_can(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shared.model.memory.available_memory", lambda device: (80 * 500**2, "this machine"))
    require_memory_for_head(500)
    message = r"^Expected the pairs of a head of 501 items to fit the 19 MiB of this machine, .*statistics\.head=500 or less"
    with pytest.raises(ConfigError, match=message):
        require_memory_for_head(501)


def test_a_simulation_counts_pairs_of_as_many_items_as_memory_has_room_for(
    tiny_bert: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The smaller head is a setting of the run, so server and clients have the same."""
    config = configured(tiny_bert, run__device="cpu")
    unchanged, said = require_enough_memory(config, num_items=10, head=300)
    assert unchanged is config and "instead of" not in said
    estimate = memory_needed(config, num_items=10)
    room = max(estimate.encoding, estimate.items + 80 * 70**2) + estimate.weights
    monkeypatch.setattr("shared.model.memory.available_memory", lambda device: (room, "this machine"))
    fitting, said = require_enough_memory(config, num_items=10, head=3000)
    assert 70 <= fitting.statistics.head < 3000
    assert f"among {fitting.statistics.head} items instead of 3000" in said
    # A run that was begun with a head, or continues one with it, keeps it or is refused.
    for begun in ({"run.resume": True}, {"run.continues": "earlier"}):
        assert require_enough_memory(config.with_values(begun), num_items=10, head=70)[0].statistics == config.statistics
        with pytest.raises(ConfigError, match=r"^Expected the pairs of a head of 3000 items to fit the"):
            require_enough_memory(config.with_values(begun), num_items=10, head=3000)


def test_the_memory_of_this_machine_is_no_more_than_it_has() -> None:
    import psutil
    import torch

    available, where = available_memory(torch.device("cpu"))
    assert 2**28 < available <= psutil.virtual_memory().total and where == "this machine"


_TRAIN = """
import re, sys
from pathlib import Path
import numpy as np, torch
torch.set_num_threads(1)
from shared.config import RunConfig
from shared.data.catalog import ItemCatalog
from shared.model.recommender import build
from client.training.examples import Examples, batch_losses, to_batch
from shared.data.sequences import RaggedHistories
config = RunConfig.from_mapping({"model.backbone": sys.argv[1], "model.layers": 0, "adapter.rank": 2})
ids = tuple(f"w{i % 60} {i}" for i in range(2000))
recommender = build(config, ItemCatalog(ids, ids))
def kilobytes(name):
    return int(re.search(rf"{name}:\\s+(\\d+)", Path("/proc/self/status").read_text()).group(1))
# The peak so far is that of encoding texts, or what the parent process had when it forked.
Path("/proc/self/clear_refs").write_text("5")
before = kilobytes("VmRSS")
length = config.model.max_history_length + 1
histories = [np.arange(length) for _ in range(config.training.physical_batch_size)]
batch = to_batch(Examples(RaggedHistories.of(histories), np.zeros(len(histories), dtype=bool)), recommender)
batch_losses(recommender, batch).sum().backward()
print(kilobytes("VmHWM") - before)
"""


@pytest.mark.soak
def test_a_pass_of_training_takes_about_what_was_estimated() -> None:
    """Within a factor of two, in a process of its own, for the default backbone with all its layers."""
    settings = configured("all-MiniLM-L6-v2", adapter__rank=2, model__max_history_length=50)
    estimate = memory_needed(settings, num_items=2000)
    done = subprocess.run(
        [sys.executable, "-c", _TRAIN, "all-MiniLM-L6-v2"], cwd=ROOT, capture_output=True, text=True, check=True, timeout=300
    )
    taken = 1024 * int(done.stdout)
    assert estimate.one_pass / 2 < taken < 2 * estimate.one_pass
