import numpy as np
import pytest
import torch

from shared.config import RunConfig
from shared.data.catalog import ItemCatalog
from shared.errors import CheckpointError
from shared.model.growth import grown
from shared.model.recommender import Recommender, build
from tests import rounding

HISTORIES = [np.array([0, 3, 1], dtype=np.int32), np.array([5], dtype=np.int32), np.array([], dtype=np.int32)]
NEW = ItemCatalog(("n1", "n2"), ("w3 w7", "w11 w2 w5"))


def configured(backbone: str, **values: object) -> RunConfig:
    settings = {
        "model.backbone": backbone,
        "model.max_history_length": 12,
        "privacy.epsilon": "inf",
        "adapter.rank": 2,
        "adapter.output_rank": 2,
        "adapter.head_rank": 2,
        "adapter.item_rank": 2,
    }
    return RunConfig.from_mapping({**settings, **{key.replace("__", "."): value for key, value in values.items()}})


def learned(config: RunConfig, catalog: ItemCatalog) -> Recommender:
    """A recommender whose every factor, frozen ones too, is other than at its initialization."""
    recommender = build(config, catalog)
    torch.manual_seed(5)
    with torch.no_grad():
        for name, parameter in recommender.attached.model.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.3)
    recommender.attached.model.set_log_prior(np.linspace(-4, -1, catalog.num_items).astype(np.float32))
    return recommender


@pytest.mark.parametrize("kind", ["lora", "ffa"])
@pytest.mark.parametrize("backbone", ["tiny_bert", "tiny_gpt2"])
def test_a_grown_recommender_scores_old_items_as_before(
    backbone: str, kind: str, tiny_catalog: ItemCatalog, request: pytest.FixtureRequest
) -> None:
    config = configured(request.getfixturevalue(backbone), adapter__kind=kind)
    before = learned(config, tiny_catalog)
    after = grown(before, config, tiny_catalog.grown(NEW))
    scores = after.score(HISTORIES)
    assert scores.shape == (3, tiny_catalog.num_items + 2)
    rounding.assert_close(scores[:, :-2], before.score(HISTORIES), within=rounding.of_scores(before))


def test_a_grown_recommender_keeps_the_residual_of_exact_aggregation(tiny_bert: str, tiny_catalog: ItemCatalog) -> None:
    config = configured(tiny_bert, adapter__kind="lora", adapter__aggregation="residual")
    before = learned(config, tiny_catalog)
    assert before.attached.residual is not None
    before.attached.residual.load(
        np.random.default_rng(0).normal(size=before.attached.residual_size).astype(np.float32) * 0.1
    )
    after = grown(before, config, tiny_catalog.grown(NEW))
    within = rounding.of_scores(before)
    rounding.assert_close(after.score(HISTORIES)[:, :-2], before.score(HISTORIES), within=within)


def test_a_new_item_scores_like_an_old_one_with_the_same_text_and_prior_where_items_have_no_factors(
    tiny_bert: str, tiny_catalog: ItemCatalog
) -> None:
    config = configured(tiny_bert, adapter__head_rank=0, adapter__item_rank=0)
    before = learned(config, tiny_catalog)
    before.attached.model.set_log_prior(np.full(tiny_catalog.num_items, -2.0, dtype=np.float32))
    twin = ItemCatalog(("twin",), (tiny_catalog.texts[4],))
    scores = grown(before, config, tiny_catalog.grown(twin)).score(HISTORIES)
    rounding.assert_close(scores[:, -1], scores[:, 4], within=rounding.of_scores(before))
    assert np.abs(scores[:2, -1] - scores[:2, 3]).min() > 1e-3


def test_a_new_item_is_expected_to_be_as_popular_as_an_average_one(tiny_bert: str, tiny_catalog: ItemCatalog) -> None:
    config = configured(tiny_bert)
    before = learned(config, tiny_catalog)
    prior = grown(before, config, tiny_catalog.grown(NEW)).attached.model.log_prior.numpy()
    shares = np.exp(before.attached.model.log_prior.numpy().astype(np.float64))
    expected = np.full(2, shares.sum() / len(shares))
    rounding.assert_close(np.exp(prior[-2:]), expected, within=rounding.rounding(sums=2, length=len(shares)))


def test_new_items_can_be_in_a_history(tiny_bert: str, tiny_catalog: ItemCatalog) -> None:
    config = configured(tiny_bert)
    after = grown(learned(config, tiny_catalog), config, tiny_catalog.grown(NEW))
    new = tiny_catalog.num_items
    with_new, without = after.score([np.array([0, new], dtype=np.int32), np.array([0], dtype=np.int32)])
    assert np.isfinite(with_new).all() and np.abs(with_new - without).max() > 1e-3


def test_a_catalog_that_was_not_grown_from_the_own_one_is_refused(tiny_bert: str, tiny_catalog: ItemCatalog) -> None:
    config = configured(tiny_bert)
    recommender = build(config, tiny_catalog)
    for other in (tiny_catalog, tiny_catalog.take([0, 1]).grown(NEW)):
        with pytest.raises(CheckpointError, match=r"^Expected the recommender's own catalog of \d+ items with new ones"):
            grown(recommender, config, other)
