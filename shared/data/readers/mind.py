"""MIND, the Microsoft News data set: `behaviors.tsv` and `news.tsv`, tab-separated, without header.

| file | fields |
|---|---|
| `behaviors.tsv` | impression, user, time ("11/11/2019 9:05:58 AM"), history ("N1 N2"), impressions ("N3-1 N4-0") |
| `news.tsv` | id, category, subcategory, title, abstract, url, entities of the title, of the abstract |

A click ("N3-1") is an interaction at the time of its impression. The clicks of a history have no time: they are placed one
second apart before their user's first impression, and counted. Impressions without labels, as in the test set, are counted
and left out. A text is the title and the beginning of the abstract; category and subcategory are categories.
Times are taken as UTC. There is no field for a value.

Source: Wu et al. 2020, "MIND: A Large-scale Dataset for News Recommendation"; msnews.github.io.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import polars as pl

from shared.data.catalog import CATEGORIES
from shared.data.interactions import BAD_IDS, BAD_TIMES
from shared.data.lines import Lines, place
from shared.data.readers import jsonlines
from shared.data.readers.dataset import Dataset
from shared.data.readers.markup import Texts, escaped
from shared.data.readers.reading import RawTables, added, read_delimited
from shared.data.readers.writing import Written, item_table, refuse_ids, refuse_texts, refuse_times, spells, write_rows
from shared.data.row_checks import BadRows, RowChecks
from shared.data.times import CLOCK, in_notations
from shared.data.typed_columns import as_ids
from shared.errors import DataError

BEHAVIORS: Final = ("impression", "user", "time", "history", "impressions")
NEWS: Final = ("item", "category", "subcategory", "title", "abstract", "url", "title_entities", "abstract_entities")
NAMES: Final = ("behaviors.tsv", "behaviors.tsv.gz")
HISTORY: Final = "clicks of histories, which have no time (placed a second apart before the first impression)"
UNLABELED: Final = "impressions without labels (left out)"
CLICKED: Final = "-1"
_ROWS: Final = 1 << 17


def find(path: Path) -> Path | None:
    """Gives `behaviors.tsv` at a path, or None where there is none."""
    if path.is_dir():
        path = next((path / name for name in NAMES if (path / name).is_file()), path)
    return path if path.name in NAMES else None


def read(path: Path, bad_rows: BadRows = "refuse") -> RawTables:
    """Reads behaviors, and the news beside them; `drop` leaves out lines without user or time.

    Raises:
        DataError: If a file cannot be read, a user or time is missing, or an impression is no id with a label.
    """
    records = read_delimited(path, separator="\t", names=BEHAVIORS, keep=BEHAVIORS[1:])
    table = records.frame
    checks = RowChecks(table.height, source=path.name, lines=records.lines, bad_rows=bad_rows)
    users, seconds = as_ids(table["user"]), in_notations(table["time"], (CLOCK,))
    expected = "times from 1970 on such as '11/11/2019 9:05:58 AM' in the third field"
    checks.require(seconds >= 0, expected, dropped=BAD_TIMES)
    checks.require(users.is_not_null(), "user ids that are not empty", dropped=BAD_IDS.format(name="user"))
    table = table.with_row_index("row").with_columns(users.alias("user"), seconds.alias("timestamp"))
    table, repairs = checks.keep(table), added(records.repairs, checks.repairs)
    clicked = _clicked(table, path.name, records.lines, repairs)
    before = _histories(table, repairs)
    news = next((file for name in ("news.tsv", "news.tsv.gz") if (file := path.with_name(name)).exists()), None)
    roles = {path.name: {"user": "field 2", "timestamp": "field 3", "item": "field 4, field 5"}}
    if news is not None:
        roles[news.name] = {"item": "field 1", "text": "field 4, field 5", "categories": "field 2, field 3"}
    return RawTables(
        interactions=pl.concat([before, clicked]),
        source=path.name,
        items=None if news is None else _news(news, repairs),
        items_source="" if news is None else news.name,
        lines=None,
        repairs=repairs,
        roles=roles,
    )


def _clicked(table: pl.DataFrame, source: str, lines: Lines | None, repairs: dict[str, int]) -> pl.DataFrame:
    """One row a click of an impression, in file order.

    Raises:
        DataError: If some impressions of a line have labels and others none.
    """
    clicks, unlabeled, mixed, first = [], 0, 0, -1
    # An impression lists about forty news; a slice at a time keeps only the clicked ones.
    for part in table.iter_slices(_ROWS):
        rows = part.select("row", "user", "timestamp", pl.col("impressions").str.split(" ").alias("item"))
        words = rows.explode("item").filter(pl.col("item").str.len_bytes() > 0)
        words = words.with_columns(pl.col("item").str.extract(r"-([01])$").alias("label"))
        bare = pl.col("label").is_null()
        some = words.group_by("row").agg(bare.sum().alias("bare"), pl.len().alias("all")).filter(pl.col("bare") > 0)
        faulty = some.filter(pl.col("bare") < pl.col("all"))["row"]
        first = int(faulty.min()) if len(faulty) and first < 0 else first  # type: ignore[arg-type]
        mixed, unlabeled = mixed + len(faulty), unlabeled + int(some["bare"].sum())
        clicked = words.filter(pl.col("label") == "1")
        clicks.append(clicked.select("user", pl.col("item").str.strip_suffix(CLICKED), "timestamp").rechunk())
    if mixed:
        raise DataError(
            f"Expected impressions such as 'N1-1 N2-0' in {source}, found {mixed} lines where some have a label 0 or 1 and "
            f"others none; first at {place(first, lines)}. Mend or leave out these lines."
        )
    if unlabeled:
        repairs[UNLABELED] = unlabeled
    return pl.concat(clicks)


def _histories(table: pl.DataFrame, repairs: dict[str, int]) -> pl.DataFrame:
    """One row a click of a history: the longest that a user has, before the first impression."""
    items = pl.col("history").str.split(" ").list.filter(pl.element() != "")
    rows = table.select("user", "timestamp", items.alias("item")).drop_nulls("item")
    rows = rows.join(table.group_by("user").agg(pl.col("timestamp").min().alias("first")), on="user", maintain_order="left")
    longest = rows.with_columns(pl.col("item").list.len().alias("size")).sort("size", descending=True, maintain_order=True)
    longest = longest.unique("user", keep="first", maintain_order=True).filter(pl.col("size") > 0)
    clicks = longest.with_columns(pl.int_ranges(pl.col("size").cast(pl.Int64), 0, -1).alias("back")).explode("item", "back")
    if clicks.height:
        repairs[HISTORY] = clicks.height
    # A history that is longer than the time since 1970 is nobody's; times must not be negative.
    time = (pl.col("first") - pl.col("back")).clip(lower_bound=0)
    return clicks.select("user", "item", time.alias("timestamp"))


def _news(path: Path, repairs: dict[str, int]) -> pl.DataFrame:
    """Reads the news; the last fields may be missing."""
    texts = Texts()
    table = read_delimited(path, separator="\t", names=NEWS, keep=NEWS[:5]).frame
    table = table.with_columns(texts.column(table[name]) for name in NEWS[1:5])
    texts.add_to(repairs)
    abstract = table["abstract"].map_elements(jsonlines.shortened, return_dtype=pl.String)
    text = pl.concat_str(pl.col("title"), abstract, separator=". ", ignore_nulls=True)
    return table.select("item", text.alias("text"), pl.concat_list("category", "subcategory").alias(CATEGORIES))


def write(dataset: Dataset, folder: Path, name: str) -> Written:
    """Writes an impression an interaction, with empty histories, and the news.

    Raises:
        DataError: If interactions have values, or an id, a text or a time cannot be spelled.
    """
    frame = dataset.interactions.frame
    refuse_ids(dataset, "mind", items=r"[\x00-\x1f\x7f ]", what="blanks and control characters")
    refuse_times(dataset, "mind")
    lines = frame.with_row_index("impression", offset=1).select(
        "impression",
        "user",
        pl.from_epoch("timestamp").dt.strftime(CLOCK),
        pl.lit("").alias("history"),
        pl.col("item") + CLICKED,
    )
    write_rows(folder / NAMES[0], lines, separator="\t", header=False)
    known = dataset.catalog.modalities
    held = CATEGORIES in known.columns and spells(known[CATEGORIES], r"[\x00-\x1f\x7f]")
    held = held and bool((known[CATEGORIES].list.len().fill_null(0) <= 2).all())
    items = item_table(dataset.catalog, bare=held)
    refuse_texts(items, "mind")
    named = [
        escaped(pl.col(CATEGORIES).list.get(at, null_on_oob=True)) if held else pl.lit(None, pl.String) for at in (0, 1)
    ]
    columns = [pl.col("item"), *named, escaped(pl.col("text")), *[pl.lit(None, pl.String)] * 4]
    news = items.select(column.alias(name) for name, column in zip(NEWS, columns, strict=True))
    write_rows(folder / "news.tsv", news, separator="\t", header=False)
    return Written(frozenset({CATEGORIES} if held else ()))
