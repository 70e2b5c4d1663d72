"""Amazon reviews as UCSD's McAuley Lab publishes them, of 2014, 2018 and 2023: JSON lines with metadata.

| | reviews (`Beauty.json`, `reviews_Beauty_5.json`) | metadata (`meta_Beauty.json`) |
|---|---|---|
| 2014 | `reviewerID`, `asin`, `unixReviewTime`, `overall` | `asin`, `brand`, `categories`, lists in a list |
| 2018 | the same | `asin`, `brand`, `category`, `price` as "$9.99" |
| 2023 | `user_id`, `parent_asin`, `timestamp` (milliseconds), `rating` | `parent_asin`, `store`, `categories` |

All metadata have `title`, `description` and `price`; those of 2014 are in Python's notation.

The year is told by the fields. What a person wrote (`reviewText`, `summary`; `title` and `text` of 2023's reviews) and
votes are never loaded. An item's text is its title, brand or store, and the beginning of its description. These fields and
the categories are HTML (`markup.py`).

Source: jmcauley.ucsd.edu/data/amazon, nijianmo.github.io/amazon, amazon-reviews-2023.github.io.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Final

import polars as pl

from shared.data.catalog import CATEGORIES, PRICE
from shared.data.readers import jsonlines
from shared.data.readers.dataset import Dataset
from shared.data.readers.finding import several
from shared.data.readers.markup import Texts, escaped, escaped_list
from shared.data.readers.reading import ITEM_SCHEMA, RawTables
from shared.data.readers.writing import Written, item_table, refuse_times, write_json_lines
from shared.errors import DataError

YEARS: Final = (2014, 2018, 2023)
OLD: Final = {"user": "reviewerID", "item": "asin", "timestamp": "unixReviewTime", "value": "overall"}
NEW: Final = {"user": "user_id", "item": "parent_asin", "timestamp": "timestamp", "value": "rating"}
META: Final = "meta"


def fits(fields: Collection[str]) -> bool:
    """Whether a line with these fields is a review."""
    return any({form["user"], form["item"], form["timestamp"]} <= set(fields) for form in (OLD, NEW))


def find(path: Path, *, named: bool = False) -> Path | None:
    """Gives the file of reviews at a path, or None where there is none.

    Args:
        path: A file or a folder. (public)
        named: Whether the format was named, so that the files are taken by name whatever they hold.

    Raises:
        DataError: If a folder holds several.
    """
    found = [file for file in jsonlines.files(path) if file == path or not file.name.lower().startswith(META)]
    found = found if named else [file for file in found if fits(jsonlines.first_fields(file))]
    if len(found) > 1:
        raise several(path, found, f"file of reviews beside {META}_*.json")
    return found[0] if found else None


def read(path: Path) -> RawTables:
    """Reads reviews and the metadata beside them.

    Raises:
        DataError: If a file cannot be read, or lines are no objects.
    """
    fields = jsonlines.first_fields(path)
    form = NEW if NEW["user"] in fields and OLD["user"] not in fields else OLD
    records = jsonlines.read_fields(path, tuple(form.values()), numbers=(form["timestamp"], form["value"]))
    frame = records.frame.select(pl.col(name).alias(role) for role, name in form.items())
    if form is NEW:
        frame = frame.with_columns(_seconds(frame["timestamp"]))
    repairs = dict(records.repairs)
    meta = _metadata(path)
    roles = {path.name: dict(form)}
    if meta is not None:
        roles[meta.name] = {
            "item": form["item"],
            "text": f"title, {'store' if form is NEW else 'brand'}, description",
            "categories": "categories" if form is NEW else "category or categories",
            "price": "price",
        }
    return RawTables(
        interactions=frame,
        source=path.name,
        items=None if meta is None else _items(meta, repairs),
        items_source="" if meta is None else meta.name,
        lines=records.lines,
        repairs=repairs,
        roles=roles,
    )


def _seconds(times: pl.Series) -> pl.Series:
    """Milliseconds as whole seconds; what is no number stays for the validation to find."""
    return times // 1000 if times.dtype.is_integer() else times.cast(pl.Float64, strict=False) / 1000


def _metadata(path: Path) -> Path | None:
    """The metadata of a file of reviews: of the same name, or the only one beside it.

    Raises:
        DataError: If there are several and none is of the same name.
    """
    found = [file for file in jsonlines.files(path.parent) if file.name.lower().startswith(META) and file != path]
    if len(found) <= 1:
        return found[0] if found else None
    name = path.name.partition(".")[0].removeprefix("reviews_").removesuffix("_5")
    same = [file for file in found if file.name.partition(".")[0] == f"{META}_{name}"]
    if len(same) != 1:
        raise DataError(
            f"Expected one file {META}_{name}.json beside {path.name}, found {len(found)} others. Rename the right one."
        )
    return same[0]


def _items(path: Path, repairs: dict[str, int]) -> pl.DataFrame:
    """Reads metadata of any year.

    Raises:
        DataError: If a line is no object, or no line has an item's id.
    """
    texts = Texts()
    rows = [_item(fields, texts) for fields in jsonlines.read_objects(path, repairs)]
    texts.add_to(repairs)
    if rows and all(row[0] is None for row in rows):
        raise DataError(f"Expected parent_asin or asin in the lines of {path.name}, found none. Is it metadata?")
    return pl.DataFrame(rows, schema=ITEM_SCHEMA, orient="row")


def _item(fields: Mapping[str, Any], texts: Texts) -> tuple[str | None, str, list[str], str | None]:
    """Id, text, categories and price of one line."""
    parts = [texts.scalar(fields.get(name)) for name in ("title", "brand", "store")]
    parts.append(jsonlines.shortened(" ".join(texts.words(fields.get("description")))))
    item = jsonlines.scalar(fields.get("parent_asin")) or jsonlines.scalar(fields.get("asin"))
    categories = texts.words(fields.get("categories")) or texts.words(fields.get("category"))
    return item, ". ".join(filter(None, parts)), categories, _price(fields.get("price"))


def _price(value: object) -> str | None:
    """A price as written, but for the words that stand for none."""
    price = jsonlines.scalar(value)
    return None if price is None or price.strip().lower() in ("", "none", "—", "null") else price


def write(dataset: Dataset, folder: Path, name: str, year: int) -> Written:
    """Writes reviews and metadata as of one year.

    Raises:
        DataError: If times cannot be spelled as milliseconds.
    """
    form, suffix = (NEW, ".jsonl") if year == 2023 else (OLD, ".json")
    if year == 2023:
        refuse_times(dataset, "amazon-2023")
    frame = dataset.interactions.frame
    fields = {form["user"]: pl.col("user"), form["item"]: pl.col("item")}
    fields[form["timestamp"]] = pl.col("timestamp") * (1000 if year == 2023 else 1)
    if "value" in frame.columns:
        fields[form["value"]] = pl.col("value")
    write_json_lines(folder / f"reviews_{name}{suffix}", frame, fields)
    items = item_table(dataset.catalog, bare=True)
    about = {form["item"]: pl.col("item"), "title": escaped(pl.col("text"))}
    if CATEGORIES in items.columns:
        key = "category" if year == 2018 else "categories"
        labels = escaped_list(pl.col(CATEGORIES))
        about[key] = _in_a_list(labels) if year == 2014 else labels
    if PRICE in items.columns:
        about["price"] = "$" + pl.col(PRICE).cast(pl.String) if year == 2018 else pl.col(PRICE)
    write_json_lines(folder / f"meta_{name}{suffix}", items, about)
    return Written(frozenset({CATEGORIES, PRICE} & set(items.columns)))


def _in_a_list(labels: pl.Expr) -> pl.Expr:
    """2014 lists several paths of categories; all that are known make one."""
    return labels.list.eval(pl.element().implode())
