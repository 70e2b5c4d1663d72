"""From a path or a name to a validated data set: files are read by `shared/data/readers`, made sets come from `worlds/`.

The name `synthetic` is the embedded set, `synthetic:e-commerce` and so on are those of the domains (`worlds/domains.py`). No
reader and no world ships to a device, so what chooses between them does not either.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from shared.data.column_names import parse_columns
from shared.data.interactions import Order
from shared.data.readers import FORMATS, Dataset
from shared.data.readers import load_dataset as read_dataset
from shared.data.readers.finding import NO_SUCH_PATH, did_you_mean
from shared.data.readers.modalities import parse_vectors
from shared.data.readers.preview import preview as preview_files
from shared.data.readers.preview import shown
from shared.data.row_checks import BadRows
from shared.errors import ConfigError, DataError
from simulations.worlds import synthetic
from simulations.worlds.domains import DOMAINS, EMBEDDED

SYNTHETIC: Final = "synthetic"
NAMES: Final = (SYNTHETIC, *(f"{SYNTHETIC}:{known}" for known in DOMAINS))


def is_synthetic(path_or_name: str) -> bool:
    """Whether a name stands for data that the project makes: nobody's, with a catalog that is public by construction."""
    return path_or_name == SYNTHETIC or path_or_name.startswith(f"{SYNTHETIC}:")


def load_dataset(
    path_or_name: str,
    *,
    format: str = "auto",
    columns: str = "",
    vectors: str = "",
    order: Order = "time",
    bad_rows: BadRows = "refuse",
    seed: int = 0,
) -> Dataset:
    """Loads a data set; what it repaired is counted in `interactions.repairs`.

    Args:
        path_or_name: A folder, a file, `synthetic`, or `synthetic:` and the name of a domain. (public)
        format: One of `shared.data.readers.FORMATS`, or `synthetic`; `auto` tells by the files.
        columns: As of `shared.data.readers.load_dataset`. (public)
        vectors: As of `shared.data.readers.load_dataset`. (public)
        order: As of `shared.data.readers.load_dataset`.
        bad_rows: As of `shared.data.readers.load_dataset`.
        seed: Makes a synthetic set; other sets do not depend on it.

    Returns:
        The validated data set.

    Raises:
        ConfigError: If the format or the name of a synthetic set is unknown, or a setting does not apply to it.
        DataError: If there is nothing at the path, or it cannot be used; the message says why.
    """
    if is_synthetic(path_or_name) or format == SYNTHETIC:
        return _made(path_or_name, format, columns, vectors, seed)
    try:
        return read_dataset(path_or_name, format=format, columns=columns, vectors=vectors, order=order, bad_rows=bad_rows)
    except DataError as error:
        raise _with_names(error, path_or_name) from error.__cause__


def preview(
    path_or_name: str,
    *,
    format: str = "auto",
    columns: str = "",
    vectors: str = "",
    order: Order = "time",
    bad_rows: BadRows = "refuse",
    rows: int = 5,
) -> dict[str, Any]:
    """The first rows of a data set as they are understood; of files no more is read than their heads.

    Args:
        path_or_name: As of `load_dataset`. (public)
        format: As of `load_dataset`.
        columns: As of `load_dataset`. (public)
        vectors: As of `load_dataset`. (public)
        order: As of `load_dataset`.
        bad_rows: As of `load_dataset`.
        rows: How many rows of each table to show, >= 1.

    Returns:
        As `shared.data.readers.preview.preview`. (private)

    Raises:
        ConfigError: As `load_dataset`.
        DataError: As `load_dataset`, of what was looked at.
    """
    if is_synthetic(path_or_name) or format == SYNTHETIC:
        if rows < 1:
            raise ConfigError(f"Expected rows >= 1, got rows={rows}.")
        return shown(_made(path_or_name, format, columns, vectors, 0), SYNTHETIC, {}, rows, whole=True)
    try:
        return preview_files(
            path_or_name, format=format, columns=columns, vectors=vectors, order=order, bad_rows=bad_rows, rows=rows
        )
    except DataError as error:
        raise _with_names(error, path_or_name) from error.__cause__


def _made(name: str, format: str, columns: str, vectors: str, seed: int) -> Dataset:
    """The embedded set or a domain's, in its default size."""
    if format not in (*FORMATS, SYNTHETIC):
        hint = did_you_mean(format, (*FORMATS, SYNTHETIC), "Leave it out.")
        raise ConfigError(f"Expected data.format=auto with data={name!r}, got data.format={format!r}. {hint}")
    if not is_synthetic(name):
        raise ConfigError(f"Expected data='synthetic' with data.format='synthetic', got data={name!r}.")
    if format not in ("auto", SYNTHETIC) or parse_columns(columns):
        raise ConfigError("The synthetic set has one format and no columns to map. Leave both out.")
    if parse_vectors(vectors):
        raise ConfigError("Expected no data.vectors with the synthetic set, which is made, not read. Leave it out.")
    domain = EMBEDDED if name == SYNTHETIC else DOMAINS.get(name.removeprefix(f"{SYNTHETIC}:"))
    if domain is None:
        hint = did_you_mean(name, NAMES, "Correct the name.")
        raise ConfigError(f"Expected the name of a synthetic set, one of {', '.join(NAMES)}, got {name!r}. {hint}")
    made = synthetic.generate(domain, seed=seed)
    return Dataset(domain.name, made.interactions, made.catalog, made.user_attributes, made.ceiling)


def _with_names(error: DataError, path_or_name: str) -> DataError:
    """The same error; where there is no such path, with the synthetic set whose name is nearest."""
    said = str(error)
    if not said.endswith(NO_SUCH_PATH) or len(Path(path_or_name).parts) > 1:
        return error
    return DataError(f"{said.removesuffix(NO_SUCH_PATH)}{did_you_mean(path_or_name, NAMES, NO_SUCH_PATH)}")
