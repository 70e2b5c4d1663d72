"""CSV, TSV and Parquet with a column map: other people's tables, and the project's own layout.

Here live finding the files, reading them by roles, and writing them. Beside the interactions an items file
(`items.tsv`, `items.csv`, `items.parquet`) gives texts, categories, prices and vectors, and a users file
(`users.*`) attributes; a column of item texts among the interactions does as well.

A column called `t` or `position` holds positions, not times. TSV fields are taken as they are; CSV
fields may be quoted. Categories in one field are separated by bars.

The project's layout is `interactions.parquet`, `items.parquet`, `users.parquet`, which holds all that a data set has.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Final

import polars as pl

from shared.data import parquet
from shared.data.catalog import CATEGORIES, KNOWLEDGE, PRICE, ItemCatalog, build_catalog
from shared.data.column_names import RECOGNIZED, recognize
from shared.data.interactions import Order
from shared.data.readers import columns as roles
from shared.data.readers.dataset import Dataset
from shared.data.readers.finding import several
from shared.data.readers.modalities import BESIDE, RESERVED, is_vector
from shared.data.readers.opening import stem_of, suffix_of
from shared.data.readers.reading import RawTables, added
from shared.data.readers.tables import SUFFIXES, Table, open_table
from shared.data.readers.unrolling import unrolled
from shared.data.readers.writing import CONTROL, Written, item_table, refuse_ids, refuse_texts, spells, write_rows
from shared.data.typed_columns import as_ids, as_texts, is_list, require_type
from shared.errors import DataError

INTERACTION_STEMS: Final = ("interactions", "ratings", "reviews", "events", "train")
TEXTS_OF_ROWS: Final = "item texts taken from the interactions (is what users wrote public?)"
NOT_INTERACTIONS: Final = ("items", "users", Path(BESIDE).stem)
PLAIN_NAME: Final = r"^[A-Za-z0-9][A-Za-z0-9_. -]*$"


def find(path: Path, others: Collection[str] = ()) -> Path | None:
    """Gives the file of interactions at a path, or None where there is none; `others` are names of files that are not.

    Raises:
        DataError: If a folder holds several candidates.
    """
    if not path.is_dir():
        return path if suffix_of(path) in SUFFIXES else None
    files = sorted(file for file in path.iterdir() if suffix_of(file) in SUFFIXES and file.name not in others)
    for stem in INTERACTION_STEMS:
        named = [file for file in files if stem_of(file) == stem]
        if named:
            return named[0]
    rest = [file for file in files if stem_of(file) not in NOT_INTERACTIONS]
    if len(rest) > 1:
        raise several(path, rest, "file of interactions")
    return rest[0] if rest else None


def beside(path: Path, stem: str) -> Path | None:
    """The table of that stem in the same folder."""
    names = (stem + suffix + packed for suffix in SUFFIXES for packed in ("", ".gz"))
    return next((file for name in names if (file := path.with_name(name)) != path and file.exists()), None)


def read(path: Path, mapping: Mapping[str, str], order: Order = "time") -> RawTables:
    """Reads the data set around one file of interactions; users are left to `read_users`.

    Args:
        path: The file of interactions.
        mapping: What `parse_columns` gave. (public)
        order: As of `Interactions.validated`.

    Raises:
        DataError: If a file cannot be read or lacks a column.
    """
    items = beside(path, "items")
    return read_tables(open_table(path), None if items is None else open_table(items), mapping, order)


def read_tables(table: Table, items: Table | None, mapping: Mapping[str, str], order: Order = "time") -> RawTables:
    """Reads interactions and items by their roles.

    Args:
        table: The interactions. (private)
        items: The items, or None. (public)
        mapping: What `parse_columns` gave. (public)
        order: As of `Interactions.validated`.

    Raises:
        DataError: If a column is absent or cannot be read as what it is taken for, or a file damaged.
    """
    columns = roles.of_interactions(table, mapping, order=order, items=items)
    positional = "position" in columns
    text = _text_of_rows(table, mapping) if items is None else None
    wanted = {*columns.values(), *([text] if text else [])}
    numbers = [columns[role] for role in ("timestamp", "position", "value") if role in columns]
    records = table.read(wanted, numbers=numbers)
    lists = [name for role, name in columns.items() if role != "user"]
    if text is not None and is_list(table.schema[columns["item"]]):
        lists.append(text)
    rows = unrolled(records.frame, columns["item"], lists, source=table.name, lines=records.lines)
    found = rows.frame
    renamed = {"timestamp" if role == "position" else role: name for role, name in columns.items()}
    used = {table.name: {**columns, **({"text": text} if text else {})}}
    listed, repairs = None, added(records.repairs, rows.repairs)
    if items is not None:
        used[items.name] = roles.of_items(items, mapping)
        listed = _items(items, used[items.name], repairs)
    elif text is not None:
        listed = _texts_of_rows(as_ids(found[columns["item"]]), as_texts(found[text]))
    return RawTables(
        interactions=found.select(pl.col(old).alias(new) for new, old in renamed.items()),
        source=table.name,
        items=listed,
        items_source=table.name if items is None else items.name,
        lines=rows.lines,
        positional=True if positional else None,
        roles=used,
        repairs={**repairs, TEXTS_OF_ROWS: listed.height} if items is None and listed is not None else repairs,
    )


def _text_of_rows(table: Table, mapping: Mapping[str, str]) -> str | None:
    """The column of item texts among the interactions.

    Raises:
        DataError: If the map names what only an items file can hold, or a column that is absent.
    """
    for role in ("text", "categories", "price"):
        if role in mapping and (role != "text" or mapping[role] not in table.schema):
            raise roles.absent(table, mapping[role])
    name = mapping.get("text") or recognize(list(table.schema), roles.TEXT_OF_ROWS)
    if name is not None:
        require_type(table.schema[name], "text", column=name, source=table.name)
    return name


def _texts_of_rows(items: pl.Series, texts: pl.Series) -> pl.DataFrame:
    """One text an item from a column of the interactions: the smallest, whatever the order of rows."""
    number = pl.col("item").cast(pl.Int64, strict=False)
    table = pl.DataFrame({"item": items, "text": texts}).drop_nulls("item")
    return table.group_by("item").agg(pl.col("text").min()).sort(number, "item", nulls_last=True)


def read_items(path: Path) -> ItemCatalog:
    """Reads an items file by itself, as new items come.

    Raises:
        DataError: If it cannot be read, has no column for the item, or its vectors are faulty.
    """
    table = open_table(path)
    items = _items(table, roles.of_items(table, {}), {})
    return build_catalog(items, pl.Series(dtype=pl.String), source=table.name)[0]


def read_public_items(path: Path) -> ItemCatalog:
    """Reads an items file that is published: a text for each item, and nothing of a user.

    Raises:
        DataError: As `read_items`; if it has no column for the text, or has one for users.
    """
    table = open_table(path)
    user = recognize(list(table.schema), RECOGNIZED["user"])
    if user is not None:
        raise DataError(
            f"Expected a table of items in {table.name}, found column {user}, which interactions have. Nothing was "
            "published. Name the table of items."
        )
    if "text" not in roles.of_items(table, {}):
        raise DataError(
            f"Expected columns item and text in {table.name}, found none for the text. Nothing was published. Add the text."
        )
    return read_items(path)


def _items(table: Table, columns: Mapping[str, str], repairs: dict[str, int]) -> pl.DataFrame:
    """Reads the items file and adds what was repaired; the text is null where it has no column for it."""
    vectors = [name for name, dtype in table.schema.items() if is_vector(dtype) and name not in RESERVED]
    labels = [KNOWLEDGE] if table.schema.get(KNOWLEDGE) == pl.List(pl.String) else []
    vectors = [name for name in vectors if name not in columns.values()]
    records = table.read({*columns.values(), *vectors, *labels})
    repairs.update(added(repairs, records.repairs))
    found = records.frame
    nothing = pl.Series([None], dtype=pl.String).new_from_index(0, found.height)
    made = [found[columns["item"]].alias("item")]
    made.append((as_texts(found[columns["text"]]) if "text" in columns else nothing).alias("text"))
    if "categories" in columns:
        labeled = found[columns["categories"]]
        made.append((labeled if is_list(labeled.dtype) else as_texts(labeled).str.split("|")).alias(CATEGORIES))
    if "price" in columns:
        made.append(found[columns["price"]].alias(PRICE))
    return pl.DataFrame([*made, *(found[name] for name in (*labels, *vectors))])


def read_users(table: Table, mapping: Mapping[str, str], repairs: dict[str, int]) -> pl.DataFrame:
    """Reads a users file whole, column `user` and attributes, and adds what was repaired.

    Raises:
        DataError: If it has no column for the user, or an attribute is no single value.
    """
    user = roles.owner(table, "user", mapping)
    for name, dtype in table.schema.items():
        if name != user:
            require_type(dtype, "attribute", column=name, source=table.name)
    records = table.read(list(table.schema))
    repairs.update(added(repairs, records.repairs))
    found = records.frame
    if user != "user" and "user" in found.columns:
        found = found.drop("user")
    return found.rename({user: "user"}).select("user", pl.exclude("user"))


def rows_to_write(dataset: Dataset) -> pl.DataFrame:
    """The interactions with `position` in place of `timestamp` where that is what it holds."""
    frame = dataset.interactions.frame
    return frame.rename({"timestamp": "position"}) if dataset.interactions.positional else frame


def write_parquet(dataset: Dataset, folder: Path, name: str) -> Written:
    """Writes the project's layout, which holds everything."""
    parquet.write_parquet(rows_to_write(dataset), folder / "interactions.parquet")
    parquet.write_parquet(item_table(dataset.catalog, bare=False), folder / "items.parquet")
    if dataset.user_attributes is not None:
        parquet.write_parquet(dataset.user_attributes, folder / "users.parquet")
    return Written(frozenset(dataset.catalog.modalities.columns), users=True)


