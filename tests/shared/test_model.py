"""The recommender without training is text similarity + popularity, computed here again in plain numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from shared.backbone import encode_texts, load_backbone
from shared.config import ModelSection, RunConfig
from shared.errors import ConfigError
from shared.model import SequenceRecommender
from shared.recommender import build
from shared.update import RecommenderState

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
    monkeypatch.setattr("shared.model._MOST_PAIRED_ITEMS", 12 if pairs_fit else 11)
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
            np.testing.assert_allclose(row[length - 1], _expected(vectors, prior, history[:length]), atol=2e-5)


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


def test_padding_does_not_matter(tiny_config: RunConfig, tiny_catalog: Any) -> None:
    model = _trained(tiny_config, tiny_catalog)
    with torch.no_grad():
        alone = model(torch.tensor([[3, 1, 4]]))
        for padding in ([0, 0, 0], [11, 5, 9]):
            padded = model(torch.tensor([[3, 1, 4, *padding], [2, 7, 1, 8, 2, 8]]))
            torch.testing.assert_close(padded[:1, :3], alone, rtol=1e-4, atol=1e-5)
        assert (model(torch.tensor([[3, 2, 4]]))[0, 2] - alone[0, 2]).abs().max() > 1e-3


def test_scores_at_the_last_position_equal_the_whole_forward_pass(tiny_config: RunConfig, tiny_catalog: Any) -> None:
    model = _trained(tiny_config, tiny_catalog)
    items = torch.tensor([[3, 1, 4, 1, 5, 9], [2, 6, 0, 0, 0, 0], [5, 0, 0, 0, 0, 0]])
    lengths = torch.tensor([6, 2, 1])
    with torch.no_grad():
        everywhere = model(items)
    last = model.score_last(items, lengths)
    assert everywhere.shape == (3, 6, 12)
    torch.testing.assert_close(last, everywhere[torch.arange(3), lengths - 1], rtol=1e-5, atol=1e-6)


def test_a_history_longer_than_the_backbone_reads_is_refused(tiny_bert: str, tiny_catalog: Any) -> None:
    message = r"Expected model\.max_history_length <= 64, the positions of the backbone, got .*_length=65\."
    with pytest.raises(ConfigError, match=message):
        _model(tiny_bert, tiny_catalog, max_history_length=65)
    assert _model(tiny_bert, tiny_catalog, max_history_length=64)(torch.zeros(1, 64, dtype=torch.int64)).shape[1] == 64


def test_item_vectors_of_another_width_are_refused(tiny_bert: str) -> None:
    vectors = np.eye(12, dtype=np.float32)
    with pytest.raises(ConfigError, match=r"Expected item vectors of the backbone's width 16, got width=12\."):
        SequenceRecommender(load_backbone(tiny_bert), vectors, ModelSection())


def test_nothing_of_the_model_itself_is_trained(tiny_bert: str, tiny_catalog: Any) -> None:
    assert not [name for name, value in _model(tiny_bert, tiny_catalog).named_parameters() if value.requires_grad]
