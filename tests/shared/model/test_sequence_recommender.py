"""The recommender without training is text similarity + popularity, computed here again in plain numpy."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch

from shared.config import ModelSection, RunConfig
from shared.errors import ConfigError, UnsupportedMechanism
from shared.model.backbone import encode_texts, load_backbone
from shared.model.recommender import build
from shared.model.sequence_recommender import SequenceRecommender, ZeroLinear
from shared.model.state import RecommenderState
from tests import rounding
from tests.running import ROOT

SETTINGS = {
    "text_similarity_weight": 2.5, "text_similarity_decay": 0.7, "text_similarity_items": 3,
    "popularity_weight": 1.5,    "max_history_length": 8,
}  # fmt: skip


def _model(folder: str, catalog: Any, **changes: Any) -> SequenceRecommender:
    vectors = encode_texts(catalog.texts, backbone=folder)
    return SequenceRecommender(load_backbone(folder), vectors, ModelSection(**{**SETTINGS, **changes}))


def _expected(vectors: np.ndarray, prior: np.ndarray, history: list[int]) -> np.ndarray:
    """Cosine to the last three items' centered texts, later ones heavier, and the weighted prior."""
    texts = vectors.astype(np.float64) - vectors.astype(np.float64).mean(axis=0)
    texts = np.array([row / np.sqrt(row @ row) for row in texts])
    direction = np.zeros(texts.shape[1])
    for steps_back, item in enumerate(reversed(history[-3:])):
        direction += 0.7**steps_back * texts[item]
    direction /= np.sqrt(direction @ direction)
    return np.array([2.5 * (row @ direction) for row in texts]) + 1.5 * prior


@pytest.mark.parametrize("pairs_fit", [True, False])
@pytest.mark.parametrize("backbone", ["tiny_bert", "tiny_gpt2"])
def test_an_untrained_model_is_text_similarity_plus_popularity(
    backbone: str, pairs_fit: bool, request: pytest.FixtureRequest, tiny_catalog: Any, monkeypatch: Any
) -> None:
    monkeypatch.setattr("shared.model.sequence_recommender.MOST_PAIRED_ITEMS", 12 if pairs_fit else 11)
    folder = request.getfixturevalue(backbone)
    model = _model(folder, tiny_catalog)
    prior = np.log(np.arange(1, 13) / 78).astype(np.float32)
    model.set_log_prior(prior)
    histories = [[3], [1, 5], [0, 4, 4, 9], [2, 2, 7, 11, 6, 1, 0, 3]]
    assert (model.text_pairs is not None) == pairs_fit
    scores = model(torch.tensor([[*history, *[0] * (8 - len(history))] for history in histories])).numpy()
    vectors = encode_texts(tiny_catalog.texts, backbone=folder)
    for row, history in zip(scores, histories, strict=True):
        for length in range(1, len(history) + 1):
            expected = _expected(vectors, prior, history[:length])
            rounding.assert_close(row[length - 1], expected, within=rounding.of_model(model))


def _trained(config: RunConfig, catalog: Any) -> SequenceRecommender:
    """With every path at work: an adapter and a prior that are far from zero."""
    recommender = build(config, catalog)
    rng = np.random.default_rng(3)
    recommender.load_state(
        RecommenderState(
            rng.normal(0, 1, 12).astype(np.float32),
            rng.normal(0, 0.5, recommender.attached.size).astype(np.float32),
        )
    )
    return recommender.attached.model


