"""Any format to any other: what is read, written and read again is the same."""

from __future__ import annotations

import os
import tempfile
from functools import lru_cache
from pathlib import Path

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shared.data.catalog import ItemCatalog
from shared.data.interactions import Interactions
from shared.data.readers import Dataset, load_dataset
from shared.data.readers.convert import WRITERS, convert
from shared.errors import ConfigError, DataError

FORMATS = tuple(WRITERS)
EXAMPLES = int(os.environ.get("TACIT_CONVERSIONS", "6"))
# Anything but what a format may refuse: control characters, and blanks, which MIND separates ids by.
CHARACTERS = st.characters(exclude_categories=("Cs", "Cc", "Zs", "Zl", "Zp"))
IDS = st.text(CHARACTERS | st.sampled_from("\"',;|:-1a"), min_size=1, max_size=8)
# Few characters, so that texts end with categories, almost or twice; and words that some format has a meaning for.
WORDS = st.text("ab. ", max_size=8) | st.sampled_from(
    ["(no genres listed)", "null", "NaN", "1.0", "[1, 2]", '{"a": 1}', "a|b", "&amp; <b>x</b>", "a & b <3"]
)
TEXTS = st.text(CHARACTERS | st.sampled_from(" \t\n\u00a0\u2028\"'|,;:.{}[]-"), max_size=14) | WORDS
LABELS = st.lists(TEXTS, max_size=3)
FACTS = st.lists(st.builds("{}: {}".format, st.text("abc _", min_size=1), TEXTS) | TEXTS, max_size=2)
TIMES = st.integers(0, 6) | st.integers(0, 4_000_000_000)
PRICES = st.floats(0, 1e12) | st.sampled_from([0.1, 9.99, 1e-7, 1e22])


@st.composite
def datasets(draw: st.DrawFn) -> Dataset:
    """A small data set with odd characters, missing values, ties, and of each modality some or none."""
    items = draw(st.lists(IDS, min_size=1, max_size=5, unique=True))
    users = draw(st.lists(IDS, min_size=1, max_size=4, unique=True))
    columns: dict[str, object] = {"item": items, "text": draw(lists(TEXTS, len(items)))}
    if draw(st.booleans()):
        columns["categories"] = pl.Series(draw(lists(LABELS, len(items))), dtype=pl.List(pl.String))
    if draw(st.booleans()):
        columns["knowledge"] = pl.Series(draw(lists(FACTS, len(items))), dtype=pl.List(pl.String))
    if draw(st.booleans()):
        columns["price"] = pl.Series(draw(lists(PRICES, len(items))), dtype=pl.Float64)
    if draw(st.booleans()):
        vectors = st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=2, max_size=2)
        columns["image"] = pl.Series([draw(vectors), *draw(lists(vectors, len(items) - 1))], dtype=pl.List(pl.Float32))
    rows = draw(
        st.lists(
            st.tuples(st.sampled_from(users), st.sampled_from(items), TIMES, st.none() | st.floats(-1e9, 1e9)),
            min_size=1,
            max_size=8,
        )
    )
    frame = pl.DataFrame(
        rows, schema={"user": pl.String, "item": pl.String, "timestamp": pl.Int64, "value": pl.Float64}, orient="row"
    )
    attributes = None
    if draw(st.booleans()):
        attributes = pl.DataFrame(
            {"user": users, "region": draw(lists(TEXTS, len(users))), "age": draw(lists(TEXTS, len(users)))}
        )
    return _canonical(frame, pl.DataFrame(columns), attributes)


def lists(values: st.SearchStrategy[object], size: int) -> st.SearchStrategy[list[object]]:
    return st.lists(st.none() | values, min_size=size, max_size=size)


def _canonical(frame: pl.DataFrame, items: pl.DataFrame, users: pl.DataFrame | None) -> Dataset:
    """The generated tables as a data set, by the project's Parquet files: what the other formats are compared with."""
    with tempfile.TemporaryDirectory() as folder:
        frame.write_parquet(Path(folder) / "interactions.parquet")
        items.write_parquet(Path(folder) / "items.parquet")
        if users is not None:
            users.write_parquet(Path(folder) / "users.parquet")
        return load_dataset(folder)


