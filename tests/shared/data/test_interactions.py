import polars as pl
import pytest

from shared.data.interactions import EXACT_DUPLICATES, Interactions, looks_positional
from shared.errors import DataError


def raw(**columns: list[object]) -> pl.DataFrame:
    defaults: dict[str, list[object]] = {
        "user": ["a", "a", "b"],
        "item": ["x", "y", "x"],
        "timestamp": ["3", "1", "2"],
    }
    return pl.DataFrame({**defaults, **columns})


def refusal(frame: pl.DataFrame, **options: object) -> str:
    with pytest.raises(DataError, match="Expected") as caught:
        Interactions.validated(frame, source="events.csv", **options)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_interactions_keep_file_order_and_cast_strings() -> None:
    interactions = Interactions.validated(raw(value=["4", "", "2.5"]), source="events.csv")
    assert interactions.frame.rows() == [("a", "x", 3, 4.0), ("a", "y", 1, None), ("b", "x", 2, 2.5)]
    assert interactions.frame.dtypes == [pl.String, pl.String, pl.Int64, pl.Float64]
    assert (interactions.num_users, interactions.num_interactions, interactions.repairs) == (2, 3, {})


def test_interactions_drop_and_count_exact_duplicates_but_keep_repeats_at_other_times() -> None:
    frame = raw(user=["a", "a", "a"], item=["x", "x", "x"], timestamp=["1", "1", "2"])
    interactions = Interactions.validated(frame, source="events.csv")
    assert interactions.frame["timestamp"].to_list() == [1, 2]
    assert interactions.repairs == {EXACT_DUPLICATES: 1}


def test_interactions_with_equal_times_and_other_values_are_no_duplicates() -> None:
    frame = raw(user=["a"] * 3, item=["x"] * 3, timestamp=["1"] * 3, value=["1", "2", "2"])
    assert Interactions.validated(frame, source="events.csv").frame["value"].to_list() == [1.0, 2.0]


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        (["1", "x", "y"], "found 2 violations; first at line 3."),
        (["1", "2", "-5"], "found 1 violation; first at line 4."),
        ([None, "2", "3"], "found 1 violation; first at line 2."),
        (["nan", "inf", "3"], "found 2 violations; first at line 2."),
        ([1.0, float("nan"), 2.0], "found 1 violation; first at line 3."),
        ([-1, 2, 3], "found 1 violation; first at line 2."),
        (["1", "?", "1e400"], "found 2 violations; first at line 3."),
        ([None, None, None], "found 3 violations; first at line 2."),
    ],
)
def test_interactions_refuse_times_that_are_not_numbers_at_least_0(times: list[object], expected: str) -> None:
    assert refusal(raw(timestamp=times)).startswith(f"Expected timestamps from 1970 on in events.csv, {expected} Read are ")


def test_interactions_locate_by_row_when_the_file_has_no_lines() -> None:
    assert refusal(raw(timestamp=["1", "x", "2"]), lines=None).partition(" Read are ")[0].endswith("first at row 2.")


@pytest.mark.parametrize(("column", "ids"), [("user", ["a", None, ""]), ("item", ["x", " ", None])])
def test_interactions_refuse_empty_ids(column: str, ids: list[object]) -> None:
    expected = f"Expected {column} ids that are not empty in events.csv, found 2 violations; first at line 3. Mend the file."
    assert refusal(raw(**{column: ids})) == expected


def test_interactions_refuse_values_that_are_not_numbers() -> None:
    expected = (
        "Expected values that are finite numbers or empty in events.csv, found 1 violation; first at line 3. Mend the file."
    )
    assert refusal(raw(value=["1", "good", ""])) == expected


def test_interactions_refuse_a_missing_column_and_an_empty_table() -> None:
    assert "Expected columns user, item, timestamp in events.csv, found no item." in refusal(raw().drop("item"))
    assert "Expected at least one interaction in events.csv, found 0." in refusal(raw().clear())


def test_interactions_never_quote_the_data_in_a_message() -> None:
    message = refusal(raw(user=["secret-person"] * 3, item=["secret-item"] * 3, timestamp=["1", "2", "soon"]))
    assert "secret" not in message and "soon" not in message


def test_interactions_read_floats_datetimes_and_integer_ids() -> None:
    frame = pl.DataFrame({"user": [1.0, 2.0], "item": [7, 8], "timestamp": ["881250949.0", "8.5e3"]})
    interactions = Interactions.validated(frame, source="x")
    assert interactions.frame.rows() == [("1", "7", 881250949), ("2", "8", 8500)]
    dates = pl.DataFrame({"user": ["a"], "item": ["x"], "timestamp": ["1970-01-02"]}).with_columns(
        pl.col("timestamp").str.to_date()
    )
    assert Interactions.validated(dates, source="x").frame["timestamp"].to_list() == [86_400]


def test_repairs_add_up_and_zero_counts_are_left_out() -> None:
    interactions = Interactions(pl.DataFrame(), repairs={"a": 1}).with_repairs({"a": 2, "b": 0, "c": 4})
    assert interactions.repairs == {"a": 3, "c": 4}


@pytest.mark.parametrize(
    ("users", "times", "expected"),
    [
        ("aaabb", [0, 1, 2, 0, 1], True),
        ("aaabb", [2, 1, 3, 1, 2], True),
        ("aaabb", [0, 1, 3, 0, 1], False),
        ("aaabb", [0, 1, 1, 0, 1], False),
        ("aaabb", [5, 6, 7, 0, 1], False),
        ("aaa", [0, 1, 2], False),
        ("aabb", [0, 1, 0, 1], False),
    ],
)
def test_positions_are_told_from_times(users: str, times: list[int], expected: bool) -> None:
    assert looks_positional(pl.DataFrame({"user": list(users), "timestamp": times})) is expected


def test_zero_and_minus_zero_are_one_value() -> None:
    frame = raw(user=["a"] * 3, item=["x"] * 3, timestamp=["1"] * 3, value=["0", "-0", "-0.0"])
    assert Interactions.validated(frame, source="x").frame["value"].to_list() == [0.0]


def test_a_column_of_values_without_any_is_no_column() -> None:
    assert Interactions.validated(raw(value=["", None, " "]), source="x").frame.columns == ["user", "item", "timestamp"]
