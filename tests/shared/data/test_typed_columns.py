"""Columns of every type in every role: read exactly, or refused by name; a property test over polars' types."""

import string
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from polars.testing.parametric import series

import shared
from shared.data.catalog import UNREADABLE_PRICES
from shared.data.parquet import parquet_schema, read_parquet, read_parquet_head
from shared.data.readers import Dataset, load_dataset
from shared.data.readers.convert import convert
from shared.data.readers.huggingface import write as write_arrow
from shared.data.readers.preview import preview
from shared.data.readers.unrolling import EMPTY_LISTS
from shared.data.typed_columns import as_ids, as_texts, type_name
from shared.errors import DataError

SECRET = "secret-value"
SECRETS = {
    "struct": pl.Series([{SECRET: SECRET}] * 3),
    "nested list": pl.Series([[[SECRET]], [[SECRET]], [[SECRET]]]),
    "list of structs": pl.Series([[{SECRET: 1}]] * 3),
    "duration": pl.Series([timedelta(seconds=4242)] * 3),
    "time of day": pl.Series([time(1, 2, 3)] * 3),
    "list of durations": pl.Series([[timedelta(seconds=4242)]] * 3),
}


def write(folder: Path, **tables: dict[str, Any]) -> Path:
    for name, columns in tables.items():
        pl.DataFrame(columns).write_parquet(folder / f"{name}.parquet")
    return folder


def interactions(**columns: Any) -> dict[str, Any]:
    return {"user": ["a", "a", "b"], "item": ["x", "y", "x"], "timestamp": [30, 10, 20], **columns}


def refusal(folder: Path, **options: str) -> str:
    with pytest.raises(DataError) as caught:
        load_dataset(str(folder), **options)  # type: ignore[arg-type]
    message = str(caught.value)
    assert "\n" not in message and SECRET not in message and "4242" not in message
    return message


@pytest.mark.parametrize("kind", SECRETS)
@pytest.mark.parametrize("role", ["user", "item", "timestamp", "position", "value"])
def test_a_type_that_no_role_has_is_refused_with_column_file_and_type(role: str, kind: str, tmp_path: Path) -> None:
    columns = interactions(who=SECRETS[kind])
    columns.pop("timestamp" if role == "position" else role, None)
    write(tmp_path, interactions=columns)
    message = refusal(tmp_path, columns=f"{role}=who")
    found = type_name(SECRETS[kind].dtype)
    assert message.startswith("Expected ") and f"in column who of interactions.parquet, found {found}." in message


@pytest.mark.parametrize("kind", SECRETS)
@pytest.mark.parametrize("file", ["text", "categories", "price", "users"])
def test_a_type_that_no_item_or_user_has_is_refused(file: str, kind: str, tmp_path: Path) -> None:
    write(tmp_path, interactions=interactions())
    if file == "users":
        write(tmp_path, users={"user": ["a", "b", "c"], "what": SECRETS[kind]})
        assert f"in column what of users.parquet, found {type_name(SECRETS[kind].dtype)}." in refusal(tmp_path)
    else:
        write(tmp_path, items={"item": ["x", "y", "z"], "what": SECRETS[kind]})
        message = refusal(tmp_path, columns=f"{file}=what")
        assert f"in column what of items.parquet, found {type_name(SECRETS[kind].dtype)}." in message