def check_same(found: Dataset, expected: Dataset) -> None:
    assert found.interactions.frame.equals(expected.interactions.frame)
    assert found.interactions.positional == expected.interactions.positional
    assert found.catalog.ids == expected.catalog.ids and found.catalog.texts == expected.catalog.texts
    assert found.catalog.modalities.columns == expected.catalog.modalities.columns
    assert found.catalog == expected.catalog
    if expected.user_attributes is None:
        assert found.user_attributes is None
    else:
        assert found.user_attributes is not None and found.user_attributes.equals(expected.user_attributes)


def without_values(dataset: Dataset) -> Dataset:
    frame = dataset.interactions.frame
    if "value" not in frame.columns:
        return dataset
    rows = frame.drop("value").unique(keep="first", maintain_order=True)
    with tempfile.TemporaryDirectory() as folder:
        rows.write_parquet(Path(folder) / "interactions.parquet")
        interactions = load_dataset(folder).interactions
    return Dataset(dataset.name, Interactions(rows, interactions.positional), dataset.catalog, dataset.user_attributes)


@pytest.mark.parametrize("source", FORMATS)
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(dataset=datasets())
def test_reading_converting_and_reading_again_gives_the_same_for_every_pair(source: str, dataset: Dataset) -> None:
    expected = without_values(dataset) if source == "mind" else dataset
    with tempfile.TemporaryDirectory() as parent:
        convert(dataset, Path(parent) / "source", source, lossy=True)
        read = load_dataset(str(Path(parent) / "source"))
        check_same(read, expected)
        for target in FORMATS:
            convert(read, Path(parent) / target, target, lossy=True)
            check_same(load_dataset(str(Path(parent) / target)), without_values(expected) if target == "mind" else expected)


def example(**changes: object) -> Dataset:
    rows = {"user": ["a", "a", "b"], "item": ["x", "y", "x"], "timestamp": [100, 205, 300], "value": [1.0, None, 3.0]}
    items = pl.DataFrame(
        {"item": ["x", "y"], "text": ["X", "Y"], "categories": [["k", "l", "m"], ["n"]], "price": [1.5, None]}
    )
    frame = pl.DataFrame({**rows, **{name: value for name, value in changes.items() if name in rows}})
    listed = items.with_columns(pl.Series("text", changes.get("text", items["text"])))
    users = pl.DataFrame({"user": ["a", "b"], "age": ["1", None]})
    return _canonical(frame, listed, users)


@lru_cache
def positions() -> Dataset:
    """One user with positions, which no format but a table with a column of that name can show."""
    interactions = Interactions.validated(
        pl.DataFrame({"user": ["a"] * 3, "item": ["x", "y", "x"], "timestamp": [0, 1, 2]}), source="x", positional=True
    )
    return Dataset("toy", interactions, ItemCatalog(("x", "y"), ("X", "Y")))


@pytest.mark.parametrize("format", FORMATS)
def test_positions_survive_or_are_said_to_be_lost(format: str, tmp_path: Path) -> None:
    conversion = convert(positions(), tmp_path / "new", format)
    found = load_dataset(str(tmp_path / "new"))
    assert found.interactions.frame.equals(positions().interactions.frame)
    assert found.interactions.positional == (conversion.lost == ())
    assert found.interactions.positional == (format in ("parquet", "csv", "huggingface"))


def test_what_a_format_has_no_field_for_lies_beside_and_is_said(tmp_path: Path) -> None:
    conversion = convert(example(), tmp_path / "new", "mind", lossy=True)
    assert conversion.beside == ("categories, price in modalities.parquet", "user attributes in users.parquet")
    assert conversion.lost == ("2 values",)
    assert sorted(conversion.files) == ["behaviors.tsv", "modalities.parquet", "news.tsv", "users.parquet"]
    assert conversion.files["news.tsv"] == (tmp_path / "new" / "news.tsv").stat().st_size
    conversion = convert(example(), tmp_path / "other", "recbole")
    assert conversion.beside == conversion.lost == ()
    assert sorted(conversion.files) == ["other.inter", "other.item", "other.user"]


