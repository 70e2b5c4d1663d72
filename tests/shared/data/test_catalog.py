from pathlib import Path

import numpy as np
import polars as pl
import pytest

from shared.data.catalog import (
    ONLY_IN_INTERACTIONS,
    REPEATED_ITEMS,
    UNREADABLE_PRICES,
    WITHOUT_TEXT,
    ItemCatalog,
    build_catalog,
)
from shared.errors import DataError


def items(*rows: tuple[str | None, str | None]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema={"item": pl.String, "text": pl.String}, orient="row")


def test_catalog_rows_follow_the_items_file_then_the_other_ids_sorted_as_numbers() -> None:
    catalog, repairs = build_catalog(
        items(("9", "nine"), ("b", "bee"), ("2", None)),
        pl.Series(["10", "b", "1", "zed", "10", "9"]),
        source="i",
    )
    assert catalog.ids == ("9", "b", "2", "1", "10", "zed")
    assert catalog.texts == ("nine", "bee", "2", "1", "10", "zed")
    assert repairs == {REPEATED_ITEMS: 0, ONLY_IN_INTERACTIONS: 3, WITHOUT_TEXT: 4}


def test_catalog_without_items_file_is_sorted_and_uses_ids_as_texts() -> None:
    catalog, repairs = build_catalog(None, pl.Series(["10", "9", "10"]), source="")
    assert catalog.ids == catalog.texts == ("9", "10")
    assert repairs == {REPEATED_ITEMS: 0, ONLY_IN_INTERACTIONS: 0, WITHOUT_TEXT: 2}


def test_catalog_does_not_depend_on_the_order_of_interactions() -> None:
    ids = ["c", "a", "b", "a"]
    assert build_catalog(None, pl.Series(ids), source="")[0] == build_catalog(None, pl.Series(ids[::-1]), source="")[0]


def test_catalog_keeps_the_first_of_repeated_items_and_counts_blank_texts() -> None:
    catalog, repairs = build_catalog(items(("a", "one"), ("a", "two"), ("b", "  ")), pl.Series(["a"]), source="i")
    assert (catalog.ids, catalog.texts) == (("a", "b"), ("one", "b"))
    assert repairs == {REPEATED_ITEMS: 1, ONLY_IN_INTERACTIONS: 0, WITHOUT_TEXT: 1}


def test_an_empty_items_file_is_refused() -> None:
    with pytest.raises(DataError, match=r"^Expected at least one item in items\.tsv, found 0\."):
        build_catalog(items(), pl.Series(["a"]), source="items.tsv")


def test_an_item_without_id_is_refused() -> None:
    with pytest.raises(DataError, match=r"^Expected item ids that are not empty and exact in items\.tsv, found 2 others\. "):
        build_catalog(items(("a", "x"), (None, "y"), (" ", "z")), pl.Series(["a"]), source="items.tsv")


@pytest.mark.parametrize(
    ("ids", "texts", "message"),
    [
        ((), (), "Expected at least one item in the catalog, found 0"),
        (("a",), (), "Expected one text an item, got 0 texts, 1 items"),
        (("a", "a"), ("x", "y"), "Expected distinct item ids in the catalog, found 1 repeated"),
    ],
)
def test_a_catalog_that_cannot_index_a_matrix_is_refused(ids: tuple[str, ...], texts: tuple[str, ...], message: str) -> None:
    with pytest.raises(DataError, match=message):
        ItemCatalog(ids, texts)


def test_digest_tells_any_change_of_ids_texts_or_order() -> None:
    catalogs = [
        ItemCatalog(("a", "b"), ("x", "y")),
        ItemCatalog(("b", "a"), ("y", "x")),
        ItemCatalog(("a", "b"), ("x", "z")),
        ItemCatalog(("a", 'b","c'), ("x", "y")),
        ItemCatalog(("a", "b", "c"), ("x", "y", "z")),
    ]
    assert len({catalog.digest for catalog in catalogs}) == len(catalogs)
    assert catalogs[0].digest == ItemCatalog(("a", "b"), ("x", "y")).digest
    assert len(catalogs[0].digest) == 64


def test_a_grown_catalog_keeps_old_rows() -> None:
    old = ItemCatalog(("a", "b"), ("x", "y"))
    new = old.grown(ItemCatalog(("c",), ("z",)))
    assert new.ids[:2] == old.ids and new.row_of == {"a": 0, "b": 1, "c": 2} and new.num_items == 3
    with pytest.raises(DataError, match="distinct item ids"):
        old.grown(ItemCatalog(("a",), ("again",)))


def test_a_saved_catalog_loads_equal(tmp_path: Path) -> None:
    catalog = ItemCatalog(("1", "é"), ('a "quoted"\ntext', "ü"))
    catalog.save(tmp_path / "deep" / "catalog.parquet")
    loaded = ItemCatalog.load(tmp_path / "deep" / "catalog.parquet")
    assert loaded == catalog and loaded.digest == catalog.digest


