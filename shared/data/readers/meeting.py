"""Whether two files of a data set speak of the same items or users.

Here lives the comparison of ids. Here never lives reading. Files whose ids never meet would be joined to nothing without a
word: ids of another data set, `asin` in one and `parent_asin` in the other, leading zeros that a spreadsheet took away.
"""

from __future__ import annotations

from typing import Final, Literal

import polars as pl

from shared.errors import DataError

_FEW: Final = 0.1
# What makes ids of two files differ that mean the same, and how to undo it.
_VARIANTS: Final = {
    "in lower case": pl.col("id").str.to_lowercase(),
    "without leading zeros": pl.col("id").str.strip_chars_start("0"),
    "without blanks": pl.col("id").str.replace_all(r"\s", ""),
    "without other signs than letters and digits": pl.col("id").str.replace_all(r"[^\p{L}\p{N}]", ""),
}


def require_meeting(
    listed: pl.Series, met: pl.Series, *, name: str, source: str, what: Literal["item", "user"], whole: bool = True
) -> str:
    """Refuses a file about items or users that knows none of those of the interactions.

    Args:
        listed: Ids of the file, as `as_ids` spells them. (private where users)
        met: Distinct ids of the interactions. (private)
        name: Name of the file. (public)
        source: Name of the interactions' file. (public)
        what: What the ids are of.
        whole: Whether both files were read whole; if not, their heads need not meet.

    Returns:
        A warning where less than a tenth of the interactions' ids are met; empty otherwise.

    Raises:
        DataError: If none is met.
    """
    known = listed.drop_nulls().unique()
    count = int(met.is_in(known.implode()).sum())
    if not count and whole and len(known):
        raise DataError(
            f"Expected {what} ids in {name} that occur in {source}, found none among {len(known)}. "
            f"Are they another's?{spelling_advice(known, met)}"
        )
    return few_met(count, len(met), name=name, of=f"{what}s of {source}{'' if whole else ' of what was looked at'}")


def few_met(count: int, number: int, *, name: str, of: str) -> str:
    """A warning where a file knows less than a tenth of the ids that it could know; empty otherwise.

    Args:
        count: How many it knows.
        number: How many there are.
        name: Name of the file. (public)
        of: What they are. (public)
    """
    if count >= _FEW * number:
        return ""
    return f"{name} knows only {count} of the {number} {of}: are its ids another's, or spelled differently?"


def spelling_advice(known: pl.Series, met: pl.Series) -> str:
    """Says under which other spelling the ids would meet."""
    for how, spelled in _VARIANTS.items():
        ours, theirs = (ids.alias("id").to_frame().select(spelled.replace("", None)).to_series() for ids in (known, met))
        if theirs.is_in(ours.drop_nulls().unique().implode()).any():
            return f" {how.capitalize()} they would meet: spell them alike in both files."
    return ""