def test_rows_that_only_their_value_told_apart_are_said_to_be_lost(tmp_path: Path) -> None:
    dataset = example(user=["a", "a", "a"], item=["x", "x", "x"], timestamp=[5, 5, 6], value=[1.0, 2.0, None])
    conversion = convert(dataset, tmp_path / "new", "mind", lossy=True)
    assert conversion.lost == ("2 values", "1 interactions that differ from another in their value alone")
    assert load_dataset(str(tmp_path / "new")).interactions.num_interactions == 2


@pytest.mark.parametrize("format", FORMATS)
def test_texts_and_labels_that_mean_something_to_a_format_survive_it(format: str, tmp_path: Path) -> None:
    odd: list[tuple[str | None, list[str] | None]] = [
        ("X. a. a", ["a"]),
        ("X . a", ["a"]),
        (". a", ["a"]),
        ("a. a", ["a"]),
        ("a", ["a"]),
        (None, ["a"]),
        ("i6", None),
        ("i7", ["a"]),
        ("X", ["a b", "c"]),
        ("\"q\", 'x'", ["a"]),
    ]
    for labels in (["a|b", "c"], ["(no genres listed)"], ["[1]"]):
        rows = [*odd, ("Y", labels)]
        items = pl.DataFrame(
            {
                "item": [f"i{n}" for n in range(len(rows))],
                "text": [text for text, _ in rows],
                "categories": [known for _, known in rows],
                "knowledge": [[f"r {n}: b", f"r {n}: a: c"] if n % 2 else None for n in range(len(rows))],
            }
        )
        dataset = _canonical(example().interactions.frame.with_columns(item=pl.lit("i0")).drop("value"), items, None)
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        convert(dataset, folder, format)
        check_same(load_dataset(str(folder)), dataset)


def refusal(dataset: Dataset, folder: Path, format: str) -> str:
    with pytest.raises((DataError, ConfigError), match=r"^Expected") as caught:
        convert(dataset, folder / "new", format)
    assert list(folder.iterdir()) == [] and "\n" not in str(caught.value)
    return str(caught.value)


def test_values_are_refused_by_a_format_without_them_and_nothing_is_written(tmp_path: Path) -> None:
    assert refusal(example(), tmp_path, "mind") == (
        "Expected interactions without values for mind files, which have no field for them, found 2. "
        "Leave them out with --lossy, or convert to another format."
    )


@pytest.mark.parametrize("format", ["csv", "movielens", "recbole"])
def test_ids_with_line_breaks_are_refused_where_they_cannot_be_spelled(format: str, tmp_path: Path) -> None:
    message = refusal(example(user=["a\nb", "a\nb", "a"]), tmp_path, format)
    assert message.startswith("Expected user ids without ") and "found 1 of 2 with some" in message and "a\nb" not in message
    message = refusal(
        _canonical(
            example().interactions.frame.with_columns(item=pl.lit("x\ty")),
            pl.DataFrame({"item": ["q", "x\ty"], "text": ["", ""]}),
            None,
        ),
        tmp_path,
        format,
    )
    assert message.startswith("Expected item ids without ") and "found 1 of 2 with some" in message
    for holds in ("parquet", "huggingface", "steam"):
        dataset = example(user=["a\nb", "a\nb", "a"])
        convert(dataset, tmp_path / holds, holds)
        check_same(load_dataset(str(tmp_path / holds)), dataset)


def test_item_ids_with_blanks_are_refused_by_mind_alone(tmp_path: Path) -> None:
    dataset = _canonical(
        pl.DataFrame({"user": ["a"], "item": ["x y"], "timestamp": [5]}),
        pl.DataFrame({"item": ["x y"], "text": ["X"]}),
        None,
    )
    assert "item ids without blanks" in refusal(dataset, tmp_path, "mind")
    for format in set(FORMATS) - {"mind"}:
        convert(dataset, tmp_path / format, format)
        check_same(load_dataset(str(tmp_path / format)), dataset)


