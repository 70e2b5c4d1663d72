"""RecBole's atomic files: `.inter`, `.item`, `.user`, tab-separated, with typed headers (`user_id:token`).

Here lives reading that layout. A data set is one folder with one `.inter` file, and beside it the other
two under the same name. RecBole's `benchmark_filename` layout (several `.inter` files already split) is
refused, since Tacit makes its own splits.

An item's text is its title, its year in brackets, and all its other text fields in file order: "Toy Story
(1995). Animation Children's Comedy". Numbers (price, sales rank) are left out.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import polars as pl

from shared.datasets.reading import RawTables, read_delimited, require_columns
from shared.errors import DataError

TITLES: Final = ("title", "movie_title", "item_name", "name", "product_title", "tracks_name", "artist_name")
EXTRA_TOKENS: Final = ("brand", "author", "publisher", "category", "categories", "artist", "genre", "genres")


def find(path: Path) -> Path | None:
    """Gives the `.inter` file at a path, or None where there is none.

    Raises:
        DataError: If a folder holds several.
    """
    if path.suffix == ".inter":
        return path
    files = sorted(path.glob("*.inter")) if path.is_dir() else []
    if len(files) > 1:
        raise DataError(f"Expected one .inter file in {path}, found {len(files)}. Name the file itself.")
    return files[0] if files else None


def read(path: Path) -> RawTables:
    """Reads the data set around one `.inter` file.

    Raises:
        DataError: If a file cannot be read or lacks a column.
    """
    inter, _ = _read_atomic(path)
    advice = "RecBole's default names are expected; rename the others in the header."
    require_columns(path, inter.columns, ("user_id", "item_id", "timestamp"), advice)
    names = {"user_id": "user", "item_id": "item", "timestamp": "timestamp", "rating": "value"}
    item_path, user_path = path.with_suffix(".item"), path.with_suffix(".user")
    users = None
    if user_path.exists():
        table, _ = _read_atomic(user_path)
        require_columns(user_path, table.columns, ("user_id",), advice)
        users = table.rename({"user_id": "user"})
    return RawTables(
        interactions=inter.select(pl.col(old).alias(new) for old, new in names.items() if old in inter.columns),
        source=path.name,
        items=_read_items(item_path) if item_path.exists() else None,
        items_source=item_path.name,
        users=users,
    )


def _read_atomic(path: Path) -> tuple[pl.DataFrame, dict[str, str]]:
    """Reads an atomic file; gives the table without types in its header, and the types."""
    table = read_delimited(path, separator="\t")
    fields = {name: name.partition(":") for name in table.columns}
    renamed = {name: parts[0].strip() for name, parts in fields.items()}
    return table.rename(renamed), {renamed[name]: parts[2].strip() for name, parts in fields.items()}


def _read_items(path: Path) -> pl.DataFrame:
    """Reads `.item` and composes the texts."""
    table, types = _read_atomic(path)
    require_columns(path, table.columns, ("item_id",), "Name the item's column so.")
    others = [name for name in table.columns if name != "item_id"]
    title = next((name for name in TITLES if name in others), None)
    year = next((name for name in others if "year" in name.lower()), None)
    rest = [
        name for name in others if name not in (title, year) and (types[name] == "token_seq" or name.lower() in EXTRA_TOKENS)
    ]
    return table.select(pl.col("item_id").alias("item"), compose_text(title, year, rest).alias("text"))


def compose_text(title: str | None, year: str | None, rest: list[str]) -> pl.Expr:
    """Builds "Title (year). rest. rest", leaving out what is null; null where nothing is left."""
    if title is None:
        head = pl.lit(None, pl.String)
    elif year is None:
        head = pl.col(title)
    else:
        head = pl.col(title) + (pl.lit(" (") + pl.col(year) + ")").fill_null("")
    parts = [part.str.strip_chars().replace("", None) for part in (head, *map(pl.col, rest))]
    return pl.concat_str(parts, separator=". ", ignore_nulls=True).replace("", None)
