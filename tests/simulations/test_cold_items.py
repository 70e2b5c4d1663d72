"""New items: what is held out, and that texts place them where they carry signal and nowhere else."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from shared.config import RunConfig
from shared.data.catalog import ItemCatalog
from shared.data.interactions import Interactions
from shared.data.readers import Dataset
from shared.errors import ConfigError, DataError
from shared.model.recommender import build
from simulations.cold_items import INTERACTIONS_WITH_NEW_ITEMS, ColdItems, evaluate_cold_items, hold_out
from simulations.datasets import load_dataset

SETTINGS = RunConfig.from_mapping({"evaluation.k": 10, "model.layers": 1})


def small(rows: list[tuple[str, str, int]], items: int = 4) -> Dataset:
    frame = pl.DataFrame(rows, schema={"user": pl.String, "item": pl.String, "timestamp": pl.Int64}, orient="row")
    ids = tuple(f"i{item}" for item in range(items))
    return Dataset("small", Interactions(frame), ItemCatalog(ids, ids))


def held(dataset: Dataset, share: float = 0.25) -> tuple[Dataset, ColdItems]:
    return hold_out(dataset, share=share, seed=1)


def new_item() -> str:
    """Which of the four items seed 1 holds out."""
    return held(small([("u", f"i{item}", item) for item in (0, 1, 2, 3, 0, 1, 2, 3)]))[1].catalog.ids[0]


def test_what_is_held_out_depends_on_catalog_and_seed_alone() -> None:
    new = new_item()
    known = [f"i{item}" for item in range(4) if f"i{item}" != new]
    rest, cold = held(small([("a", known[0], 5), ("a", new, 9), ("b", known[2], 1), ("b", new, 3)]))
    assert cold.catalog.ids == (new,) and rest.catalog.ids == tuple(known)
    assert new not in rest.interactions.frame["item"].to_list()
    assert rest.interactions.repairs[INTERACTIONS_WITH_NEW_ITEMS] == 2


def test_the_target_is_the_last_new_item_and_the_history_what_was_strictly_before() -> None:
    new = new_item()
    one, two, three = (f"i{item}" for item in range(4) if f"i{item}" != new)
    rows = [("a", two, 7), ("a", new, 4), ("a", one, 2), ("a", new, 8), ("a", three, 8), ("a", one, 9)]
    rest, cold = held(small([*rows, ("b", new, 1), ("b", one, 2), ("c", one, 1)]))
    rows_of = rest.catalog.row_of
    assert cold.targets.rows() == [("a", [rows_of[one], rows_of[two]], 0)]


def test_nothing_to_hold_out_or_nobody_to_rank_for_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^Expected evaluation\.cold_items to hold out between 1 and 3 items, got 0 of"):
        held(small([("a", "i0", 1), ("a", "i1", 2)]), share=0.01)
    known = next(f"i{item}" for item in range(4) if f"i{item}" != new_item())
    with pytest.raises(DataError, match=r"^Expected users who met a new item after a known one, found none\."):
        held(small([("a", known, 3), ("a", new_item(), 2)]))
    with pytest.raises(DataError, match=r"^Expected interactions with known items, found none\."):
        held(small([("a", new_item(), 2)]))


def ranked(dataset: Dataset) -> dict[str, float]:
    """NDCG@10 among the new items over that of a random order, with the limits of its interval over it."""
    known, cold = hold_out(dataset, share=0.15, seed=3)
    recommender = build(SETTINGS, known.catalog)
    found = evaluate_cold_items(recommender, SETTINGS, known.catalog, cold)
    random = found["random"]["ndcg@10"]
    return {name: value / random for name, value in found["among_new"]["ndcg@10"].items()}


def some_users(dataset: Dataset, count: int = 400) -> Dataset:
    frame = dataset.interactions.frame
    users = frame["user"].unique(maintain_order=True).head(count)
    return replace(dataset, interactions=Interactions(frame.filter(pl.col("user").is_in(users.implode()))))


@pytest.mark.soak
def test_new_items_are_ranked_half_again_better_than_at_random_where_texts_carry_signal_and_not_where_they_do_not() -> None:
    """The negative control gives every item another item's text: the same texts, users and histories, and no signal.

    400 users: the standard error of the mean NDCG@10 is about .013, of the factor about .15. The embedded texts give a
    factor of about 2; the lower end of its 95 % interval must stay above 1.5. Without signal the factor is around 1 and must
    stay below 1.4.
    """
    dataset = some_users(load_dataset("synthetic"))
    assert ranked(dataset)["low"] > 1.5
    order = np.random.default_rng(4).permutation(dataset.catalog.num_items)
    shuffled = ItemCatalog(dataset.catalog.ids, tuple(dataset.catalog.texts[row] for row in order))
    assert ranked(replace(dataset, catalog=shuffled))["mean"] < 1.4


def test_the_expected_metrics_of_a_random_order_are_those_of_random_scores() -> None:
    """100 users x 200 orders of 20 items: the standard error of HR@10 is .0035; 6 of them are allowed."""
    from shared.metrics import evaluate_scores, summarize

    rng = np.random.default_rng(0)
    scores = rng.random((20_000, 20)).astype(np.float32)
    keys = np.arange(20_000, dtype=np.uint64)
    targets = [np.array([target]) for target in rng.integers(0, 20, size=20_000)]
    sums = evaluate_scores(scores, [np.empty(0, dtype=int)] * 20_000, targets, user_keys=keys, num_replicates=0)
    summary = summarize(sums, item_popularity=np.ones(20))
    discounts = 1 / np.log2(np.arange(2, 12))
    assert summary["hr@10"]["mean"] == pytest.approx(10 / 20, abs=0.02)
    assert summary["ndcg@10"]["mean"] == pytest.approx(discounts.sum() / 20, abs=0.01)
