from typing import Any

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray

from shared.config import ModelSection
from shared.data.catalog import ItemCatalog, build_catalog
from shared.data.item_vectors import chosen_modalities, fuse
from shared.errors import ConfigError
from tests import rounding

WIDTH = 16
# Centered, whitened, scaled and projected, each time by sums over at most 200 items; then compared by inner products.
WITHIN = rounding.rounding(sums=5, length=200)


def catalog_with(num_items: int = 200, **columns: list[Any]) -> ItemCatalog:
    ids = [f"i{row:04d}" for row in range(num_items)]
    items = pl.DataFrame({"item": ids, "text": ids, **columns})
    return build_catalog(items, pl.Series(ids), source="items")[0]


def settings(modalities: str, weight: float = 0.5) -> ModelSection:
    return ModelSection(modalities=modalities, modality_weight=weight)


def random_texts(num_items: int = 200, seed: int = 0) -> NDArray[np.float32]:
    texts = np.random.default_rng(seed).normal(size=(num_items, WIDTH)).astype(np.float32)
    return texts / np.linalg.norm(texts, axis=1, keepdims=True)


def image(num_items: int = 200, seed: int = 1) -> list[list[float]]:
    return np.random.default_rng(seed).normal(size=(num_items, 6)).astype(np.float32).tolist()


def test_a_text_alone_is_the_item_vector_as_it_is() -> None:
    texts = random_texts()
    assert fuse(catalog_with(), texts, settings("auto"), width=WIDTH) is texts


def test_auto_takes_the_text_and_every_vector_but_no_labels_or_prices() -> None:
    catalog = catalog_with(2, image=[[1.0], [2.0]], sound=[[1.0], [2.0]], price=[1.0, 2.0], categories=[["a"], ["b"]])
    assert chosen_modalities(catalog, settings("auto")) == ("text", "image", "sound")


@pytest.mark.parametrize(
    ("name", "hint"), [("imge", r"Did you mean 'image'\?"), ("", "Leave it out"), ("knowledge", "Leave it out")]
)
def test_a_modality_that_the_catalog_lacks_is_refused(name: str, hint: str) -> None:
    catalog = catalog_with(2, image=[[1.0], [2.0]])
    with pytest.raises(ConfigError, match=rf"^Expected model\.modalities from text, image, got '{name}'\. {hint}"):
        chosen_modalities(catalog, settings(name or ","))


def test_fused_vectors_keep_the_angles_of_text_and_modality_side_by_side() -> None:
    """The oracle whitens with numpy's SVD of the whole matrix, and compares inner products, which no basis changes."""
    texts = random_texts()
    texts[:, 8:] = 0.0  # so that W - (zero columns) = 8 + 6 <= WIDTH, and the projection loses nothing
    texts /= np.linalg.norm(texts, axis=1, keepdims=True)
    vectors = np.array(image())
    left, _, _ = np.linalg.svd(vectors - vectors.mean(axis=0), full_matrices=False)
    whitened = left / np.linalg.norm(left, axis=1, keepdims=True)
    both = np.hstack([texts, 0.5 * whitened])
    both /= np.linalg.norm(both, axis=1, keepdims=True)
    fused = fuse(catalog_with(image=image()), texts, settings("auto"), width=WIDTH)
    rounding.assert_close(fused @ fused.T, both @ both.T, within=WITHIN)


def test_the_projection_moves_the_text_least() -> None:
    texts = random_texts()
    fused = fuse(catalog_with(image=image()), texts, settings("auto", 0.1), width=WIDTH)
    assert (fused * texts).sum(axis=1).mean() > 0.95


def test_an_item_without_a_modality_is_judged_by_its_text() -> None:
    vectors: list[list[float] | None] = list(image())
    vectors[3] = None
    texts = random_texts()
    texts[:, 8:] = 0.0
    texts /= np.linalg.norm(texts, axis=1, keepdims=True)
    texts[4] = texts[3]
    fused = fuse(catalog_with(image=vectors), texts, settings("auto"), width=WIDTH)
    # Its modality is zero, so the angle to an item with the same text is that of (1, 0) and (1, .5), text beside image.
    rounding.assert_close(fused[3] @ fused[4], 1 / np.sqrt(1 + 0.25), within=WITHIN)


def test_a_new_item_gets_the_vector_it_would_have_had_and_changes_no_other() -> None:
    columns = {"image": image(), "price": np.random.default_rng(2).lognormal(size=200).tolist()}
    whole = catalog_with(**columns)
    labels = pl.Series("categories", [["even" if row % 2 else "odd", f"c{row % 7}"] for row in range(200)])
    whole = ItemCatalog(whole.ids, whole.texts, whole.modalities.with_columns(labels))
    known = whole.take(range(150))
    config = settings("text,image,price,categories")
    texts = random_texts()
    before = fuse(known, texts[:150], config, width=WIDTH)
    grown = fuse(known.grown(whole.take(range(150, 200))), texts, config, width=WIDTH)
    rounding.assert_close(grown[:150], before, within=WITHIN)
    shuffled = fuse(
        known.grown(whole.take(range(199, 149, -1))), texts[[*range(150), *range(199, 149, -1)]], config, width=WIDTH
    )
    rounding.assert_close(shuffled[150:], grown[:149:-1], within=WITHIN)


def test_items_of_like_price_or_labels_are_more_alike_than_others() -> None:
    prices = np.exp(np.linspace(0, 5, 200)).tolist()
    fused = fuse(catalog_with(price=prices), None, settings("price"), width=WIDTH)
    assert fused[10] @ fused[12] > fused[10] @ fused[60] > -1
    # Fewer labels than dimensions: which of equally strong directions are cut off would be up to the machine.
    labels = [[f"c{row % 5}", f"r{row // 20}"] for row in range(200)]
    fused = fuse(catalog_with(categories=labels), None, settings("categories"), width=WIDTH)
    same, other = fused[0] @ fused[5::5].T, np.delete(fused, np.s_[::5], axis=0) @ fused[0]
    assert same.mean() > other.mean() + 0.05


def test_a_price_beyond_all_others_is_like_the_nearest_one() -> None:
    catalog = catalog_with(5, price=[1.0, 2.0, 4.0, 8.0, 16.0])
    new = ItemCatalog(("n",), ("n",), pl.DataFrame({"price": [1e6]}))
    grown = fuse(catalog.grown(new), None, settings("price"), width=WIDTH)
    rounding.assert_close(grown[5], grown[4], within=WITHIN)


def test_a_modality_that_nobody_or_everybody_has_alike_says_nothing() -> None:
    texts = random_texts(3)
    for column in ([None, None, None], [5.0, 5.0, 5.0]):
        catalog = ItemCatalog(("a", "b", "c"), ("a", "b", "c"), pl.DataFrame({"price": pl.Series(column, dtype=pl.Float64)}))
        fused = fuse(catalog, texts, settings("text,price"), width=WIDTH)
        rounding.assert_close(fused @ fused.T, texts @ texts.T, within=WITHIN)


def test_labels_that_no_item_of_training_has_say_nothing() -> None:
    known = catalog_with(60, categories=[[f"c{row % 3}"] for row in range(60)])
    labels = pl.Series("categories", [["jazz"], ["gardening"], ["c0"]])
    new = ItemCatalog(("n0", "n1", "n2"), ("n0", "n1", "n2"), labels.to_frame())
    fused = fuse(known.grown(new), None, settings("categories"), width=WIDTH)
    np.testing.assert_array_equal(fused[60:62], 0.0)
    rounding.assert_close(fused[62], fused[0], within=WITHIN)