@pytest.mark.parametrize("format", ["steam", "goodreads", "mind", "amazon-2023"])
def test_times_that_no_calendar_has_are_refused(format: str, tmp_path: Path) -> None:
    dataset = example(timestamp=[1, 2, 10**17], value=[None] * 3)
    message = refusal(dataset, tmp_path, format)
    assert message.startswith(f"Expected times before the year 10000 for {format} files, found 1 of 3 later.")


@pytest.mark.parametrize("format", ["csv", "movielens", "recbole"])
def test_texts_with_nul_characters_are_refused_where_they_would_make_a_file_binary(format: str, tmp_path: Path) -> None:
    message = refusal(example(text=["a\0b", "c"]), tmp_path, format)
    assert message.startswith(f"Expected texts without NUL characters for {format} files, found 1 of 2 with some.")


def test_a_destination_that_is_there_is_refused_and_an_empty_folder_is_filled(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("x")
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    for name, message in (("file", "something else"), ("link", "something else"), ("full", "files in it")):
        with pytest.raises(ConfigError, match=f"^Expected a new .*, found {message}"):
            convert(example(), tmp_path / name, "parquet")
    convert(example(), tmp_path / "empty", "parquet")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["empty", "file", "full", "link"]
    with pytest.raises(ConfigError, match=r"^Expected a format to write in \{parquet, csv, .*\}, got 'xls'\. Choose one"):
        convert(example(), tmp_path / "new", "xls")


def test_what_is_written_looks_as_the_published_files_do(tmp_path: Path) -> None:
    for format in FORMATS:
        convert(example(), tmp_path / format, format, lossy=True)

    def lines(name: str) -> list[str]:
        return (tmp_path / name).read_text(encoding="utf-8").splitlines()

    assert lines("movielens/ratings.csv")[:2] == ["userId,movieId,rating,timestamp", "a,x,1.0,100"]
    assert lines("movielens/movies.csv") == ["movieId,title,genres", "x,X,k|l|m", "y,Y,n"]
    assert lines("recbole/recbole.inter")[:2] == [
        "user_id:token\titem_id:token\ttimestamp:float\trating:float",
        "a\tx\t100\t1.0",
    ]
    assert lines("recbole/recbole.item") == [
        "item_id:token\ttitle:token_seq\tcategories:token_seq\tprice:float",
        "x\tX\tk l m\t1.5",
        "y\tY\tn\t",
    ]
    assert (
        lines("amazon-2014/meta_amazon-2014.json")[0] == '{"asin":"x","title":"X","categories":[["k","l","m"]],"price":1.5}'
    )
    assert (
        lines("amazon-2018/meta_amazon-2018.json")[0] == '{"asin":"x","title":"X","category":["k","l","m"],"price":"$1.5"}'
    )
    assert (
        lines("amazon-2018/reviews_amazon-2018.json")[0]
        == '{"reviewerID":"a","asin":"x","unixReviewTime":100,"overall":1.0}'
    )
    assert (
        lines("amazon-2023/reviews_amazon-2023.jsonl")[0]
        == '{"user_id":"a","parent_asin":"x","timestamp":100000,"rating":1.0}'
    )
    assert lines("mind/behaviors.tsv")[0] == "1\ta\t01/01/1970 12:01:40 AM\t\tx-1"
    assert lines("mind/news.tsv")[0] == "x\t\t\tX. k l m\t\t\t\t"
    assert (
        lines("steam/steam_reviews.json")[0] == '{"username":"a","product_id":"x","date":"1970-01-01T00:01:40","hours":1.0}'
    )
    assert lines("goodreads/goodreads_interactions.json")[0] == (
        '{"user_id":"a","book_id":"x","date_added":"Thu Jan 01 00:01:40 +0000 1970","rating":1.0}'
    )
