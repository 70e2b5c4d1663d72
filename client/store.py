"""This node's own interactions, in a simulation: a partition of a population folder.

Here live the layout of that folder and the reading of one partition of it. Here never lives writing it
(`simulations/population.py`), since a client only ever reads its own data.

    folder/
      population.json          schema, sizes, digests, and which part holds which partitions
      catalog.parquet          the items (public)
      clients/part-00000.parquet ...

A part holds whole partitions, in order, as rows of the HISTORIES TABLE with a column `partition`. With
a few silos every one has its own file; with a hundred thousand clients of one user a file each would
cost more than the data, so a part then holds about a thousand users. A client reads one part, and a
process that plays many clients reads each part once: parts are cached by path and checksum, and
opening a partition of a cached part is a slice without a copy.
"""

from __future__ import annotations

import hashlib
import io
import json
from bisect import bisect_right
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Final

import polars as pl

from shared.catalog import ItemCatalog
from shared.errors import ConfigError, DataError
from shared.splitting import HISTORIES_SCHEMA

POPULATION_SCHEMA: Final = "tacit-population-1"
POPULATION_FILE: Final = "population.json"
CATALOG_FILE: Final = "catalog.parquet"
CLIENTS_FOLDER: Final = "clients"
PARTITION_COLUMN: Final = "partition"

CACHED_FOLDERS: Final = 8
CACHED_PARTS: Final = 256


@dataclass(frozen=True)
class Population:
    """What `population.json` says. (the number of users in each part: private in a real federation)

    Attributes:
        folder: Where the population lies.
        num_clients: Number of partitions; ids are 0 to num_clients - 1.
        num_users: Users in all partitions together.
        digest: sha256 over catalog, histories and their assignment to clients, 64 hex digits.
        parts: File name, sha256 and first partition of each part, in order of partitions.
        catalog: The items. (public)
    """

    folder: Path
    num_clients: int
    num_users: int
    digest: str
    parts: tuple[tuple[str, str, int], ...]
    catalog: ItemCatalog

    @cached_property
    def first_partitions(self) -> list[int]:
        """First partition of each part, ascending."""
        return [first for _, _, first in self.parts]


@dataclass(frozen=True)
class ClientStore:
    """The histories of one client.

    Attributes:
        partition_id: Which client of the population this is.
        histories: A HISTORIES TABLE, one row a user of this client, at least one. (private)
        population: The folder it came from.
    """

    partition_id: int
    histories: pl.DataFrame
    population: Population

    @classmethod
    def open(cls, folder: str | Path, partition_id: int) -> ClientStore:
        """Opens one partition.

        Args:
            folder: What `simulations.population.write_population` wrote.
            partition_id: In [0, num_clients).

        Returns:
            The store, its histories in memory.

        Raises:
            ConfigError: If partition_id is out of range.
            DataError: If the folder is missing, damaged, or of another version.
        """
        population = open_population(folder)
        if not 0 <= partition_id < population.num_clients:
            raise ConfigError(
                f"Expected partition_id in [0, num_clients), got partition_id={partition_id}, "
                f"num_clients={population.num_clients}. Start as many nodes as the population has clients."
            )
        name, checksum, _ = population.parts[bisect_right(population.first_partitions, partition_id) - 1]
        part = _read_part(population.folder / CLIENTS_FOLDER / name, checksum)
        partitions = part[PARTITION_COLUMN]
        first = partitions.search_sorted(partition_id, side="left")
        end = partitions.search_sorted(partition_id, side="right")
        if first == end:
            raise DataError(f"No users of partition {partition_id} in {name}. Write the population again.")
        rows = part.slice(first, end - first).select(HISTORIES_SCHEMA.names())
        return cls(partition_id, rows, population)

    @property
    def num_users(self) -> int:
        """Users of this client, >= 1. (private)"""
        return self.histories.height

    @property
    def catalog(self) -> ItemCatalog:
        """The items. (public)"""
        return self.population.catalog


def open_population(folder: str | Path) -> Population:
    """Reads the description and the catalog of a population folder; cached until the folder changes.

    Raises:
        DataError: If the folder is missing, damaged, or of another version.
    """
    path = Path(folder).absolute()
    try:
        status = (path / POPULATION_FILE).stat()
    except OSError as error:
        raise DataError(
            f"No population in {path.name}/: {POPULATION_FILE} is missing. Write one with `tacit data partition`."
        ) from error
    return _open_population(path, status.st_mtime_ns, status.st_size, status.st_ino)


@lru_cache(maxsize=CACHED_FOLDERS)
def _open_population(path: Path, _mtime: int, _size: int, _inode: int) -> Population:
    """Reads the description; the arguments with underscores only tell versions of the folder apart."""
    description = _read_description(path / POPULATION_FILE)
    if description.get("schema") != POPULATION_SCHEMA:
        raise DataError(
            f"Expected schema {POPULATION_SCHEMA} in {POPULATION_FILE}, "
            f"got schema={description.get('schema')!r}. Write the population again with this version."
        )
    catalog = ItemCatalog.load(path / CATALOG_FILE)
    try:
        population = Population(
            folder=path,
            num_clients=int(description["num_clients"]),
            num_users=int(description["num_users"]),
            digest=str(description["digest"]),
            parts=tuple(
                (str(part["file"]), str(part["sha256"]), int(part["first_partition"])) for part in description["parts"]
            ),
            catalog=catalog,
        )
        catalog_digest = str(description["catalog_digest"])
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{POPULATION_FILE} lacks a field. Write the population again.") from error
    if not population.parts or population.parts[0][2] != 0:
        raise DataError(f"{POPULATION_FILE} lists no part for partition 0. Write the population again.")
    if catalog.digest != catalog_digest:
        raise DataError(f"The catalog of {path.name}/ is not the one the population was written with. Write it again.")
    return population


def _read_description(path: Path) -> dict[str, Any]:
    """Reads the JSON object."""
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path.name} is damaged or unreadable. Write the population again.") from error
    if not isinstance(description, dict):
        raise DataError(f"{path.name} is damaged or unreadable. Write the population again.")
    return description


@lru_cache(maxsize=CACHED_PARTS)
def _read_part(path: Path, checksum: str) -> pl.DataFrame:
    """Reads one part and verifies its checksum; the checksum also tells versions apart in the cache."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path.name} is missing or unreadable. Write the population again.") from error
    if hashlib.sha256(data).hexdigest() != checksum:
        raise DataError(f"{path.name} is damaged: its checksum differs. Write the population again.")
    table = pl.read_parquet(io.BytesIO(data), hive_partitioning=False)
    if dict(table.schema) != {PARTITION_COLUMN: pl.Int32(), **HISTORIES_SCHEMA}:
        raise DataError(f"{path.name} has other columns than a population's part. Write the population again.")
    return table
