"""Times of every kind to whole seconds since 1970.

Here live the notations. Here never lives what to do about a time that is none: it becomes null, for the checks on rows to
count. A time without zone is taken as UTC: only the order within a data set matters.

Numbers are seconds, or what lies nearest to today: a column whose median as seconds would be past the year 5138 counts
milliseconds, microseconds or nanoseconds. Whole numbers most of which are dates of the years 1900 to 2099, such as 20201231
or 20201231235959, are dates: as seconds, all of them would lie in August and September 1970. Dates with the year last say by
themselves whether the day or the month comes first, if any row of the file does; otherwise they are refused, since half of
them would silently be other days.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import polars as pl

from shared.data.typed_columns import as_texts
from shared.errors import DataError

DAY: Final = "%Y-%m-%d"
SECOND: Final = "%Y-%m-%dT%H:%M:%S"
CLOCK: Final = "%m/%d/%Y %I:%M:%S %p"  # MIND
OFFSET: Final = "%b %d %H:%M:%S %z %Y"  # Goodreads, after the name of the day, which says nothing more.
READ: Final = (
    "Read are seconds or milliseconds since 1970, 20201231, 2020-12-31, 2020-12-31 23:59:59 (also with T, Z, UTC or an "
    "offset such as +02:00), 31/12/2020, Dec 31, 2020."
)
FINER: Final = "times in {unit} (read as whole seconds)"
DIGITS: Final = "times such as {example} (read as dates)"
_UNITS: Final = ("seconds", "milliseconds", "microseconds", "nanoseconds")
# Dates written as whole numbers: digits of the time of day behind year, month and day, and an example.
_DIGITS: Final = {0: "20201231", 4: "202012312359", 6: "20201231235959"}
_FIRST_YEAR: Final = 1900
_LAST_YEAR: Final = 2099
_LATEST: Final = 100_000_000_000  # As seconds, the year 5138; as milliseconds, March 1973.

_SECOND: Final = "%Y-%m-%d %H:%M:%S"
# Notations of whole columns, read fast; each is tried on all rows if it fits the first.
_COMMON: Final = (_SECOND, SECOND, DAY, _SECOND + " UTC", SECOND + "Z")
_NAMED: Final = (
    *("%d %b %Y", "%d %b %Y %H:%M:%S", "%d %b %Y %H:%M", "%b %d, %Y", "%b %d, %Y %H:%M:%S", "%b %d, %Y %I:%M:%S %p"),
    "%m %d, %Y",  # Amazon's reviewTime, which is American.
)
_CLOCK_PATTERN: Final = r"(?:[T\s]+(\d{1,2}):(\d{2})(?::(\d{2})(?:[.,]\d+)?)?\s*([AaPp][Mm])?)?"
_ISO: Final = r"^(\d{4})[-/.](\d{1,2})[-/.](\d{1,2})" + _CLOCK_PATTERN + r"\s*(?:(?:Z|UTC|GMT)|([+-])(\d{2}):?(\d{2})?)?$"
_LOCAL: Final = r"^(\d{1,2})[-/.](\d{1,2})[-/.](\d{4})" + _CLOCK_PATTERN + r"$"


def as_seconds(column: pl.Series, *, source: str) -> tuple[pl.Series, dict[str, int]]:
    """Reads a column of times.

    Args:
        column: Dates, numbers or texts. (private)
        source: Name of the file, for messages. (public)

    Returns:
        Int64, whole seconds since 1970, null where it is no time, and how many were counted in a finer unit or were dates
        without signs between their parts. Fractions of a second are cut off.

    Raises:
        DataError: If dates could be read with the day first and with the month first, and neither reading is ruled out.
    """
    if column.dtype in (pl.Date, pl.Datetime):
        return column.dt.epoch("s").cast(pl.Int64), {}
    if column.dtype.is_numeric():
        return _in_seconds(whole_numbers(column))
    texts = as_texts(column).str.strip_chars()
    numbers, finer = _in_seconds(whole_numbers(texts))
    if numbers.null_count() == texts.null_count():
        return numbers, finer
    dates = in_notations(texts.set(numbers.is_not_null(), None), (), source=source)
    return numbers.fill_null(dates), finer


def seconds_of_each(column: pl.Series) -> pl.Series:
    """Reads each time by itself, so that it means the same in whatever company it comes: one by one, or a file at once.

    A whole number of eight, twelve or fourteen digits that is a date of the years 1900 to 2099 is that date. Any other is
    seconds, or from the year 5138 on milliseconds, microseconds or nanoseconds. Dates with the year last are not read.

    Args:
        column: As of `as_seconds`. (private)

    Returns:
        Int64, whole seconds since 1970; null where it is no time.
    """
    if column.dtype in (pl.Date, pl.Datetime):
        return column.dt.epoch("s").cast(pl.Int64)
    texts = None if column.dtype.is_numeric() else as_texts(column).str.strip_chars()
    numbers = whole_numbers(column if texts is None else texts).alias("n")
    seconds = pl.col("n")
    for unit in range(1, len(_UNITS)):
        first = _LATEST * 1000 ** (unit - 1)
        seconds = pl.when(pl.col("n") >= first).then(pl.col("n") // 1000**unit).otherwise(seconds)
    found = numbers.to_frame().select(seconds.alias("n")).to_series()
    for digits in _DIGITS:
        possible = _digit_dates(numbers, digits)
        found = found if possible.null_count() == len(possible) else possible.fill_null(found)
    if texts is not None and found.null_count() > texts.null_count():
        found = found.fill_null(in_notations(texts.set(numbers.is_not_null(), None), ()))
    return found.alias(column.name)


def whole_numbers(column: pl.Series) -> pl.Series:
    """Reads numbers as Int64, rounded down; null where it is none."""
    if column.dtype == pl.String:
        texts = column.str.strip_chars()
        whole = texts.cast(pl.Int64, strict=False)
        # Almost all columns are done here; 25 million floats are then not made.
        return whole if whole.null_count() == column.null_count() else whole.fill_null(_floor(texts))
    return _floor(column) if column.dtype.is_float() else column.cast(pl.Int64, strict=False)


def in_notations(texts: pl.Series, notations: Sequence[str], *, source: str | None = None) -> pl.Series:
    """Reads texts as dates and times.

    Args:
        texts: Strings. (private)
        notations: A format's own, tried before the usual ones.
        source: Name of the file, where these are all of its rows; dates with the year last are read only then. (public)

    Returns:
        Int64, whole seconds since 1970, null where a text is no time.

    Raises:
        DataError: As `as_seconds`.
    """
    texts = texts.str.strip_chars()
    first = texts.drop_nulls().head(1)
    fitting = [common for common in _COMMON if len(first) and _parsed(first, common).null_count() == 0]
    seconds = pl.Series(texts.name, [None], dtype=pl.Int64).new_from_index(0, len(texts))
    for read in (*notations, *fitting, _iso, OFFSET, *_NAMED):
        rest = texts.is_not_null() & seconds.is_null()
        if not rest.any():
            return seconds
        seconds = _filled(seconds, texts, rest, read)
    rest = texts.is_not_null() & seconds.is_null()
    if source is not None and rest.any():
        seconds = seconds.scatter(rest.arg_true(), _local(texts.filter(rest), source))
    return seconds


def _filled(seconds: pl.Series, texts: pl.Series, rest: pl.Series, read: object) -> pl.Series:
    """Reads the rows that are left, by a notation or by `_iso`."""
    left = texts.filter(rest)
    found = _parsed(left, read) if isinstance(read, str) else _iso(left)
    if found.null_count() == len(found):
        return seconds
    return found.alias(texts.name) if len(found) == len(texts) else seconds.scatter(rest.arg_true(), found)


def _in_seconds(numbers: pl.Series) -> tuple[pl.Series, dict[str, int]]:
    """Numbers in the unit that puts their median before the year 5138, or as the dates that most of them are."""
    median, unit = float(numbers.median() or 0), 0  # type: ignore[arg-type]
    for digits, example in _DIGITS.items():
        dates = _dates(numbers, median, digits)
        if dates is not None:
            return dates, {DIGITS.format(example=example): len(dates) - dates.null_count()}
    while median >= _LATEST and unit + 1 < len(_UNITS):
        median, unit = median / 1000, unit + 1
    if not unit:
        return numbers, {}
    return numbers // 1000**unit, {FINER.format(unit=_UNITS[unit]): len(numbers) - numbers.null_count()}


def _dates(numbers: pl.Series, median: float, digits: int) -> pl.Series | None:
    """Whole numbers that are year, month, day and `digits` digits of the time of day, null where one is not; None where
    most are not, since of other numbers of that size one in 27 would be a date."""
    smallest, largest = _FIRST_YEAR * 10 ** (4 + digits), (_LAST_YEAR + 1) * 10 ** (4 + digits)
    if not smallest <= median < largest:
        return None
    found = _digit_dates(numbers, digits)
    return found if 2 * (len(found) - found.null_count()) > len(numbers) - numbers.null_count() else None


def _digit_dates(numbers: pl.Series, digits: int) -> pl.Series:
    """Seconds since 1970 of each whole number that is year, month, day and `digits` digits of the time of day."""
    smallest, largest = _FIRST_YEAR * 10 ** (4 + digits), (_LAST_YEAR + 1) * 10 ** (4 + digits)
    possible = numbers.set((numbers < smallest) | (numbers >= largest), None)
    if possible.null_count() == len(possible):
        return possible
    return _parsed(possible.cast(pl.String), "%Y%m%d" + "%H%M%S"[:digits])


def _floor(column: pl.Series) -> pl.Series:
    """Rounds down; what is not a finite number becomes null."""
    return column.cast(pl.Float64, strict=False).floor().cast(pl.Int64, strict=False)


def _parsed(texts: pl.Series, notation: str) -> pl.Series:
    """Seconds since 1970, null where the notation is another."""
    if notation == OFFSET:
        times = texts.str.slice(4).str.strptime(pl.Datetime("us", "UTC"), notation, strict=False)
    else:
        times = texts.str.strptime(pl.Datetime("us"), notation, strict=False)
    return times.dt.epoch("s").cast(pl.Int64)


def _iso(texts: pl.Series) -> pl.Series:
    """Dates with the year first, with or without time of day, fraction and offset."""
    parts = texts.str.extract_groups(_ISO).struct.unnest()
    hours, minutes = (pl.col(name).cast(pl.Int64, strict=False).fill_null(0) for name in ("9", "10"))
    sign = pl.when(pl.col("8") == "-").then(-1).otherwise(1)
    offset = parts.select((sign * (hours * 3600 + minutes * 60)).alias("offset")).to_series()
    return _composed(parts, "1", "2", "3") - offset


def _local(texts: pl.Series, source: str) -> pl.Series:
    """Dates with the year last, the day first or the month first, whichever all of them can be.

    Raises:
        DataError: If all can be both and are not the same, or some can only be the one and some only the other.
    """
    parts = texts.str.extract_groups(_LOCAL).struct.unnest()
    day_first, month_first = _composed(parts, "3", "2", "1"), _composed(parts, "3", "1", "2")
    only_day = int((day_first.is_not_null() & month_first.is_null()).sum())
    only_month = int((month_first.is_not_null() & day_first.is_null()).sum())
    both = int((day_first != month_first).fill_null(False).sum())
    if (only_day and only_month) or (both and not only_day and not only_month):
        known = (
            f"{only_day} that must have the day first and {only_month} the month"
            if only_day
            else f"{both} that could have either first"
        )
        raise DataError(
            f"Expected dates of {source} to say whether the day or the month comes first, found {known}. "
            "Write them as 2020-12-31."
        )
    return month_first if only_month else day_first


def _composed(parts: pl.DataFrame, year: str, month: str, day: str) -> pl.Series:
    """Seconds of year, month and day in the groups of these names, and the time of day in the groups 4 to 7; null where
    there is no such day or time."""
    date = pl.concat_str(year, month, day, separator="-")
    clock = pl.concat_str(*(pl.col(group).fill_null("0") for group in ("4", "5", "6")), separator=":")
    half = pl.col("7").str.to_uppercase()
    written = parts.select(
        pl.concat_str(date, clock, separator=" ").alias("time"),
        pl.when(half.is_not_null()).then(pl.concat_str(date, clock, half, separator=" ")).alias("halved"),
    )
    plain = _parsed(written["time"].set(written["halved"].is_not_null(), None), _SECOND)
    if written["halved"].null_count() == written.height:
        return plain
    return plain.fill_null(_parsed(written["halved"], "%Y-%m-%d %I:%M:%S %p"))
