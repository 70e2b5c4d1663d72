"""Times in the notations that data sets have, to whole seconds."""

from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.data.interactions import Interactions
from shared.data.readers import load_dataset
from shared.data.times import CLOCK, DIGITS, FINER, as_seconds, in_notations, seconds_of_each
from shared.errors import DataError

NOON = 1_600_000_000  # 2020-09-13 12:26:40 UTC, a Sunday.


def seconds(*texts: str | None) -> list[int | None]:
    return as_seconds(pl.Series("t", texts, dtype=pl.String), source="f.csv")[0].to_list()


@pytest.mark.parametrize(
    "text",
    [
        "1600000000",
        " 1600000000 ",
        "1600000000.9",
        "2020-09-13 12:26:40",
        "2020-09-13T12:26:40",
        "2020-09-13 12:26:40 UTC",
        "2020-09-13T12:26:40Z",
        "2020-09-13 12:26:40.999",
        "2020-09-13T12:26:40.000000+00:00",
        "2020-09-13 14:26:40+02:00",
        "2020-09-13T14:26:40+0200",
        "2020-09-13 05:26:40 -07",
        "2020/09/13 12:26:40",
        "2020-9-13 12:26:40",
        "Sun Sep 13 12:26:40 +0000 2020",
        "13 Sep 2020 12:26:40",
        "Sep 13, 2020 12:26:40 PM",
        "2020-09-13 12:26:40 PM",
        "13/09/2020 12:26:40",
        "13.09.2020 12:26:40",
        "9/13/2020 12:26:40 PM",
        "13-9-2020 12:26:40",
    ],
)
def test_the_usual_notations_are_read(text: str) -> None:
    assert seconds(text) == [NOON]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2020-09-13", NOON - 44_800),
        ("2020-09-13 12:26", NOON - 40),
        ("09 13, 2020", NOON - 44_800),
        ("Sep 13, 2020", NOON - 44_800),
        ("2020-09-13 12:26 AM", NOON - 40 - 43_200),
        ("1969-12-31 23:59:59", -1),
        ("2020-02-30", None),
        ("2020-09-13 25:00:00", None),
        ("30/02/2020", None),
        ("31/12/20", None),
        ("soon", None),
        ("2020-09-13,", None),
        ("0x10", None),
        ("", None),
        (None, None),
    ],
)
def test_days_minutes_and_what_is_no_time(text: str | None, expected: int | None) -> None:
    assert seconds(text) == [expected]


def test_dates_with_the_year_last_follow_the_rows_that_tell() -> None:
    assert seconds("13/09/2020", "01/02/2020") == [NOON - 44_800, 1_580_515_200]  # The first of February.
    assert seconds("09/13/2020", "01/02/2020") == [NOON - 44_800, 1_577_923_200]  # The second of January.
    assert seconds("01/01/2020", "02/02/2020") == [1_577_836_800, 1_580_601_600]  # Either way the same.
    assert seconds("13/09/2020", "2020-09-13", "1600000000") == [NOON - 44_800, NOON - 44_800, NOON]
    with pytest.raises(
        DataError, match=r"^Expected dates of f\.csv to say .*, found 2 that could have either first\. Write"
    ):
        seconds("01/02/2020", "03/04/2020")
    with pytest.raises(
        DataError, match=r"found 1 that must have the day first and 2 the month\. Write them as 2020-12-31\.$"
    ):
        seconds("13/09/2020", "09/13/2020", "09/14/2020")


def test_parts_of_a_file_are_not_judged_by_themselves() -> None:
    assert in_notations(pl.Series(["13/09/2020", "2020-09-13"]), ()).to_list() == [None, NOON - 44_800]
    assert in_notations(pl.Series(["11/9/2020 12:00:00 PM"]), (CLOCK,)).to_list() == [1_604_923_200]


