"""A data set in another format, so that reading it gives the same.

Here live the choice of the writer, what lies beside its files, and that nobody ever sees half of a data set. Here never live
layouts, which are each format's module's.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import polars as pl

from shared.data.interactions import Interactions, looks_positional
from shared.data.parquet import write_parquet
from shared.data.readers import amazon, goodreads, huggingface, mind, movielens, recbole, steam, tabular
from shared.data.readers.dataset import Dataset
from shared.data.readers.finding import did_you_mean
from shared.data.readers.modalities import BESIDE
from shared.data.readers.writing import Written
from shared.errors import ConfigError, DataError
from shared.folder_claim import claimed, contents, publish

WRITERS: Final[dict[str, Callable[[Dataset, Path, str], Written]]] = {
    "parquet": tabular.write_parquet,
    "csv": tabular.write_csv,
    "recbole": recbole.write,
    "movielens": movielens.write,
    **{f"amazon-{year}": partial(amazon.write, year=year) for year in amazon.YEARS},
    "mind": mind.write,
    "steam": steam.write,
    "goodreads": goodreads.write,
    "huggingface": huggingface.write,
}
WITHOUT_VALUES: Final = ("mind",)
SPELL_POSITIONS: Final = ("parquet", "csv", "huggingface")


@dataclass(frozen=True)
class Conversion:
    """What was written.

    Attributes:
        files: Their names and sizes in bytes.
        beside: What the format has no field for and lies in files beside, in words.
        lost: What was left out, in words.
    """

    files: dict[str, int]
    beside: tuple[str, ...]
    lost: tuple[str, ...]


def check_destination(destination: Path, format: str) -> None:
    """Refuses what could not be written, before anything is read.

    Raises:
        ConfigError: If the format is unknown, or the destination is there and not empty.
    """
    if format not in WRITERS:
        hint = did_you_mean(format, WRITERS, "Choose one of them.")
        raise ConfigError(f"Expected a format to write in {{{', '.join(WRITERS)}}}, got {format!r}. {hint}")
    if destination.is_symlink() or (destination.exists() and not destination.is_dir()):
        raise ConfigError(f"Expected a new folder at {destination}, found something else. Name another.")
    if contents(destination):
        raise ConfigError(f"Expected a new or empty folder at {destination}, found files in it. Name another.")


def convert(dataset: Dataset, destination: Path, format: str, *, lossy: bool = False) -> Conversion:
    """Writes a data set in a format, whole or not at all.

    Args:
        dataset: What `load_dataset` gave. (private)
        destination: A folder that is new or empty.
        format: One of `WRITERS`.
        lossy: Leave out values where the format has no field for them.

    Raises:
        ConfigError: As `check_destination`.
        DataError: If the format cannot spell an id, a text or a time, or has no field for values and `lossy` is
            False. Nothing is written then.
    """
    with claimed(destination, lambda folder: check_destination(folder, format)):
        return _convert(dataset, destination, format, lossy=lossy)


def _convert(dataset: Dataset, destination: Path, format: str, *, lossy: bool) -> Conversion:
    dataset, lost = _without_values(dataset, format, lossy=lossy)
    frame = dataset.interactions.frame
    if dataset.interactions.positional and format not in SPELL_POSITIONS and not looks_positional(frame):
        lost += ("that times are positions, which these do not show by themselves",)
    folder = Path(tempfile.mkdtemp(dir=destination.parent, prefix=f".{destination.name}."))
    try:
        written = WRITERS[format](dataset, folder, destination.resolve().name)
        beside = _write_beside(dataset, folder, written)
        files = {str(file.relative_to(folder)): file.stat().st_size for file in sorted(folder.rglob("*")) if file.is_file()}
        folder.chmod(0o755)
        publish(folder, destination)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return Conversion(files, beside, lost)


def _without_values(dataset: Dataset, format: str, *, lossy: bool) -> tuple[Dataset, tuple[str, ...]]:
    """Leaves out the values where the format has none and that is allowed."""
    frame = dataset.interactions.frame
    if format not in WITHOUT_VALUES or "value" not in frame.columns:
        return dataset, ()
    count = frame.height - frame["value"].null_count()
    if not lossy:
        raise DataError(
            f"Expected interactions without values for {format} files, which have no field for them, found {count}. "
            "Leave them out with --lossy, or convert to another format."
        )
    rows = frame.drop("value").unique(keep="first", maintain_order=True)
    lost: tuple[str, ...] = (f"{count:,} values",)
    if rows.height < frame.height:
        lost += (f"{frame.height - rows.height:,} interactions that differ from another in their value alone",)
    kept = Interactions(rows, dataset.interactions.positional, dataset.interactions.repairs)
    return Dataset(dataset.name, kept, dataset.catalog, dataset.user_attributes, dataset.ceiling), lost


def _write_beside(dataset: Dataset, folder: Path, written: Written) -> tuple[str, ...]:
    """Writes what the format's own files do not hold."""
    rest = sorted(set(dataset.catalog.modalities.columns) - written.modalities)
    beside: tuple[str, ...] = ()
    if rest:
        table = dataset.catalog.table.select("item", *rest)
        write_parquet(table.filter(pl.any_horizontal(pl.col(rest).is_not_null())), folder / BESIDE)
        beside += (f"{', '.join(rest)} in {BESIDE}",)
    if dataset.user_attributes is not None and not written.users:
        write_parquet(dataset.user_attributes, folder / "users.parquet")
        beside += ("user attributes in users.parquet",)
    return beside
