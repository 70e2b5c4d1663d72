"""What a column of any type is read as: ids, numbers, texts, labels.

Here live the types that each use of a column accepts, and the casts. Here never live files, roles or checks on values.

Parquet and Arrow have types that a text file has not: lists, structs, bytes, decimals, times of day, unsigned numbers
beyond the signed ones. A type is accepted because it is on a list, so that any other is refused by its name. A cast
never fails: a value that cannot be read becomes null, for the checks on rows to count. Names of types are ours, since
polars' own quote the categories of an Enum and the fields of a Struct, which may be private.
"""

from __future__ import annotations

from typing import Final, Literal

import polars as pl

from shared.errors import DataError

Use = Literal["ids", "times", "positions", "numbers", "text", "labels", "attribute"]

_TEXTS: Final = (pl.String, pl.Categorical, pl.Enum, pl.Binary)
_CLOCKS: Final = (pl.Date, pl.Datetime)
_NAMES: Final[dict[Use, str]] = {
    "ids": "text or whole numbers",
    "times": "times (dates, numbers or text)",
    "positions": "positions (numbers)",
    "numbers": "numbers",
    "text": "text",
    "labels": "text or lists of text",
    "attribute": "text or numbers",
}


def is_text(dtype: pl.DataType) -> bool:
    """Whether a column of that type holds single texts."""
    return dtype in _TEXTS


def is_list(dtype: pl.DataType) -> bool:
    """Whether a column of that type holds several values a row."""
    return isinstance(dtype, pl.List | pl.Array)


def type_name(dtype: pl.DataType) -> str:
    """A type for a message: its own name and that of what it lists, never what else defines it."""
    name = str(dtype.base_type())
    if not isinstance(dtype, pl.List | pl.Array):
        return name
    size = f", {dtype.size}" if isinstance(dtype, pl.Array) else ""
    return f"{name}({type_name(dtype.inner)}{size})"  # type: ignore[arg-type]


def accepts(use: Use, dtype: pl.DataType) -> bool:
    """Whether a column of that type can be used so; a column of nothing but nulls can be anything."""
    if isinstance(dtype, pl.List | pl.Array):
        # Columns of texts or labels may hold several each.
        return use in ("text", "labels") and accepts("attribute", dtype.inner)  # type: ignore[arg-type]
    number = dtype.is_integer() or dtype.is_float() or dtype.is_decimal()
    if number or dtype in _TEXTS or dtype == pl.Null:
        return True
    if dtype == pl.Boolean:
        return use in ("numbers", "text", "labels", "attribute")
    return dtype in _CLOCKS and use in ("times", "text", "attribute")


def require_type(dtype: pl.DataType, use: Use, *, column: str, source: str) -> None:
    """Refuses a column whose type cannot be used so.

    Args:
        dtype: Its type.
        use: What it is read as.
        column: Its name in the file. (public)
        source: Name of the file. (public)

    Raises:
        DataError: With the column, the file and the type.
    """
    if not accepts(use, dtype):
        raise DataError(
            f"Expected {_NAMES[use]} in column {column} of {source}, found {type_name(dtype)}. Convert the column, or leave "
            "it out of the file and name another one in data.columns."
        )


def as_ids(column: pl.Series) -> pl.Series:
    """Reads a column as ids, so that one item is spelled alike in every file; exactly, or not at all.

    A whole number is spelled without `.0`, whether it is an integer, a decimal, a float or the text of one ("5.0" is how
    pandas writes a column of integers that had a gap); blanks around texts go.

    Returns:
        Strings; null where an id is empty, where bytes are no UTF-8, and where a float is infinite or so large that it
        stands for several whole numbers.
    """
    if column.dtype.is_integer():
        return column.cast(pl.String)
    ids = _float_ids(column) if column.dtype.is_float() else as_texts(column)
    # Most files have neither blanks nor floats; 25 million ids are then not copied.
    if ids.str.contains(r"^\s|\s$|\.0").any():
        ids = ids.str.strip_chars().str.replace(r"^(0|-?[1-9][0-9]*)\.0+$", "$1")
    return ids.replace("", None) if (ids == "").any() else ids


def _float_ids(column: pl.Series) -> pl.Series:
    """Floats as ids: the shortest spelling, integers without exponent."""
    largest = 2.0 ** (53 if column.dtype == pl.Float64 else 24 if column.dtype == pl.Float32 else 11)
    numbers = column.cast(pl.Float64)
    whole = (numbers % 1 == 0) & (numbers.abs() <= largest)
    fraction = (numbers % 1 != 0) & numbers.is_finite()
    integers = pl.when(whole).then(pl.col("number")).cast(pl.Int64).cast(pl.String)
    spelled = pl.when(fraction).then(pl.col("found").cast(pl.String))
    table = pl.DataFrame({"number": numbers, "found": column})
    return table.select(integers.fill_null(spelled)).to_series().alias(column.name)


def as_texts(column: pl.Series) -> pl.Series:
    """Reads a column as strings; bytes that are no UTF-8 become null, several texts of one row are joined by blanks."""
    if isinstance(column.dtype, pl.List | pl.Array):
        return as_labels(column).list.join(" ", ignore_nulls=True)
    if column.dtype == pl.Binary:
        return _decoded(column)
    if column.dtype.is_decimal():
        return column.cast(pl.String).str.replace(r"(\.\d*?)0+$", "$1").str.strip_suffix(".")
    return column.cast(pl.String)


def as_labels(column: pl.Series) -> pl.Series:
    """Reads a column as lists of strings; a single value is a list of one."""
    if not isinstance(column.dtype, pl.List | pl.Array):
        texts = as_texts(column)
        return pl.DataFrame({"label": texts}).select(pl.when(texts.is_not_null()).then(pl.concat_list("label"))).to_series()
    inner: pl.DataType = column.dtype.inner  # type: ignore[assignment]
    if inner != pl.Binary and not inner.is_decimal():
        return column.cast(pl.List(pl.String))
    rows = pl.DataFrame({"label": column.cast(pl.List(inner))}).with_row_index("row")
    flat = rows.explode("label")
    lists = flat.with_columns(as_texts(flat["label"]).alias("label")).drop_nulls("label").group_by("row").agg("label")
    # A list of nothing has no row here; it is the same as none.
    return rows.select("row").join(lists, on="row", how="left", maintain_order="left")["label"]


def as_numbers(column: pl.Series) -> pl.Series:
    """Reads a column as Float64; null where it is empty or no number."""
    if column.dtype in _TEXTS:
        column = as_texts(column).str.strip_chars().replace("", None)
    return column.cast(pl.Float64, strict=False)


def _decoded(column: pl.Series) -> pl.Series:
    """Bytes as UTF-8."""
    try:
        return column.cast(pl.String)
    except pl.exceptions.PolarsError:  # at least one is none; polars knows no cast that leaves out only those
        return pl.Series(column.name, [_text(value) for value in column], dtype=pl.String)


def _text(value: bytes | None) -> str | None:
    try:
        return None if value is None else value.decode()
    except UnicodeDecodeError:
        return None
