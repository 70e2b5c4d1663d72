"""Steam reviews as UCSD's McAuley Lab publishes them: `steam_reviews.json`, `steam_games.json`.

A review has `username`, `product_id`, `date` ("2017-12-17") and `hours` played, which become user, item, time and value; a
game `id`, `app_name` or `title`, `developer`, `genres` and `price`. Both files come in Python's notation. Several reviews of
one person on one day are tied in time. What is written has the time of day as well ("2017-12-17T09:05:58") and is JSON.

A review's `text` and a game's `tags`, which players vote for, are never read.

Source: cseweb.ucsd.edu/~jmcauley/datasets.html, "Steam Video Game and Bundle Data".
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
from shared.data.times import DAY, SECOND
from shared.errors import DataError

FORM: Final = {"user": "username", "item": "product_id", "timestamp": "date", "value": "hours"}
GAMES: Final = "steam_games"
ID: Final = ("id", "product_id")


def fits(fields: Collection[str]) -> bool:
    """Whether a line with these fields is a review."""
    return {"username", "product_id", "date"} <= set(fields)


def find(path: Path, *, named: bool = False) -> Path | None:
    """Gives the file of reviews at a path, or None where there is none; `named`: the format was named.

    Raises:
        DataError: If a folder holds several.
    """
    found = [file for file in jsonlines.files(path) if file == path or "games" not in file.name.lower()]
    found = found if named else [file for file in found if fits(jsonlines.first_fields(file))]
    if len(found) > 1:
        raise several(path, found, "file of reviews")
    return found[0] if found else None


def read(path: Path) -> RawTables:
    """Reads reviews and the games beside them.

    Raises:
        DataError: If a file cannot be read, or lines are no objects.
    """
    records = jsonlines.read_fields(path, tuple(FORM.values()), numbers=("hours",), times={"date": (DAY, SECOND)})
    frame = records.frame.select(pl.col(name).alias(role) for role, name in FORM.items())
    repairs = dict(records.repairs)
    games = next((file for file in jsonlines.files(path.parent) if "games" in file.name.lower() and file != path), None)
    roles = {path.name: dict(FORM)}
    if games is not None:
        text = "app_name or title, developer"
        roles[games.name] = {"item": "id", "text": text, "categories": "genres", "price": "price"}
    return RawTables(
        interactions=frame,
        source=path.name,
        items=None if games is None else _games(games, repairs),
        items_source="" if games is None else games.name,
        lines=records.lines,
        repairs=repairs,
        roles=roles,
    )


def _games(path: Path, repairs: dict[str, int]) -> pl.DataFrame:
    """Reads the games; those without id, of which the published file has two, are left out and counted."""
    texts = Texts()
    rows = [_game(fields, texts) for fields in jsonlines.read_objects(path, repairs)]
    texts.add_to(repairs)
    known = [row for row in rows if row[0]]
    if not known:
        raise DataError(f"Expected id in the lines of {path.name}, found none. Is it the file of games?")
    if len(known) < len(rows):
        repairs[f"lines of {path.name} without id (left out)"] = len(rows) - len(known)
    return pl.DataFrame(known, schema=ITEM_SCHEMA, orient="row")


def _game(fields: Mapping[str, Any], texts: Texts) -> tuple[str | None, str, list[str], str | None]:
    """Id, text, genres and price of one line."""
    title = texts.scalar(fields.get("app_name")) or texts.scalar(fields.get("title"))
    developer = texts.scalar(fields.get("developer"))
    price = jsonlines.scalar(fields.get("price"))
    # "Free To Play", "Free Mod" and the like are prices too.
    price = "0" if price is not None and price.strip().lower().startswith("free") else price
    item = next((found for name in ID if (found := jsonlines.scalar(fields.get(name)))), None)
    return item, ". ".join(filter(None, (title, developer))), texts.words(fields.get("genres")), price


def write(dataset: Dataset, folder: Path, name: str) -> Written:
    """Writes `steam_reviews.json` and `steam_games.json`.

    Raises:
        DataError: If a time has no date.
    """
    refuse_times(dataset, "steam")
    frame = dataset.interactions.frame
    fields = {
        "username": pl.col("user"),
        "product_id": pl.col("item"),
        "date": pl.from_epoch("timestamp").dt.strftime(SECOND),
    }
    if "value" in frame.columns:
        fields["hours"] = pl.col("value")
    write_json_lines(folder / "steam_reviews.json", frame, fields)
    items = item_table(dataset.catalog, bare=True)
    about = {"id": pl.col("item"), "app_name": escaped(pl.col("text"))}
    about.update({"genres": escaped_list(pl.col(CATEGORIES))} if CATEGORIES in items.columns else {})
    about.update({"price": pl.col(PRICE)} if PRICE in items.columns else {})
    write_json_lines(folder / f"{GAMES}.json", items, about)
    return Written(frozenset({CATEGORIES, PRICE} & set(items.columns)))