def test_names_of_types_hold_neither_categories_nor_fields() -> None:
    assert type_name(pl.Enum([SECRET])) == "Enum"
    assert type_name(pl.List(pl.Struct({SECRET: pl.Int64}))) == "List(Struct)"
    assert type_name(pl.Array(pl.Float32, 3)) == "Array(Float32, 3)"
    assert type_name(pl.Datetime("us", "UTC")) == "Datetime"


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (pl.Series([1.0, 2.0**53, 1.5]), ["1", "9007199254740992", "1.5"]),
        (pl.Series([2.0**53 + 2, 1e300, float("inf"), float("nan")]), [None] * 4),
        (pl.Series([1.0, 2.0**24, 2.0**24 + 2], dtype=pl.Float32), ["1", "16777216", None]),
        (pl.Series([2**64 - 1, 2**63], dtype=pl.UInt64), ["18446744073709551615", "9223372036854775808"]),
        (pl.Series([2**53 + 1, -1]), ["9007199254740993", "-1"]),
        (pl.Series([Decimal("9007199254740993.00"), Decimal("1.50")]), ["9007199254740993", "1.5"]),
        (pl.Series([Decimal("100"), Decimal("20")]), ["100", "20"]),
        (pl.Series([b"abc", b"\xff\xfe", None]), ["abc", None, None]),
        (pl.Series(["a", "b"], dtype=pl.Enum(["a", "b"])), ["a", "b"]),
        (pl.Series(["a", "b"], dtype=pl.Categorical), ["a", "b"]),
        (pl.Series(["1.0", "10.00", "-3.0", "0.0", " 7 ", "007.0", "1.10", "x.0", "10", ""]),
         ["1", "10", "-3", "0", "7", "007.0", "1.10", "x.0", "10", None]),
        (pl.Series([None, None]), [None, None]),
    ],
)  # fmt: skip
def test_ids_are_exact_or_not_read(column: pl.Series, expected: list[str | None]) -> None:
    ids = as_ids(column)
    assert ids.to_list() == expected and as_ids(ids).to_list() == expected


@pytest.mark.parametrize("role", ["user", "item"])
def test_numbers_that_a_float_cannot_hold_are_no_ids(role: str, tmp_path: Path) -> None:
    write(tmp_path, interactions=interactions(**{role: [1.0, 1e300, 2.0**53 + 2]}))
    assert refusal(tmp_path).startswith(
        f"Expected {role} ids that are not empty and that a float holds exactly in interactions.parquet, found 2 "
        "violations; first at row 2. Write them as whole numbers or text."
    )
    write(tmp_path, interactions=interactions(**{role: [b"a", b"\xff", b"\xfe"]}))
    assert refusal(tmp_path).startswith(
        f"Expected {role} ids that are not empty and UTF-8 in interactions.parquet, found 2 violations; first at row 2."
    )


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        ([date(1970, 1, 2), date(1970, 1, 1), date(1970, 1, 3)], [86_400, 0, 172_800]),
        ([datetime(1970, 1, 1, 0, 0, 7, 999999, tzinfo=UTC)] * 3, [7, 7, 7]),
        ([b"30", b"10", b"20"], [30, 10, 20]),
        (["2009-05-04T23:08:57Z", "2009-05-04 23:08:57 UTC", "2009-05-05T01:08:57+02:00"], [1241478537] * 3),
        ([Decimal("30.9"), Decimal("10"), Decimal("20")], [30, 10, 20]),
        (pl.Series([30, 10, 20], dtype=pl.UInt64), [30, 10, 20]),
        ([30.9, 10.0, 20.0], [30, 10, 20]),
    ],
)
def test_times_of_many_types_are_whole_seconds(times: Any, expected: list[int], tmp_path: Path) -> None:
    write(tmp_path, interactions=interactions(timestamp=times, value=[True, False, None]))
    frame = load_dataset(str(tmp_path)).interactions.frame
    assert frame["timestamp"].to_list() == expected and frame["value"].to_list() == [1.0, 0.0, None]


def test_lists_are_unrolled_pairwise(tmp_path: Path) -> None:
    write(
        tmp_path,
        sequences={
            "user_id": ["a", "b", "c", "d"],
            "item_id": [["x", "y"], ["x"], [], None],
            "timestamp": [[30, 10], [20], [], None],
            "rating": [[5, None], [4], [], None],
        },
        users={"user_id": ["a", "b", "c"], "age": [1, 2, None]},
    )
    dataset = load_dataset(str(tmp_path))
    assert dataset.interactions.frame.rows() == [("a", "x", 30, 5.0), ("a", "y", 10, None), ("b", "x", 20, 4.0)]
    assert dataset.interactions.repairs[EMPTY_LISTS] == 2
    assert preview(str(tmp_path))["interactions"][1]["item"] == "y"


def test_arrays_are_lists_and_a_basket_has_one_time(tmp_path: Path) -> None:
    items = pl.Series([[1, 2], [1, 3]], dtype=pl.Array(pl.Int64, 2))
    write(tmp_path, baskets={"user": ["a", "b"], "item": items, "timestamp": [7, 9]})
    assert load_dataset(str(tmp_path)).interactions.frame.rows() == [
        ("a", "1", 7),
        ("a", "2", 7),
        ("b", "1", 9),
        ("b", "3", 9),
    ]