def write_csv(dataset: Dataset, folder: Path, name: str) -> Written:
    """Writes CSV files; vectors, facts and what would need line breaks in a field are left to others.

    Raises:
        DataError: If an id or a text cannot be spelled.
    """
    refuse_ids(dataset, "csv", what="control characters")
    known = dataset.catalog.modalities
    held = {PRICE} & set(known.columns)
    if CATEGORIES in known.columns and spells(known[CATEGORIES], r"[|\x00-\x1f\x7f]"):
        held.add(CATEGORIES)
    items = item_table(dataset.catalog, bare=False).select("item", "text", *sorted(held))
    refuse_texts(items, "csv")
    if CATEGORIES in held:
        items = items.with_columns(pl.col(CATEGORIES).list.join("|"))
    write_rows(folder / "interactions.csv", rows_to_write(dataset))
    write_rows(folder / "items.csv", items)
    users = dataset.user_attributes
    spelled = users is not None and plain(users)
    if spelled and users is not None:
        write_rows(folder / "users.csv", users)
    return Written(frozenset(held), users=spelled)


def plain(users: pl.DataFrame) -> bool:
    """Whether user attributes can be spelled in a text file: plain names, and values without control characters."""
    values = users.select(pl.any_horizontal(pl.all().str.contains(CONTROL).fill_null(False)).any()).item()
    return not values and bool(pl.Series(users.columns).str.contains(PLAIN_NAME).all()) and users.width > 1
