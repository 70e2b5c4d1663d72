"""MovieLens as GroupLens publishes it: the 100K, 1M and latest layouts.

| layout | interactions | items | users | encoding |
|---|---|---|---|---|
| 100K | `u.data`, tabs, no header | `u.item`, `|`, genre flags | `u.user` | latin-1 |
| 1M | `ratings.dat`, `::` | `movies.dat` | `users.dat` | latin-1 |
| 10M | the same | the same | none | UTF-8 |
| latest (and 20M, 25M, 32M) | `ratings.csv` | `movies.csv` | none | UTF-8 |

The encoding is told line by line: what is UTF-8 is read as such, in every layout. Every one of the files may be packed
(`.gz`). The latest layout is also written.

A movie's text is its title with the year, and its genres, which are its categories. `tags.csv` is never read: a tag is
what some user wrote, often after watching, so it is neither public nor from the past. `links.csv` holds ids of other sites.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

import polars as pl

from shared.data.catalog import CATEGORIES
from shared.data.interactions import BY_FILE, Order
from shared.data.readers.dataset import Dataset
from shared.data.readers.reading import (
    RawTables,
    Records,
    added,
    read_delimited,
    read_double_colon,
    read_header,
    require_columns,
)
from shared.data.readers.writing import Written, item_table, refuse_ids, refuse_texts, spells, write_rows

RATINGS: Final = tuple(name + packed for packed in ("", ".gz") for name in ("u.data", "ratings.dat", "ratings.csv"))
LATEST: Final = ("userId", "movieId", "rating", "timestamp")
NO_GENRES: Final = "(no genres listed)"
# The columns of genre flags of u.item, in the order that GroupLens' own README gives.
GENRES_100K: Final = (
    "unknown",
    "Action",
    "Adventure",
    "Animation",
    "Children's",
    "Comedy",
    "Crime",
    "Documentary",
    "Drama",
    "Fantasy",
    "Film-Noir",
    "Horror",
    "Musical",
    "Mystery",
    "Romance",
    "Sci-Fi",
    "Thriller",
    "War",
    "Western",
)
RAW: Final = ("user", "item", "value", "timestamp")
NUMBERS: Final = ("value", "timestamp")


def find(path: Path) -> Path | None:
    """Gives the file of ratings at a path, or None where it is not MovieLens."""
    if path.is_dir():
        path = next((path / name for name in RATINGS if (path / name).is_file()), path)
    if path.name not in RATINGS:
        return None
    return path if path.name.removesuffix(".gz") != "ratings.csv" or _beside(path, "movies.csv") else None


def _beside(path: Path, name: str) -> Path | None:
    """A file of that name in the same folder, packed or not."""
    return next((file for file in (path.with_name(name), path.with_name(name + ".gz")) if file.exists()), None)


def read(path: Path, order: Order = "time") -> RawTables:
    """Reads the data set around one file of ratings; without times where the order of its rows stands for them.

    Raises:
        DataError: If a file cannot be read or has other columns.
    """
    name = path.name.removesuffix(".gz")
    if name == "u.data":
        ratings = read_delimited(path, separator="\t", names=RAW, numbers=NUMBERS)
        return _assemble(path, ratings, "u.item", _items_100k, "u.user", _users_100k)
    if name == "ratings.dat":
        ratings = read_double_colon(path, names=RAW, numbers=NUMBERS)
        return _assemble(path, ratings, "movies.dat", _items_1m, "users.dat", _users_1m)
    advice = "Use format='tabular' with a column map for other names."
    needed = LATEST if order == "time" else LATEST[:3]
    header = read_header(path, separator=",", quote='"')
    if order == "time" and "timestamp" not in header:
        advice = f"{advice} {BY_FILE}"
    require_columns(path, header, needed, advice)
    ratings = read_delimited(path, separator=",", quote='"', keep=needed, numbers=("rating", "timestamp"))
    return _assemble(path, ratings, "movies.csv", _items_latest)


def _assemble(
    path: Path,
    ratings: Records,
    items_name: str,
    read_items: Callable[[Path], Records],
    users_name: str = "",
    read_users: Callable[[Path], Records] | None = None,
) -> RawTables:
    """Reads the files beside the ratings, where they are there."""
    items, users = _beside(path, items_name), _beside(path, users_name) if users_name else None
    frame = ratings.frame
    named = LATEST if "userId" in frame.columns else tuple(f"field {number}" for number in range(1, 5))
    if named == LATEST:
        frame = frame.rename(dict(zip(LATEST, RAW, strict=True)), strict=False)
    roles = {path.name: {role: name for role, name in zip(RAW, named, strict=True) if role in frame.columns}}
    if items is not None:
        roles[items.name] = {"item": "movieId", "text": "title", "categories": "genres"}
    if users is not None:
        roles[users.name] = {"user": "field 1"}
    listed = None if items is None else read_items(items)
    known = None if read_users is None or users is None else read_users(users)
    found = [records for records in (ratings, listed, known) if records is not None]
    return RawTables(
        interactions=frame,
        source=path.name,
        items=None if listed is None else listed.frame,
        items_source=items_name,
        users=None if known is None else known.frame,
        users_source=users_name,
        lines=ratings.lines,
        repairs=added(*(records.repairs for records in found)),
        roles=roles,
    )


def _items_100k(path: Path) -> Records:
    """Titles and genre flags."""
    names = ("item", "title", "released", "video_released", "url", *GENRES_100K)
    records = read_delimited(path, separator="|", names=names, encoding="latin-1")
    genres = pl.concat_list(pl.when(pl.col(name) == "1").then(pl.lit(name)) for name in GENRES_100K[1:])
    table = records.frame.select("item", pl.col("title").alias("text"), genres.list.drop_nulls().alias(CATEGORIES))
    return replace(records, frame=table)


def _items_1m(path: Path) -> Records:
    """Titles and genres separated by bars."""
    return _with_genres(read_double_colon(path, names=("item", "text", "genres")))


def _items_latest(path: Path) -> Records:
    """Titles and genres separated by bars, or "(no genres listed)"."""
    records = read_delimited(path, separator=",", quote='"')
    require_columns(path, records.frame.columns, ("movieId", "title", "genres"), "Is it MovieLens' own file?")
    return _with_genres(replace(records, frame=records.frame.rename({"movieId": "item", "title": "text"})))


def _with_genres(records: Records) -> Records:
    """Genres as lists; none where the file says that none is listed."""
    genres = pl.col("genres").replace(NO_GENRES, None).str.split("|").alias(CATEGORIES)
    return replace(records, frame=records.frame.select("item", "text", genres))


def _users_100k(path: Path) -> Records:
    """Demographic attributes."""
    names = ("user", "age", "gender", "occupation", "zip_code")
    return read_delimited(path, separator="|", names=names, encoding="latin-1")


def _users_1m(path: Path) -> Records:
    """Demographic attributes, age and occupation as codes."""
    return read_double_colon(path, names=("user", "gender", "age", "occupation", "zip_code"))


def write(dataset: Dataset, folder: Path, name: str) -> Written:
    """Writes the latest layout, `ratings.csv` and `movies.csv`.

    Raises:
        DataError: If an id or a text cannot be spelled.
    """
    refuse_ids(dataset, "movielens", what="control characters")
    frame = dataset.interactions.frame
    value = pl.col("value") if "value" in frame.columns else pl.lit(None, pl.Float64)
    columns = dict(zip(LATEST, (pl.col("user"), pl.col("item"), value, pl.col("timestamp")), strict=True))
    write_rows(folder / "ratings.csv", frame.select(column.alias(new) for new, column in columns.items()))
    known = dataset.catalog.modalities
    held = CATEGORIES in known.columns and spells(known[CATEGORIES], r"[|\x00-\x1f\x7f]|^\(no genres listed\)$")
    items = item_table(dataset.catalog, bare=held)
    refuse_texts(items, "movielens")
    genres = pl.col(CATEGORIES).list.join("|").fill_null(NO_GENRES) if held else pl.lit(NO_GENRES)
    listed = items.select(pl.col("item").alias("movieId"), pl.col("text").alias("title"), genres.alias("genres"))
    write_rows(folder / "movies.csv", listed)
    return Written(frozenset({CATEGORIES} if held else ()))