def test_a_missing_damaged_or_foreign_catalog_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="No item catalog at"):
        ItemCatalog.load(tmp_path / "none.parquet")
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 and nothing more")
    with pytest.raises(DataError, match="is damaged or no Parquet file"):
        ItemCatalog.load(tmp_path / "bad.parquet")
    pl.DataFrame({"x": [1]}).write_parquet(tmp_path / "other.parquet")
    with pytest.raises(DataError, match=r"Expected columns item, text in .*, found x\."):
        ItemCatalog.load(tmp_path / "other.parquet")


def described(**columns: list[object]) -> pl.DataFrame:
    return pl.DataFrame({"item": ["a", "b", "c"], "text": ["A  thing", None, "C. x y"], **columns})


def test_a_text_ends_with_the_categories_once_however_often_the_catalog_is_read() -> None:
    items = described(categories=[["x", "x", " y "], ["z"], ["x", "y"]])
    catalog, repairs = build_catalog(items, pl.Series(["q"]), source="i")
    assert catalog.texts == ("A thing. x y", "z", "C. x y", "q")
    assert catalog.modalities["categories"].to_list() == [["x", "y"], ["z"], ["x", "y"], None]
    assert repairs[WITHOUT_TEXT] == 1
    assert build_catalog(catalog.table, pl.Series(["a"]), source="i")[0] == catalog


def test_prices_are_read_with_their_signs_and_what_says_nothing_is_counted() -> None:
    catalog, repairs = build_catalog(described(price=["$1,009.50", "$5 - $9", "-3"]), pl.Series(["a"]), source="i")
    assert catalog.modalities["price"].to_list() == [1009.5, None, None]
    assert repairs[UNREADABLE_PRICES] == 2


def test_vectors_are_rows_of_one_size_and_nan_where_an_item_has_none() -> None:
    catalog, _ = build_catalog(described(image=[[1.0, 2.0], None, [3.0, 4.0]]), pl.Series(["q"]), source="i")
    assert catalog.vector_names == ("image",)
    np.testing.assert_array_equal(
        catalog.vectors("image"), np.array([[1, 2], [np.nan, np.nan], [3, 4], [np.nan, np.nan]], dtype=np.float32)
    )


@pytest.mark.parametrize("wrong", [[1.0], [1.0, float("nan")], [float("inf"), 1.0], [1.0, None]])
def test_vectors_of_another_size_or_that_are_not_finite_are_located(wrong: list[float]) -> None:
    items = described(image=[[1.0, 2.0], [0.0, 0.0], wrong])
    with pytest.raises(
        DataError, match=r"^Expected image vectors of 2 finite numbers each in i, found 1 others; first at row 3\."
    ):
        build_catalog(items, pl.Series(["a"]), source="i")


def test_a_modality_that_is_no_vector_is_refused() -> None:
    with pytest.raises(DataError, match=r"^Expected image to hold lists of numbers in i, found String\."):
        build_catalog(described(image=["a", "b", "c"]), pl.Series(["a"]), source="i")


def test_modalities_count_in_the_digest_and_survive_saving(tmp_path: Path) -> None:
    columns = {"categories": [["x"], None, []], "price": [1.0, None, 2.0], "image": [[1.0, 2.0], None, [3.0, 4.0]]}
    catalog, _ = build_catalog(described(**columns), pl.Series(["a"]), source="i")
    catalog.save(tmp_path / "c.parquet")
    assert ItemCatalog.load(tmp_path / "c.parquet") == catalog
    for name, other in {
        "categories": [["x"], None, ["y"]],
        "price": [1.0, 0.0, 2.0],
        "image": [[1.0, 2.5], None, [3.0, 4.0]],
    }.items():
        changed, _ = build_catalog(described(**{**columns, name: other}), pl.Series(["a"]), source="i")
        assert changed.digest != catalog.digest


def test_a_grown_catalog_keeps_its_modalities_and_new_items_may_lack_them() -> None:
    old, _ = build_catalog(described(price=[1.0, 2.0, 3.0], image=[[1.0, 2.0]] * 3), pl.Series(["a"]), source="i")
    new = ItemCatalog(
        ("n",), ("new",), pl.DataFrame({"price": [4.0], "sound": pl.Series([[1.0]], dtype=pl.Array(pl.Float32, 1))})
    )
    grown = old.grown(new)
    assert grown.modalities.columns == ["image", "price"] and grown.modalities.row(3) == (None, 4.0)
    assert grown.take(range(3)) == old and grown.num_new_items == 1
    other = ItemCatalog(("n",), ("new",), pl.DataFrame({"image": pl.Series([[1.0]], dtype=pl.Array(pl.Float32, 1))}))
    with pytest.raises(DataError, match=r"^Expected image of the new items to be Array"):
        old.grown(other)
