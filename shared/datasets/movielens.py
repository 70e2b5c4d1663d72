"""MovieLens as GroupLens publishes it: the 100K, 1M and latest layouts.

| layout | interactions | items | users | encoding |
|---|---|---|---|---|
| 100K | `u.data`, tabs, no header | `u.item`, `|`, genre flags | `u.user` | latin-1 |
| 1M (and 10M) | `ratings.dat`, `::` | `movies.dat` | `users.dat` | latin-1 |
| latest (and 20M, 25M, 32M) | `ratings.csv` | `movies.csv` | none | UTF-8 |

A movie's text is its title with the year, and its genres. `tags.csv` is never read: a tag is what some
user wrote, often after watching, so it is neither public nor from the past.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

import polars as pl

from shared.datasets.reading import RawTables, read_delimited, read_double_colon, require_columns

RATINGS: Final = ("u.data", "ratings.dat", "ratings.csv")
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


def find(path: Path) -> Path | None:
    """Gives the file of ratings at a path, or None where it is not MovieLens."""
    if path.is_dir():
        path = next((path / name for name in RATINGS if (path / name).is_file()), path)
    if path.name not in RATINGS:
        return None
    return path if path.name != "ratings.csv" or path.with_name("movies.csv").exists() else None


def read(path: Path) -> RawTables:
    """Reads the data set around one file of ratings.

    Raises:
        DataError: If a file cannot be read or has other columns.
    """
    if path.name == "u.data":
        ratings = read_delimited(path, separator="\t", names=RAW)
        return _assemble(path, ratings, 1, "u.item", _items_100k, "u.user", _users_100k)
    if path.name == "ratings.dat":
        ratings = read_double_colon(path, names=RAW)
        return _assemble(path, ratings, 1, "movies.dat", _items_1m, "users.dat", _users_1m)
    table = read_delimited(path, separator=",", quote='"')
    expected = ("userId", "movieId", "rating", "timestamp")
    require_columns(path, table.columns, expected, "Use format='tabular' with a column map for other names.")
    ratings = table.select(pl.col(old).alias(new) for old, new in zip(expected, RAW, strict=True))
    return _assemble(path, ratings, 2, "movies.csv", _items_latest)


def _assemble(
    path: Path,
    ratings: pl.DataFrame,
    first_line: int,
    items_name: str,
    read_items: Callable[[Path], pl.DataFrame],
    users_name: str = "",
    read_users: Callable[[Path], pl.DataFrame] | None = None,
) -> RawTables:
    """Reads the files beside the ratings, where they are there."""
    items_path, users_path = path.with_name(items_name), path.with_name(users_name or "users")
    return RawTables(
        interactions=ratings,
        source=path.name,
        items=read_items(items_path) if items_path.exists() else None,
        items_source=items_name,
        users=read_users(users_path) if read_users is not None and users_path.exists() else None,
        first_line=first_line,
        positional=False,
    )


def _items_100k(path: Path) -> pl.DataFrame:
    """Titles and genre flags."""
    names = ("item", "title", "released", "video_released", "url", *GENRES_100K)
    table = read_delimited(path, separator="|", names=names, encoding="latin-1")
    genres = pl.concat_str(
        [pl.when(pl.col(name) == "1").then(pl.lit(name)) for name in GENRES_100K[1:]],
        separator=" ",
        ignore_nulls=True,
    )
    return table.select("item", _text(genres))


def _items_1m(path: Path) -> pl.DataFrame:
    """Titles and genres separated by bars."""
    table = read_double_colon(path, names=("item", "title", "genres"))
    return table.select("item", _text(_spaced(pl.col("genres"))))


def _items_latest(path: Path) -> pl.DataFrame:
    """Titles and genres separated by bars, or "(no genres listed)"."""
    table = read_delimited(path, separator=",", quote='"')
    require_columns(path, table.columns, ("movieId", "title", "genres"), "Is it MovieLens' own file?")
    return table.select(pl.col("movieId").alias("item"), _text(_spaced(pl.col("genres"))))


def _spaced(genres: pl.Expr) -> pl.Expr:
    """Genres as words; none where the file says that none is listed."""
    return genres.replace("(no genres listed)", None).str.replace_all("|", " ", literal=True)


def _text(genres: pl.Expr) -> pl.Expr:
    """Title and genres as one text."""
    parts = [pl.col("title").str.strip_chars(), genres.replace("", None)]
    return pl.concat_str(parts, separator=". ", ignore_nulls=True).alias("text")


def _users_100k(path: Path) -> pl.DataFrame:
    """Demographic attributes."""
    return read_delimited(path, separator="|", names=("user", "age", "gender", "occupation", "zip_code"))


def _users_1m(path: Path) -> pl.DataFrame:
    """Demographic attributes, age and occupation as codes."""
    return read_double_colon(path, names=("user", "gender", "age", "occupation", "zip_code"))