def _after_the_last(model: SequenceRecommender, items: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """Scores (B, I) of the next item, as ranking takes them."""
    return model.score_encoded(*model.encode_last(items, lengths), items, lengths)


def test_padding_does_not_matter(tiny_config: RunConfig, tiny_catalog: Any) -> None:
    model = _trained(tiny_config, tiny_catalog)
    with torch.no_grad():
        alone = model(torch.tensor([[3, 1, 4]]))
        for padding in ([0, 0, 0], [11, 5, 9]):
            padded = model(torch.tensor([[3, 1, 4, *padding], [2, 7, 1, 8, 2, 8]]))
            rounding.assert_close(padded[:1, :3], alone, within=rounding.of_model(model))
        assert (model(torch.tensor([[3, 2, 4]]))[0, 2] - alone[0, 2]).abs().max() > 1e-3


def test_scores_at_the_last_position_equal_the_whole_forward_pass(tiny_config: RunConfig, tiny_catalog: Any) -> None:
    model = _trained(tiny_config, tiny_catalog)
    items = torch.tensor([[3, 1, 4, 1, 5, 9], [2, 6, 0, 0, 0, 0], [5, 0, 0, 0, 0, 0]])
    lengths = torch.tensor([6, 2, 1])
    with torch.no_grad():
        everywhere = model(items)
    last = _after_the_last(model, items, lengths)
    assert everywhere.shape == (3, 6, 12)
    rounding.assert_close(last, everywhere[torch.arange(3), lengths - 1], within=rounding.of_model(model))


@pytest.mark.parametrize("ranks", [{}, {"adapter.head_rank": 0}])
def test_a_few_items_at_a_time_give_the_scores_of_all_at_once(
    ranks: dict[str, int], tiny_config: RunConfig, tiny_catalog: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = _trained(tiny_config.with_values(ranks), tiny_catalog)
    monkeypatch.setattr("shared.model.sequence_recommender._BLOCK", 5)
    parts = _trained(tiny_config.with_values(ranks), tiny_catalog)
    items, lengths = torch.tensor([[3, 1, 4, 1, 5, 9], [2, 6, 0, 0, 0, 0]]), torch.tensor([6, 2])
    within = rounding.of_model(whole)
    rounding.assert_close(parts.content, whole.content, within=within)
    rounding.assert_close(parts.centered_texts, whole.centered_texts, within=within)
    rounding.assert_close(_after_the_last(parts, items, lengths), _after_the_last(whole, items, lengths), within=within)


def test_means_and_directions_are_those_of_known_items_wherever_the_blocks_end(
    tiny_bert: str, tiny_catalog: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors = encode_texts(tiny_catalog.texts, backbone=tiny_bert)
    for block in (1, 3, 7, 8, 12):
        monkeypatch.setattr("shared.model.sequence_recommender._BLOCK", block)
        grown = SequenceRecommender(load_backbone(tiny_bert), vectors, ModelSection(**SETTINGS), num_new_items=4)
        old = SequenceRecommender(load_backbone(tiny_bert), vectors[:8], ModelSection(**SETTINGS))
        rounding.assert_close(grown.content[:8], old.content, within=rounding.of_model(old))
        rounding.assert_close(grown.centered_texts[:8], old.centered_texts, within=rounding.of_model(old))


def test_sampled_scores_are_those_of_the_target_and_the_negatives(tiny_config: RunConfig, tiny_catalog: Any) -> None:
    model = _trained(tiny_config.with_values({"adapter.head_rank": 0}), tiny_catalog)
    items = torch.tensor([[3, 1, 4, 1, 5, 9], [2, 6, 0, 0, 0, 0]])
    targets, negatives = torch.tensor([[1, 4, 1, 5, 9, 11], [6, 0, 2, 2, 2, 2]]), torch.tensor([0, 4, 11])
    with torch.no_grad():
        hidden = model.hidden(items)
        everything, found = model.scores_after(hidden, items), model.sampled_scores_after(hidden, items, targets, negatives)
    assert found.shape == (2, 6, 4)
    of_targets = everything.gather(2, targets.unsqueeze(2)).squeeze(2)
    rounding.assert_close(found[..., 0], of_targets, within=rounding.of_model(model))
    rounding.assert_close(found[..., 1:], everything[..., negatives], within=rounding.of_model(model))


def test_sampled_scores_are_refused_where_items_have_factors_of_their_own(tiny_config: RunConfig, tiny_catalog: Any) -> None:
    model, items = _trained(tiny_config, tiny_catalog), torch.tensor([[3, 1]])
    with pytest.raises(
        UnsupportedMechanism, match=r"^Expected adapter\.head_rank = 0 for sampled negatives, got an item head"
    ):
        model.sampled_scores_after(model.hidden(items), items, items, torch.tensor([1]))


def test_a_zero_weight_takes_no_memory_wherever_it_is_moved_and_gives_room_to_one_that_is_not() -> None:
    layer = ZeroLinear(3, 10**7)
    for move in (lambda: layer, lambda: layer.to("cpu"), layer.double):
        assert move().weight.shape == (10**7, 3)
        assert layer.weight.untyped_storage().nbytes() <= 8
    assert layer.weight.dtype == torch.float64
    small = ZeroLinear(3, 2)
    inputs = torch.tensor([[1.0, 2.0, 3.0]])
    assert small(inputs).tolist() == [[0.0, 0.0]]
    small.set_weight(torch.tensor([[1, 0, 0], [0, 0, 2]]))
    assert small(inputs).tolist() == [[1.0, 6.0]]
    assert small.double().weight.tolist() == [[1.0, 0.0, 0.0], [0.0, 0.0, 2.0]]


def test_building_and_scoring_take_little_memory_beside_what_the_model_keeps(tiny_bert: str) -> None:
    """In a process of its own, whose greatest memory is its own: 500,000 items, 16 wide.

    Kept are 96 MB: vectors, centered ones and directions. The weights of two zero layers, or one copy in double precision,
    would add 32 or 64 MB to each; scores of 8 users are 16 MB.
    """
    program = """
import re, sys
import numpy as np, torch
from shared.model.backbone import load_backbone
from shared.config import ModelSection
from shared.model.sequence_recommender import SequenceRecommender
torch.set_num_threads(1)
backbone = load_backbone(sys.argv[1])
small = np.random.default_rng(0).standard_normal((5000, 16), dtype=np.float32)
def score(vectors):
    model = SequenceRecommender(backbone, vectors, ModelSection(max_history_length=8))
    items, lengths = torch.ones(8, 3, dtype=torch.int64), torch.full((8,), 3)
    model.score_encoded(*model.encode_last(items, lengths), items, lengths)
    return model
score(small)
vectors = np.tile(small, (100, 1))
vectors += np.float32(1e-3)
def memory(name):
    return int(re.search(name + r":\\s*(\\d+) kB", open("/proc/self/status").read()).group(1))
before = memory("VmRSS")
model = score(vectors)
print(memory("VmHWM") - before)
"""
    done = subprocess.run([sys.executable, "-c", program, tiny_bert], capture_output=True, text=True, check=True, cwd=ROOT)
    assert int(done.stdout) / 1024 < 64 + 16 + 40


def test_a_history_longer_than_the_backbone_reads_is_refused(tiny_bert: str, tiny_catalog: Any) -> None:
    message = r"Expected model\.max_history_length <= 64, the positions of the backbone, got .*_length=65\."
    with pytest.raises(ConfigError, match=message):
        _model(tiny_bert, tiny_catalog, max_history_length=65)
    assert _model(tiny_bert, tiny_catalog, max_history_length=64)(torch.zeros(1, 64, dtype=torch.int64)).shape[1] == 64


@pytest.mark.parametrize("items", [1, 2, 7])
def test_items_whose_texts_are_all_alike_are_told_apart_by_their_popularity_alone(tiny_bert: str, items: int) -> None:
    """Rounding is not taken for a difference between texts, nor no difference for no parameter."""
    (vector,) = encode_texts(["w1 w2 w3"], backbone=tiny_bert)
    model = SequenceRecommender(load_backbone(tiny_bert), np.tile(vector, (items, 1)), ModelSection(**SETTINGS))
    assert model.content.shape == (items, 1)
    assert not model.content.any()
    assert not model.centered_texts.any()
    prior = np.log(np.arange(1, items + 1) / items).astype(np.float32)
    model.set_log_prior(prior)
    rounding.assert_close(model(torch.tensor([[0, items - 1]]))[0, 1], 1.5 * prior, within=rounding.rounding())


def test_item_vectors_of_another_width_are_refused(tiny_bert: str) -> None:
    vectors = np.eye(12, dtype=np.float32)
    with pytest.raises(ConfigError, match=r"Expected item vectors of the backbone's width 16, got width=12\."):
        SequenceRecommender(load_backbone(tiny_bert), vectors, ModelSection())


def test_nothing_of_the_model_itself_is_trained(tiny_bert: str, tiny_catalog: Any) -> None:
    assert not [name for name, value in _model(tiny_bert, tiny_catalog).named_parameters() if value.requires_grad]
