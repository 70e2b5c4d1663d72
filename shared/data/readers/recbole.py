"""RecBole's atomic files, tab-separated, with typed headers (`user_id:token`): read and written.

| file | columns | becomes |
|---|---|---|
| `.inter` | `user_id`, `item_id`, `timestamp`, `rating` | interactions |
| `.item` | `item_id`, a title, classes or categories, `price`, `float_seq` fields | text, categories, price, vectors |
| `.user` | `user_id` and others | user attributes |
| `.kg`, `.link` | `head_id`, `relation_id`, `tail_id`; `item_id`, `entity_id` | knowledge: "relation: tail" |

A data set is one folder with one `.inter` file, and beside it the others under the same name. RecBole's
`benchmark_filename` layout (several `.inter` files already split) is refused, since Tacit makes its own splits.

An item's text is its title, its year in brackets, and its other text fields in file order, with the categories last:
"Toy Story (1995). Animation Children's Comedy". Numbers but the price (sales rank) are left out. RecBole separates the
members of a `token_seq` by one blank; a blank within a category is written as a no-break space.

Source: RecBole's documentation, "Atomic Files" (recbole.io/docs/user_guide/data/atomic_files.html).
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Final

import polars as pl

from shared.data.catalog import CATEGORIES, KNOWLEDGE, PRICE
from shared.data.interactions import BY_FILE, Order
from shared.data.lines import Lines, place
from shared.data.readers.dataset import Dataset
from shared.data.readers.finding import several
from shared.data.readers.modalities import RESERVED
from shared.data.readers.reading import RawTables, Records, read_delimited, read_header, require_columns
from shared.data.readers.tabular import plain
from shared.data.readers.writing import CONTROL, Written, item_table, refuse_ids, refuse_texts, spells, write_rows
from shared.data.typed_columns import as_ids
from shared.errors import DataError

TITLES: Final = ("title", "movie_title", "item_name", "name", "product_title", "tracks_name", "artist_name")
EXTRA_TOKENS: Final = ("brand", "author", "publisher", "artist")
CLASSES: Final = ("class", "genre", "genres", "category", "categories")
TYPES: Final = ("token", "token_seq", "float", "float_seq")
NO_BREAK: Final = "\u00a0"
INTER: Final = {"user_id": "user", "item_id": "item", "timestamp": "timestamp", "rating": "value"}
ADVICE: Final = "RecBole's default names are expected; rename the others in the header."


def find(path: Path) -> Path | None:
    """Gives the `.inter` file at a path, or None where there is none.

    Raises:
        DataError: If a folder holds several.
    """
    if path.suffix == ".inter":
        return path
    files = sorted(path.glob("*.inter")) if path.is_dir() else []
    if len(files) > 1:
        raise several(path, files, ".inter file")
    return files[0] if files else None


def read(path: Path, order: Order = "time") -> RawTables:
    """Reads the data set around one `.inter` file; without times where the order of its rows stands for them.

    Raises:
        DataError: If a file cannot be read or lacks a column.
    """
    records, _ = _read_atomic(path, tuple(INTER), ("timestamp", "rating"))
    inter = records.frame
    if order == "file":
        inter = inter.select(name for name in inter.columns if name != "timestamp")
    advice = ADVICE if "timestamp" in inter.columns else f"{ADVICE} {BY_FILE}"
    require_columns(path, inter.columns, ("user_id", "item_id", *(["timestamp"] if order == "time" else [])), advice)
    item_path, user_path = path.with_suffix(".item"), path.with_suffix(".user")
    roles = {path.name: {ours: name for name, ours in INTER.items() if name in inter.columns}}
    users = items = None
    if user_path.exists():
        users = _read_atomic(user_path)[0].frame
        require_columns(user_path, users.columns, ("user_id",), ADVICE)
        users = users.rename({"user_id": "user"})
        roles[user_path.name] = {"user": "user_id"}
    if item_path.exists():
        items, roles[item_path.name] = _read_items(item_path)
    if path.with_suffix(".kg").exists():
        items = _with_knowledge(items, path, roles)
    return RawTables(
        interactions=inter.select(pl.col(old).alias(new) for old, new in INTER.items() if old in inter.columns),
        source=path.name,
        items=items,
        items_source=item_path.name,
        users=users,
        users_source=user_path.name,
        lines=records.lines,
        roles=roles,
    )


def _read_atomic(path: Path, keep: tuple[str, ...] = (), numbers: tuple[str, ...] = ()) -> tuple[Records, dict[str, str]]:
    """Reads an atomic file; gives the table without types in its header, and the types.

    Raises:
        DataError: If a type is none of RecBole's.
    """
    header = read_header(path, separator="\t")
    fields = {name: name.partition(":") for name in header}
    renamed = {name: parts[0].strip() for name, parts in fields.items()}
    types = {renamed[name]: parts[2].strip() for name, parts in fields.items()}
    wrong = sum(bool(parts[1]) and parts[2].strip() not in TYPES for parts in fields.values())
    if wrong:
        raise DataError(
            f"Expected types {', '.join(TYPES)} in the header of {path.name}, found {wrong} others. Correct them."
        )
    kept = [name for name in header if not keep or renamed[name] in keep]
    counted = [name for name in kept if renamed[name] in numbers]
    records = read_delimited(path, separator="\t", keep=kept, numbers=counted)
    return replace(records, frame=records.frame.rename({name: renamed[name] for name in kept})), types


def _read_items(path: Path) -> tuple[pl.DataFrame, dict[str, str]]:
    """Reads `.item` and composes the texts; gives the roles of its fields too."""
    records, types = _read_atomic(path)
    table = records.frame
    require_columns(path, table.columns, ("item_id",), "Name the item's column so.")
    others = [name for name in table.columns if name != "item_id" and types[name] != "float_seq"]
    title = next((name for name in TITLES if name in others), None)
    year = next((name for name in others if "year" in name.lower()), None)
    classes = [name for name in others if name.lower() in CLASSES]
    rest = [
        name
        for name in others
        if name not in (title, year, *classes) and (types[name] == "token_seq" or name.lower() in EXTRA_TOKENS)
    ]
    columns = [pl.col("item_id").alias("item"), compose_text(title, year, rest).alias("text")]
    roles = {"item": "item_id", "text": ", ".join(name for name in (title, year, *rest) if name)}
    if classes:
        split = [pl.col(n).str.split(" ") if types[n] == "token_seq" else pl.concat_list(n) for n in classes]
        columns.append(pl.concat_list(part.fill_null([]) for part in split).alias(CATEGORIES))
        roles["categories"] = ", ".join(classes)
    if "price" in others:
        columns.append(pl.col("price").alias(PRICE))
        roles["price"] = "price"
    vectors = [name for name in table.columns if types[name] == "float_seq" and name not in RESERVED]
    roles.update({name: name for name in vectors})
    return table.select(*columns, *(_vector(path, table[name], records.lines) for name in vectors)), roles


def _vector(path: Path, column: pl.Series, lines: Lines | None) -> pl.Series:
    """Numbers separated by blanks as lists.

    Raises:
        DataError: If a word is no number.
    """
    words = column.str.strip_chars(" ").replace("", None).str.split(" ")
    numbers = words.list.eval(pl.element().cast(pl.Float32, strict=False))
    bad = (numbers.list.eval(pl.element().is_null()).list.any()).fill_null(False)
    if bad.any():
        raise DataError(
            f"Expected numbers in the float_seq field {column.name} of {path.name}, found {int(bad.sum())} rows with "
            f"others; first at {place(int(bad.arg_max() or 0), lines)}. "
            "Separate numbers by blanks, or name the field token_seq."
        )
    return numbers


def _with_knowledge(items: pl.DataFrame | None, path: Path, roles: dict[str, dict[str, str]]) -> pl.DataFrame | None:
    """Gives each item the triples that begin at its entity.

    Raises:
        DataError: If `.link` is missing, or links no item.
    """
    kg, link = path.with_suffix(".kg"), path.with_suffix(".link")
    if not link.exists():
        raise DataError(f"Expected {link.name} beside {kg.name}, which says which entity an item is, found none. Add it.")
    if items is None:
        raise DataError(f"Expected {path.stem}.item beside {kg.name}, which lists the items, found none. Add it.")
    triples = _read_atomic(kg)[0].frame
    require_columns(kg, triples.columns, ("head_id", "relation_id", "tail_id"), ADVICE)
    links = _read_atomic(link)[0].frame
    require_columns(link, links.columns, ("item_id", "entity_id"), ADVICE)
    roles[kg.name] = {"knowledge": "relation_id, tail_id", "entity": "head_id"}
    roles[link.name] = {"item": "item_id", "entity": "entity_id"}
    linked = links.select(as_ids(links["item_id"]).alias("item"), as_ids(links["entity_id"]).alias("entity"))
    listed = items.with_columns(as_ids(items["item"]).alias("item"))
    known = linked.drop_nulls().unique("item", keep="first", maintain_order=True).join(listed, on="item", how="semi")
    if known.is_empty():
        raise DataError(
            f"Expected items of {path.stem}.item in {link.name}, found none among {links.height}. Are they another's?"
        )
    facts = triples.select(
        as_ids(triples["head_id"]).alias("entity"),
        pl.concat_str("relation_id", "tail_id", separator=": ").alias(KNOWLEDGE),
    )
    grouped = facts.drop_nulls().group_by("entity", maintain_order=True).agg(KNOWLEDGE)
    joined = known.join(grouped, on="entity", how="left").select("item", KNOWLEDGE)
    return listed.join(joined, on="item", how="left", maintain_order="left")


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


def write(dataset: Dataset, folder: Path, name: str) -> Written:
    """Writes the atomic files; what of the modalities their fields cannot spell is left to others.

    Raises:
        DataError: If an id or a text cannot be spelled.
    """
    refuse_ids(dataset, "recbole", what="tabs, line breaks and other control characters")
    frame = dataset.interactions.frame
    inter = [pl.col("user").alias("user_id:token"), pl.col("item").alias("item_id:token")]
    inter.append(pl.col("timestamp").alias("timestamp:float"))
    if "value" in frame.columns:
        inter.append(pl.col("value").alias("rating:float"))
    write_rows(folder / f"{name}.inter", frame.select(inter), separator="\t")
    held = _write_items(dataset, folder / f"{name}.item")
    if KNOWLEDGE in held:
        _write_knowledge(dataset, folder / name)
    users = dataset.user_attributes
    spelled = users is not None and plain(users) and "user_id" not in users.columns
    if spelled and users is not None:
        header = [pl.col(column).alias(f"{'user_id' if column == 'user' else column}:token") for column in users.columns]
        write_rows(folder / f"{name}.user", users.select(header), separator="\t")
    return Written(frozenset(held), users=spelled)


def _write_items(dataset: Dataset, path: Path) -> set[str]:
    """Writes `.item`; gives the names of the modalities it holds, and `knowledge` where it can be spelled."""
    catalog = dataset.catalog
    held = {name for name in catalog.vector_names if re.fullmatch(r"[A-Za-z0-9_.-]+", name) and not _taken(name)}
    if PRICE in catalog.modalities.columns:
        held.add(PRICE)
    if CATEGORIES in catalog.modalities.columns and spells(catalog.modalities[CATEGORIES], CONTROL):
        held.add(CATEGORIES)
    items = item_table(catalog, bare=CATEGORIES in held)
    refuse_texts(items, "recbole")
    columns = [pl.col("item").alias("item_id:token"), pl.col("text").alias("title:token_seq")]
    if CATEGORIES in held:
        spaced = pl.col(CATEGORIES).list.eval(pl.element().str.replace_all(" ", NO_BREAK))
        columns.append(spaced.list.join(" ").alias("categories:token_seq"))
    if PRICE in held:
        columns.append(pl.col(PRICE).alias("price:float"))
    for name in sorted(held - {PRICE, CATEGORIES}):
        columns.append(
            pl.col(name).cast(pl.List(pl.Float32)).cast(pl.List(pl.String)).list.join(" ").alias(f"{name}:float_seq")
        )
    write_rows(path, items.select(columns), separator="\t")
    facts = catalog.modalities.get_column(KNOWLEDGE, default=None)
    labelled = facts is not None and facts.drop_nulls().explode().str.contains(r"^[^:\s][^:]*: \S").all()
    if labelled and facts is not None and spells(facts, CONTROL):
        held.add(KNOWLEDGE)
    return held


def _taken(name: str) -> bool:
    return name in (*RESERVED, "item_id", "title", "price", "categories")


def _write_knowledge(dataset: Dataset, stem: Path) -> None:
    """Writes `.kg` and `.link`; each item is an entity under its own id."""
    table = dataset.catalog.table.select("item", KNOWLEDGE).drop_nulls()
    parts = pl.col(KNOWLEDGE).str.splitn(": ", 2).struct
    triples = table.explode(KNOWLEDGE).select(
        pl.col("item").alias("head_id:token"),
        parts.field("field_0").alias("relation_id:token"),
        parts.field("field_1").alias("tail_id:token"),
    )
    write_rows(stem.with_name(f"{stem.name}.kg"), triples, separator="\t")
    links = table.select(pl.col("item").alias("item_id:token"), pl.col("item").alias("entity_id:token"))
    write_rows(stem.with_name(f"{stem.name}.link"), links, separator="\t")
