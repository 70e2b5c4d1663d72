"""Tables with a row a user, or a row a session, whose columns are lists: one row an interaction.

Here lives taking lists apart. Here never lives what a column means.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import polars as pl

from shared.data.lines import Lines, Rows, place
from shared.data.typed_columns import is_list, type_name
from shared.errors import DataError

EMPTY_LISTS: Final = "rows with empty lists (no interaction)"


@dataclass(frozen=True)
class Unrolled:
    """A table without lists.

    Attributes:
        frame: Single values. (private)
        lines: Where its rows stand in the file.
        repairs: How many rows of the file held no interaction.
    """

    frame: pl.DataFrame
    lines: Lines | Rows | None
    repairs: dict[str, int] = field(default_factory=dict)


def unrolled(frame: pl.DataFrame, item: str, lists: Sequence[str], *, source: str, lines: Lines | None) -> Unrolled:
    """Takes lists apart, pairwise; a single value of a row goes with each of them.

    Args:
        frame: The rows of a file. (private)
        item: Column of the items. (public)
        lists: Columns that may hold lists. (public)
        source: Name of the file, for messages. (public)
        lines: Lines of the rows, for messages.

    Raises:
        DataError: If items are single values where others are lists, or lists of one row differ in length.
    """
    listed = [name for name in lists if is_list(frame.schema[name])]
    if not listed:
        return Unrolled(frame, lines)
    if item not in listed:
        raise DataError(
            f"Expected single values in column {listed[0]} of {source}, as column {item} has, found "
            f"{type_name(frame.schema[listed[0]])}. Give the items as a list of the same length, or one row an interaction."
        )
    # Arrays are lists of one length, which only lists are measured as.
    inner = {name: frame.schema[name].inner for name in listed}  # type: ignore[attr-defined]
    frame = frame.with_columns(pl.col(name).cast(pl.List(inner[name])) for name in listed)
    sizes = frame.select(pl.col(name).list.len().fill_null(0).cast(pl.Int64) for name in listed)
    unequal = sizes.select(pl.any_horizontal(pl.col(name) != pl.col(item) for name in listed)).to_series()
    if count := int(unequal.sum()):
        raise DataError(
            f"Expected lists of the same length in columns {', '.join(listed)} of each row of {source}, found {count} "
            f"row{'s' * (count > 1)} with others; first at {place(int(unequal.arg_max() or 0), lines)}. Mend or leave out "
            "these rows."
        )
    kept = sizes[item] > 0
    starts = sizes[item].cum_sum() - sizes[item]
    empty = len(kept) - int(kept.sum())
    return Unrolled(frame.filter(kept).explode(listed), Rows(starts.to_list()), {EMPTY_LISTS: empty} if empty else {})