def test_lists_of_other_lengths_and_lists_beside_single_items_are_refused(tmp_path: Path) -> None:
    write(tmp_path, a={"user": ["a", "b", "c"], "item": [["x"], ["x", SECRET], ["y"]], "timestamp": [[1], [2], [3, 4]]})
    assert refusal(tmp_path) == (
        "Expected lists of the same length in columns item, timestamp of each row of a.parquet, found 2 rows with others; "
        "first at row 2. Mend or leave out these rows."
    )
    write(tmp_path, a={"user": ["a", "b"], "item": ["x", SECRET], "timestamp": [[1], [2]]})
    assert refusal(tmp_path).startswith(
        "Expected single values in column timestamp of a.parquet, as column item has, found "
    )


def test_faults_within_lists_are_located_by_the_row_of_the_file(tmp_path: Path) -> None:
    write(tmp_path, a={"user": ["a", "b", "c"], "item": [["x", "y"], [], ["x", None]], "timestamp": [[1, 2], [], [3, 4]]})
    assert "found 1 violation; first at row 3." in refusal(tmp_path)


def test_bytes_in_items_are_text_and_prices(tmp_path: Path) -> None:
    write(
        tmp_path,
        interactions=interactions(),
        items={
            "item": [b"x", b"y", b"z"],
            "title": [b"One", b"\xff", None],
            "price": [b"$9.99", b"\xff", None],
            "genres": [[b"a", b"b"], [b"\xff"], None],
        },
    )
    dataset = load_dataset(str(tmp_path))
    assert dataset.catalog.texts == ("One. a b", "y", "z")
    assert dataset.catalog.modalities["price"].to_list() == [9.99, None, None]
    assert dataset.catalog.modalities["categories"].to_list() == [["a", "b"], None, None]
    assert dataset.interactions.repairs[UNREADABLE_PRICES] == 1


def test_several_texts_of_an_item_are_joined(tmp_path: Path) -> None:
    write(tmp_path, interactions=interactions(), items={"item": ["x", "y"], "about": [["One", None, "two"], []]})
    assert load_dataset(str(tmp_path), columns="text=about").catalog.texts == ("One two", "y")
    assert as_texts(pl.Series([[Decimal("1.50"), Decimal("2.00")], [], None])).to_list() == ["1.5 2", None, None]
    assert as_texts(pl.Series([[], [b"a", b"b"]], dtype=pl.List(pl.Binary))).to_list() == [None, "a b"]


def test_paths_are_paths_and_no_patterns(tmp_path: Path) -> None:
    dataset = load_dataset(str(write(tmp_path, interactions=interactions(), modalities={"item": ["x"], "price": [1.0]})))
    for name in ("set[1]", "a*b", "what?", "{x,y}", "~", "**", "100%", "caf\udce9"):
        folder = tmp_path / "sets" / name
        folder.mkdir(parents=True)
        decoy = tmp_path / "sets" / "set1"  # What the pattern "set[1]" stands for.
        decoy.mkdir(exist_ok=True)
        write(decoy, interactions={"user": ["decoy"], "item": ["decoy"], "timestamp": [1]})
        for file in ("interactions", "modalities"):
            (folder / f"{file}.parquet").write_bytes((tmp_path / f"{file}.parquet").read_bytes())
        found = load_dataset(str(folder))
        assert found.interactions.frame.equals(dataset.interactions.frame) and found.catalog == dataset.catalog
        assert preview(str(folder))["interactions"][0]["user"] == "a"
        arrow = folder / "[arrow]"
        arrow.mkdir()
        write_arrow(dataset, arrow, "x")
        assert load_dataset(str(arrow)).interactions.frame.equals(dataset.interactions.frame)
        for format in ("parquet", "csv", "recbole") if name.isascii() else ():  # Others are read and never written.
            convert(dataset, folder / format, format)
            assert load_dataset(str(folder / format)).catalog == dataset.catalog
        path = folder / "interactions.parquet"
        assert read_parquet(path, ["item"]).columns == ["item"] and read_parquet_head(path, 1).height == 1
        assert list(parquet_schema(path)) == ["user", "item", "timestamp"]


# Whatever types a table has.