@pytest.mark.parametrize(
    ("factor", "unit"), [(1, ""), (1000, "milliseconds"), (10**6, "microseconds"), (10**9, "nanoseconds")]
)
@pytest.mark.parametrize("as_text", [True, False])
def test_numbers_are_in_the_unit_that_lies_near_today(factor: int, unit: str, as_text: bool) -> None:
    column = pl.Series([NOON * factor, (NOON + 7) * factor, 0])
    found, finer = as_seconds(column.cast(pl.String) if as_text else column, source="f")
    assert found.to_list() == [NOON, NOON + 7, 0]
    assert finer == ({FINER.format(unit=unit): 3} if unit else {})


def test_positions_are_never_times() -> None:
    frame = pl.DataFrame({"user": ["a", "a"], "item": ["x", "y"], "timestamp": ["2020-09-13", "1"]})
    with pytest.raises(
        DataError, match=r"^Expected positions that are numbers >= 0 in f, found 1 violation; first at line 2\."
    ):
        Interactions.validated(frame, source="f", positional=True)
    large = frame.with_columns(timestamp=pl.Series([10**13, 10**13 + 1]))
    assert Interactions.validated(large, source="f", positional=True).frame["timestamp"].to_list() == [10**13, 10**13 + 1]


@given(
    st.lists(
        st.datetimes(datetime(1970, 1, 2), datetime(2100, 1, 1)).map(lambda t: t.replace(microsecond=0)),
        min_size=1,
        max_size=5,
    ),
    st.integers(-12 * 60, 14 * 60),
    st.sampled_from(["T", " "]),
    st.booleans(),
)
def test_iso_times_of_any_offset_are_what_python_reads(
    times: list[datetime], minutes: int, between: str, fraction: bool
) -> None:
    zone = timezone(timedelta(minutes=minutes))
    aware = [time.replace(tzinfo=zone) for time in times]
    texts = [time.isoformat(sep=between, timespec="milliseconds" if fraction else "seconds") for time in aware]
    assert seconds(*texts) == [int(time.timestamp()) for time in aware]
    assert seconds(*(f"{time:%d.%m.%Y %H:%M:%S}" for time in [*times, datetime(1999, 12, 31)]))[:-1] == [
        int(time.replace(tzinfo=UTC).timestamp()) for time in times
    ]


@pytest.mark.parametrize(
    ("columns", "row", "mapped"),
    [
        ("user_id,business_id,stars,date", 'u{n},b{n},4,"2020-09-13 12:26:{n:02}"', "item=business_id"),
        ("event_time,event_type,product_id,user_id", "2020-09-13 12:26:{n:02} UTC,view,b{n},u{n}", ""),
        ("userid,timestamp,artist", "u{n},2020-09-13T12:26:{n:02}Z,b{n}", "item=artist"),
    ],
)
def test_published_tables_with_iso_times_are_read(columns: str, row: str, mapped: str, tmp_path: Path) -> None:
    (tmp_path / "events.csv").write_text("\n".join([columns, *(row.format(n=n) for n in range(20))]))
    frame = load_dataset(str(tmp_path), columns=mapped).interactions.frame
    assert frame["timestamp"].to_list() == [NOON - 40 + n for n in range(20)]


