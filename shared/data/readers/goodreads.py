"""Goodreads as UCSD's Book Graph publishes it: `goodreads_interactions*.json` or `goodreads_reviews*.json`, and books.

An interaction has `user_id`, `book_id`, `date_added` ("Thu Nov 29 12:34:56 -0800 2012", whose offset counts) and `rating`,
where 0 means that nobody rated; it stays a value. A book (`goodreads_books*.json`) has `book_id`, `title`, `authors` (ids,
whose names are in `goodreads_book_authors*.json`), `description` and, where Tacit wrote it, `genres` and `price`.

Never read: `review_text`; `popular_shelves` and the file of genres made from them, which are what readers did with
a book and no public fact about it.

Source: mengtingwan.github.io/data/goodreads.
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
from shared.data.times import OFFSET
from shared.errors import DataError

FORM: Final = {"user": "user_id", "item": "book_id", "timestamp": "date_added", "value": "rating"}
BOOKS, AUTHORS, GENRES, WORKS = "goodreads_books", "goodreads_book_authors", "goodreads_book_genres", "goodreads_book_works"


def fits(fields: Collection[str]) -> bool:
    """Whether a line with these fields is an interaction."""
    return {"user_id", "book_id", "date_added"} <= set(fields)


def find(path: Path, *, named: bool = False) -> Path | None:
    """Gives the file of interactions at a path, or None where there is none; `named`: the format was named.

    Raises:
        DataError: If a folder holds several.
    """
    others = (BOOKS, AUTHORS, GENRES, WORKS)
    found = [file for file in jsonlines.files(path) if file == path or not file.name.startswith(others)]
    found = found if named else [file for file in found if fits(jsonlines.first_fields(file))]
    if len(found) > 1:
        raise several(path, found, "file of interactions")
    return found[0] if found else None


def read(path: Path) -> RawTables:
    """Reads interactions, and books and authors beside them.

    Raises:
        DataError: If a file cannot be read, or lines are no objects.
    """
    records = jsonlines.read_fields(path, tuple(FORM.values()), numbers=("rating",), times={"date_added": (OFFSET,)})
    frame = records.frame.select(pl.col(name).alias(role) for role, name in FORM.items())
    repairs = dict(records.repairs)
    books, authors = _beside(path, BOOKS), _beside(path, AUTHORS)
    roles = {path.name: dict(FORM)}
    names: dict[str, str] = {}
    if books is not None:
        roles[books.name] = {
            "item": "book_id",
            "text": "title, authors, description",
            "categories": "genres",
            "price": "price",
        }
        if authors is not None:
            roles[authors.name] = {"text": "name"}
            names = _authors(authors, repairs)
    return RawTables(
        interactions=frame,
        source=path.name,
        items=None if books is None else _books(books, names, repairs),
        items_source="" if books is None else books.name,
        lines=records.lines,
        repairs=repairs,
        roles=roles,
    )


def _beside(path: Path, stem: str) -> Path | None:
    """The file in the same folder whose name begins so; the shortest name, where several do."""
    found = [file for file in jsonlines.files(path.parent) if file.name.startswith(stem) and file != path]
    return min(found, key=lambda file: len(file.name), default=None)


def _authors(path: Path, repairs: dict[str, int]) -> dict[str, str]:
    """Names by id."""
    texts = Texts()
    found = [
        (jsonlines.scalar(f.get("author_id")), texts.scalar(f.get("name"))) for f in jsonlines.read_objects(path, repairs)
    ]
    texts.add_to(repairs)
    return {author: name for author, name in found if author and name}


def _books(path: Path, names: Mapping[str, str], repairs: dict[str, int]) -> pl.DataFrame:
    """Reads the books.

    Raises:
        DataError: If no line has a book's id.
    """
    texts = Texts()
    rows = [_book(fields, names, texts) for fields in jsonlines.read_objects(path, repairs)]
    texts.add_to(repairs)
    if rows and all(row[0] is None for row in rows):
        raise DataError(f"Expected book_id in the lines of {path.name}, found none. Is it the file of books?")
    return pl.DataFrame(rows, schema=ITEM_SCHEMA, orient="row")


def _book(
    fields: Mapping[str, Any], names: Mapping[str, str], texts: Texts
) -> tuple[str | None, str, list[str], str | None]:
    """Id, text, genres and price of one line."""
    authors = fields.get("authors")
    listed = [author.get("author_id") for author in authors if isinstance(author, dict)] if isinstance(authors, list) else []
    known = ", ".join(filter(None, (names.get(str(author)) for author in listed[:3])))
    about = jsonlines.shortened(texts.scalar(fields.get("description")))
    parts = (texts.scalar(fields.get("title")), known, about)
    item, price = jsonlines.scalar(fields.get("book_id")), jsonlines.scalar(fields.get("price"))
    return item, ". ".join(filter(None, parts)), texts.words(fields.get("genres")), price


def write(dataset: Dataset, folder: Path, name: str) -> Written:
    """Writes `goodreads_interactions.json` and `goodreads_books.json`; genres and prices go into fields of that name.

    Raises:
        DataError: If a time has no date.
    """
    refuse_times(dataset, "goodreads")
    frame = dataset.interactions.frame
    fields = {
        "user_id": pl.col("user"),
        "book_id": pl.col("item"),
        "date_added": pl.from_epoch("timestamp").dt.strftime("%a %b %d %H:%M:%S +0000 %Y"),
    }
    if "value" in frame.columns:
        fields["rating"] = pl.col("value")
    write_json_lines(folder / "goodreads_interactions.json", frame, fields)
    items = item_table(dataset.catalog, bare=True)
    about = {"book_id": pl.col("item"), "title": escaped(pl.col("text"))}
    about.update({"genres": escaped_list(pl.col(CATEGORIES))} if CATEGORIES in items.columns else {})
    about.update({"price": pl.col(PRICE)} if PRICE in items.columns else {})
    write_json_lines(folder / f"{BOOKS}.json", items, about)
    return Written(frozenset({CATEGORIES, PRICE} & set(items.columns)))