SOURCE = "".join(file.read_text("utf-8") for file in Path(shared.__file__).parent.rglob("*.py"))

ROLES = {
    "interactions": ["user", "item", "timestamp", "rating", "item_title"],
    "items": ["item", "title", "genres", "price", "knowledge", "vector"],
    "users": ["user", "age", "region"],
    "modalities": ["item", "categories", "price", "knowledge", "vector"],
}
TYPES = [
    *(pl.Boolean, pl.Int8, pl.Int64, pl.UInt64, pl.Int128, pl.Float32, pl.Float64, pl.Decimal(38, 3), pl.String),
    *(pl.Binary, pl.Date, pl.Time, pl.Datetime("ms"), pl.Datetime("ns", "Europe/Paris"), pl.Duration("us"), pl.Null),
    *(pl.Categorical, pl.Enum(["one", "two"]), pl.Struct({"field": pl.Int64}), pl.List(pl.Int64), pl.List(pl.String)),
    *(pl.List(pl.Binary), pl.List(pl.Float64), pl.List(pl.Struct({"field": pl.String})), pl.List(pl.List(pl.Int8))),
    *(pl.Array(pl.Float32, 2), pl.Array(pl.String, 2), pl.List(pl.Datetime("us")), pl.List(pl.Decimal(20, 2))),
]  # fmt: skip


@st.composite
def tables(draw: st.DrawFn) -> dict[str, pl.DataFrame]:
    """A data set of up to four files, one column of which has any type; the others are as they should be."""
    size = draw(st.integers(1, 4))
    good: dict[str, pl.Series] = {
        "user": pl.Series(["u1", "u2", "u1", "u2"][:size]),
        "item": pl.Series(["i1", "i2", "i3", "i1"][:size]),
        "timestamp": pl.Series([4, 2, 3, 1][:size]),
    }
    other = pl.Series(["1", "2", "3", "4"][:size])
    found = {}
    for file in ("interactions", *draw(st.sets(st.sampled_from(["items", "users", "modalities"])))):
        odd = draw(st.sampled_from(ROLES[file]))
        columns = {}
        for role in ROLES[file]:
            if role == odd:
                dtype = draw(st.sampled_from(TYPES))
                columns[role] = draw(series(dtype=dtype, min_size=size, max_size=size, allow_null=draw(st.booleans())))
            elif role in good:
                columns[role] = good[role]
            elif role in ("title", "age"):
                columns[role] = other
        found[file] = pl.DataFrame([column.alias(role) for role, column in columns.items()])
    return found


def values(frame: pl.DataFrame) -> set[str]:
    """Texts of a table that are long enough to be told from a message's own words."""
    found: set[str] = set()
    for column in frame.get_columns():
        inner = column
        while inner.dtype in (pl.List, pl.Array):
            inner = inner.explode()
        if inner.dtype in (pl.String, pl.Int64, pl.Float64, pl.UInt64, pl.Date):
            found |= {str(value) for value in inner.to_list() if value is not None}
    # Hypothesis draws words of the program itself too, and these do stand in messages.
    telling = (value for value in found if len(value) >= 6 and set(value) & set(string.ascii_letters + string.digits))
    return {value for value in telling if value not in SOURCE}


@settings(max_examples=250, deadline=None, suppress_health_check=list(HealthCheck))
@given(found=tables(), rules=st.sampled_from([("time", "refuse"), ("file", "drop"), ("time", "drop")]))
def test_a_table_of_any_types_is_read_or_refused_in_one_line_without_its_values(
    found: dict[str, pl.DataFrame], rules: tuple[Any, Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("set")
    for name, frame in found.items():
        frame.write_parquet(folder / f"{name}.parquet")
    try:
        dataset = load_dataset(str(folder), order=rules[0], bad_rows=rules[1])
    except DataError as error:
        message = str(error)
        assert "\n" not in message and message.startswith(("Expected", "No ", "Cannot"))
        assert not [value for frame in found.values() for value in values(frame) if value in message]
    else:
        assert isinstance(dataset, Dataset)
        assert dataset.interactions.frame.dtypes[:3] == [pl.String, pl.String, pl.Int64]
        assert dataset.interactions.frame.select("user", "item", "timestamp").null_count().sum_horizontal().item() == 0
        preview(str(folder), order=rules[0], bad_rows=rules[1])
