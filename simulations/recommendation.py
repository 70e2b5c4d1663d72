"""Top-k from a saved run: the adapter is loaded from its files onto a freshly built base.

Lives here: histories by id, and lists with texts, for the command line and for Python. Never here: the order of a list
(`shared/ranking.py`), or a score.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shared.artifact import load_recommender
from shared.config import RunConfig
from shared.data.catalog import ItemCatalog
from shared.data.readers import find_reader
from shared.data.readers.tabular import read_items
from shared.errors import ConfigError, DataError
from shared.files import read_text
from shared.listing import split_list
from shared.model.growth import grown
from shared.model.recommender import Recommender as Model
from shared.ranking import top_k
from shared.run_folder import load_catalog, load_config
from simulations.datasets import is_synthetic
from simulations.preparing import dataset_of
from simulations.terminal import plain

_COMPARED_ITEMS = 20_000


@dataclass(frozen=True)
class Recommendation:
    """One place of a list. (private: of one user)

    Attributes:
        rank: From 1.
        item: Its id.
        text: Its text.
        score: Higher is better; no unit, and comparable within one list alone.
        new: Whether it came after training.
    """

    rank: int
    item: str
    text: str
    score: float
    new: bool = False


class Recommender:
    """The recommender that a run released, opened from its files; it ranks for users never seen in training too.

    Attributes:
        folder: Of the run.
        items: Ids of the items, in the order of the columns of `score`. (public)
        texts: Their texts. (public)

    Example:
        tacit.load("runs/first").recommend(["50", "181"], k=5)
    """

    def __init__(self, folder: Path, catalog: ItemCatalog, model: Model, *, num_known: int) -> None:
        """Use `Recommender.open`."""
        self.folder, self._catalog, self._model, self._num_known = folder, catalog, model, num_known
        self.items, self.texts = catalog.ids, catalog.texts

    @classmethod
    def open(cls, folder: str | Path, *, new_items: str | Path | None = None) -> Recommender:
        """Opens the recommender of a finished run, after every digest.

        Args:
            folder: Of the run.
            new_items: A CSV, TSV or Parquet file of items that came after training; they are ranked with the others, from
                their modalities alone. (public)

        Raises:
            CheckpointError: If there is none, or its files do not belong together.
            DataError: If the new items cannot be used.
        """
        folder = Path(folder)
        load_config(folder)  # says that there is no run, before a file of it is missed
        catalog, num_known = _catalog(folder, None if new_items is None else Path(new_items))
        return cls(folder, catalog, _model(folder, catalog, num_known), num_known=num_known)

    def recommend(self, history: Sequence[str], *, k: int = 10) -> list[Recommendation]:
        """The k best items for a history, without those that it holds.

        Args:
            history: Item ids in time order; the last ones count most. An empty history gets what is popular. (private)
            k: List length, >= 1. (public)

        Raises:
            ConfigError: If the history is no list of ids, or k < 1.
            DataError: If an item is unknown.
        """
        rows = self._rows(history)
        return ranked(self._model, self._catalog, rows, k=k, num_known=self._num_known)

    def score(self, histories: Sequence[Sequence[str]]) -> NDArray[np.float32]:
        """The score of every item for a batch of histories.

        Args:
            histories: B lists of item ids in time order. (private)

        Returns:
            (B, I) float32, higher is better, one column an item of `items`.

        Raises:
            ConfigError: If a history is no list of ids.
            DataError: If an item is unknown.
        """
        return self._model.score([self._rows(history).astype(np.int32) for history in histories])

    def __repr__(self) -> str:
        return f"Recommender({str(self.folder)!r}, {len(self.items):,} items)"

    def _rows(self, history: Sequence[str]) -> NDArray[np.int64]:
        listed = isinstance(history, Iterable) and not isinstance(history, str)
        items = [item for item in history if isinstance(item, str)] if listed else []
        if not listed or len(items) != len(history):
            raise ConfigError(
                f"Expected history to be a list of ids as text, got history of type {type(history).__name__}. Write e.g. "
                "['50', '181']."
            )
        return _known_rows(items, self._catalog, "Ids are those of the data file.")


def ranked(model: Model, catalog: ItemCatalog, rows: NDArray[np.int64], *, k: int, num_known: int) -> list[Recommendation]:
    """The list of one history.

    Args:
        model: Of the run. (public)
        catalog: Its items, new ones at the end. (public)
        rows: The history as catalog rows, in time order. (private)
        k: List length, >= 1. (public)
        num_known: Items that training knew. (public)

    Raises:
        ConfigError: If k < 1.
    """
    scores = model.score([rows.astype(np.int32)])[0]
    return [
        Recommendation(rank, catalog.ids[row], catalog.texts[row], float(scores[row]), bool(row >= num_known))
        for rank, row in enumerate(top_k(scores, rows, k=k), start=1)
    ]


def recommend_items(
    run_dir: Path,
    *,
    history: str | None = None,
    history_file: Path | None = None,
    user: str | None = None,
    data: str | None = None,
    format: str | None = None,
    columns: str | None = None,
    new_items: Path | None = None,
    k: int = 10,
) -> list[dict[str, Any]]:
    """Ranks the catalog for one history and leaves out what it already holds.

    Args:
        run_dir: A finished run.
        history: Item ids in time order, separated by commas, in quotation marks where an id holds a comma; or
        history_file: a text file with one item id a line; or
        user: a user of `data` (default: the run's own data). (private)
        data: File, folder or name to look the user up in.
        format: Its format.
        columns: Its column map; by default that of the run, where the data has the columns that it names.
        new_items: A CSV, TSV or Parquet file of items that came after training; they are ranked with the others, from
            their modalities alone, and may be in the history. (public)
        k: Length of the list.

    Returns:
        Rows with rank, item, text, score, and whether it is new.

    Raises:
        ConfigError: If not exactly one of history, history_file and user is given.
        DataError: If an item or the user is unknown.
        CheckpointError: If the run has no adapter, or its files do not belong together.
    """
    if sum(given is not None for given in (history, history_file, user)) != 1:
        raise ConfigError("Expected one of --history, --history-file and --user, got several or none. Give one of them.")
    config = load_config(run_dir)
    catalog, num_known = _catalog(run_dir, new_items)
    if user is not None:
        rows = _rows_of_user(_with_data(config, data, format, columns), user, catalog)
    else:
        rows = _rows(_ids_of_file(history_file) if history_file else _ids(str(history), catalog), catalog)
    model = _model(run_dir, catalog, num_known)
    return [asdict(row) for row in ranked(model, catalog, rows, k=k, num_known=num_known)]


def _catalog(run_dir: Path, new_items: Path | None) -> tuple[ItemCatalog, int]:
    """The items of a run with those that came after it, and how many training knew."""
    known = load_catalog(run_dir)
    return (known if new_items is None else known.grown(read_items(new_items))), known.num_items


def _model(run_dir: Path, catalog: ItemCatalog, num_known: int) -> Model:
    model = load_recommender(run_dir)
    return model if catalog.num_items == num_known else grown(model, load_config(run_dir), catalog)


def _ids(history: str, catalog: ItemCatalog) -> list[str]:
    """The ids of `--history`; a text that is one id as a whole is that one, commas and all."""
    return [history] if history in catalog.row_of else split_list(history, name="--history")


def _ids_of_file(path: Path) -> list[str]:
    try:
        return [line.strip() for line in read_text(path).splitlines() if line.strip()]
    except UnicodeDecodeError:
        raise DataError(f"Expected UTF-8 text in {path.name}, found other bytes. Save it as UTF-8.") from None
    except OSError as error:
        raise DataError(f"Cannot read {path.name}: {error.strerror}. Check --history-file.") from None


def _rows(items: list[str], catalog: ItemCatalog) -> NDArray[np.int64]:
    if not items:
        raise ConfigError("Expected item ids in the history, got none. Give at least one.")
    return _known_rows(
        items,
        catalog,
        "Ids are those of the data file, separated by commas; put one that holds a comma into quotation marks, or use "
        "--history-file.",
    )


def _known_rows(items: list[str], catalog: ItemCatalog, advice: str) -> NDArray[np.int64]:
    unknown = [item for item in items if item not in catalog.row_of]
    if unknown:
        raise DataError(
            f"Expected item ids of the catalog, got {len(unknown)} unknown of {len(items)}; the first is "
            f"'{plain(unknown[0])}'.{_nearest(unknown[0], catalog)} {advice}"
        )
    return np.array([catalog.row_of[item] for item in items], dtype=np.int64)


def _nearest(unknown: str, catalog: ItemCatalog) -> str:
    """Names like the one that was typed, in words; also found by an item's text. (public)"""
    close = difflib.get_close_matches(unknown, _comparable(unknown, catalog), n=3, cutoff=0.6)
    if not close:
        wanted = unknown.casefold()
        close = [item for item, text in zip(catalog.ids, catalog.texts, strict=True) if wanted in text.casefold()][:3]
    return f" Did you mean {', '.join(repr(plain(item)) for item in close)}?" if close else ""


def _comparable(unknown: str, catalog: ItemCatalog) -> list[str]:
    """Ids worth a comparison, which takes some microseconds each: of a large catalog those that begin alike."""
    if catalog.num_items <= _COMPARED_ITEMS:
        return list(catalog.ids)
    begin = unknown[:2].casefold()
    return [item for item in catalog.ids if item[:2].casefold() == begin][:_COMPARED_ITEMS]


def _with_data(config: RunConfig, data: str | None, format: str | None, columns: str | None) -> RunConfig:
    """The run's configuration, reading the data that a user is looked up in; what is not said is as in the run."""
    changes: dict[str, str] = {}
    if data is not None:
        # Item vectors belong to the run's items and say nothing of a user.
        changes |= {"data.path": data, "data.format": "auto", "data.vectors": ""}
        if columns is None and not _fits(config.data.columns, data, format or "auto"):
            changes["data.columns"] = ""
    if format is not None:
        changes["data.format"] = format
    if columns is not None:
        changes["data.columns"] = columns
    return config.with_values(changes)


def _fits(columns: str, data: str, format: str) -> bool:
    """Whether data are of a format that takes a column map; those with fixed columns refuse one."""
    if is_synthetic(data):
        return False
    try:
        return find_reader(Path(data), format=format, columns=columns)[0] in ("tabular", "huggingface")
    except ConfigError:
        return False


def _rows_of_user(config: RunConfig, user: str, catalog: ItemCatalog) -> NDArray[np.int64]:
    import polars as pl

    dataset = dataset_of(config)
    chosen = dataset.interactions.frame.filter(pl.col("user") == user).sort("timestamp", maintain_order=True)
    if chosen.is_empty():
        raise DataError(
            f"Expected a user of the data file, found no interaction of user '{plain(user)}'. Check the id and --data."
        )
    rows = [catalog.row_of[item] for item in chosen["item"] if item in catalog.row_of]
    if not rows:
        raise DataError("Expected interactions with items of the run's catalog, found none. Use data with the same items.")
    return np.array(rows, dtype=np.int64)