def test_a_refusal_lists_the_notations_and_quotes_no_time(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("user,item,timestamp\nu,x,2020-09-13\nu,y,13 o'clock\n")
    with pytest.raises(DataError) as caught:
        load_dataset(str(tmp_path))
    message = str(caught.value)
    assert message.startswith(
        "Expected timestamps from 1970 on in a.csv, found 1 violation; first at line 3. Read are seconds"
    )
    assert "2020-12-31 23:59:59" in message and "clock" not in message and "2020-09-13" not in message


@pytest.mark.parametrize("example", ["20201231", "202012312359", "20201231235959"])
def test_whole_numbers_that_are_dates_are_read_as_dates_and_counted(example: str) -> None:
    notation = "%Y%m%d%H%M%S"[: {8: 6, 12: 10, 14: 12}[len(example)]]
    moments = [
        datetime(2024, 2, 29, tzinfo=UTC),
        datetime(1999, 12, 31, 23, 59, tzinfo=UTC),
        datetime(2011, 1, 1, tzinfo=UTC),
    ]
    whole = [datetime.strptime(f"{time:{notation}}Z", f"{notation}%z") for time in moments]
    numbers = pl.Series([int(f"{time:{notation}}") for time in moments])
    expected = [int(time.timestamp()) for time in whole]
    for column in (numbers, numbers.cast(pl.Float64), numbers.cast(pl.String)):
        found, counts = as_seconds(column, source="f.csv")
        assert found.to_list() == expected
        assert counts == {DIGITS.format(example=example): 3}


def test_among_dates_in_digits_what_is_no_date_is_no_time() -> None:
    assert as_seconds(pl.Series([20240131, 20240132, 20240201, 0]), source="f.csv")[0].null_count() == 0
    assert as_seconds(pl.Series([20240131, 20240132, 20240201, 20240202, 5]), source="f.csv")[0].to_list() == [
        *(1_706_659_200, None, 1_706_745_600, 1_706_832_000, None)
    ]


def test_seconds_as_large_as_dates_in_digits_stay_seconds() -> None:
    """The negative control: of consecutive seconds in August 1970 one in 27 is a date as well."""
    numbers = pl.Series(range(20_000_000, 20_100_000, 37))
    assert as_seconds(numbers, source="f.csv")[0].to_list() == numbers.to_list()


# A time in every notation that means the same alone as in company.
EACH = [
    ("1600000000", NOON),
    (" 1600000000.9 ", NOON),
    ("1600000000123", NOON),
    ("1600000000123456", NOON),
    ("1600000000123456789", NOON),
    ("99999999999", 99_999_999_999),
    ("100000000000", 100_000_000),
    ("0", 0),
    ("-5", -5),
    ("20200913", NOON - 44_800),
    ("202009131226", NOON - 40),
    ("20200913122640", NOON),
    ("20201350", 20_201_350),
    ("2020-09-13", NOON - 44_800),
    ("2020-09-13T14:26:40+02:00", NOON),
    ("2020-09-13 12:26:40 UTC", NOON),
    ("Sep 13, 2020 12:26:40", NOON),
    ("13/09/2020", None),
    ("", None),
    ("now", None),
    (None, None),
]


@given(st.lists(st.sampled_from(EACH), min_size=1, max_size=12))
def test_each_time_is_read_by_itself_whatever_stands_beside_it(times: list[tuple[str | None, int | None]]) -> None:
    texts, expected = zip(*times, strict=True)
    assert seconds_of_each(pl.Series("t", texts, dtype=pl.String)).to_list() == list(expected)


def test_each_time_may_be_a_number_or_a_date() -> None:
    assert seconds_of_each(pl.Series("t", [1_600_000_000, 1_600_000_000_123, 20200913])).to_list() == [
        NOON,
        NOON,
        NOON - 44_800,
    ]
    assert seconds_of_each(pl.Series("t", [1.6e9, 1.6e12, float("nan"), None])).to_list() == [NOON, NOON, None, None]
    moments = pl.Series("t", [datetime(2020, 9, 13, 12, 26, 40), None])
    assert seconds_of_each(moments).to_list() == [NOON, None]
    assert seconds_of_each(moments.dt.date()).to_list() == [NOON - 44_800, None]


@given(st.lists(st.integers(10**9, 4 * 10**9), min_size=1, max_size=20))
def test_a_column_of_seconds_or_milliseconds_is_read_alike_by_itself_and_as_a_whole(times: list[int]) -> None:
    for column in (pl.Series("t", times), pl.Series("t", [1000 * time for time in times]).cast(pl.String)):
        assert seconds_of_each(column).equals(as_seconds(column, source="f.csv")[0])
