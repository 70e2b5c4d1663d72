"""Interactions of clients in a simulation: partitions of a population folder, one or a whole cohort's.

Here live the layout of that folder and the reading of partitions of it. Here never lives writing it
(`simulations/population.py`), since a client only ever reads its own data.

    folder/
      population.json          schema, sizes, the data's name, and which part holds which partitions (private: counts users)
      catalog.parquet          the items (public)
      accounts.bin             uint64[num_clients], what each account is named by (`client/ledger/accounts.py`);
                               absent where a silo's number is its name (private)
      clients/part-00000.bin ...

A part holds whole partitions, in order, as flat little-endian arrays, one after the other:

    int64  U                   users in this part
    int64  partitions[U]       ascending; the rows of one client lie together
    int64  counted[U]          training interactions of each user that an earlier run has counted; 0 where there is none
    int64  bounds[4 U + 1]     row r of column c is values[bounds[c U + r] : bounds[c U + r + 1]]
    int32  values              the HISTORIES TABLE by columns: users as code points, then train, validation, test

With a few silos every one has its own part; with many clients of one user a file each would cost more than
the data, so a part then holds as many users as are verified in a few milliseconds. Parts are mapped, not
read, and rows are copied out, so the memory of a process grows with the clients that it reads at a time
and not with the population. (Polars 2.1 copies Arrow files into memory, hence flat arrays.) What
a mapping needs is that nobody changes a part in place: a population is only ever replaced as a whole.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import polars as pl

from client.ledger.accounts import Accounts
from client.store.data import ClientRows
from shared.data.catalog import ItemCatalog
from shared.data.splitting import HISTORIES_SCHEMA
from shared.errors import ConfigError, DataError
from shared.privacy.population import PublicSize
from shared.public_facts import PublicFacts

Ints = npt.NDArray[np.int64]
# Entries of one column, one after the other, and the length of each.
Entries = tuple[npt.NDArray[np.int32], Ints]

POPULATION_SCHEMA: Final = "tacit-population-4"
POPULATION_FILE: Final = "population.json"
# What data are called that their owner gave no name.
DATA_NAME: Final = "data"
CATALOG_FILE: Final = "catalog.parquet"
ACCOUNTS_FILE: Final = "accounts.bin"
CLIENTS_FOLDER: Final = "clients"

_KINDS: Final = re.compile("user|client|value-[0-9a-f]{8}")

CACHED_FOLDERS: Final = 8
# Every mapping keeps a file open, and some systems allow a process 256 open files.
CACHED_PARTS: Final = 128


@dataclass(frozen=True)
class Population:
    """What `population.json` says.

    Attributes:
        folder: Where the population lies.
        size: The constants that plans are made from. (public)
        num_clients: Number of partitions; ids are 0 to num_clients - 1, and some may hold no user. (private where a client
            is one user)
        num_users: Users in all partitions together. (private)
        shaped_by_all: Settings by which one user's data decided what another's training data are; a private run refuses a
            population that has any.
        data_name: What the owner calls the data; the ledger is bound to it. Stays on the device.
        parts: File name, sha256 and first partition of each part, in order of partitions.
        catalog: The items. (public)
        accounts: The clients' accounts in the ledger.
    """

    folder: Path
    size: PublicSize
    num_clients: int
    num_users: int
    shaped_by_all: tuple[str, ...]
    data_name: str
    parts: tuple[tuple[str, str, int], ...]
    catalog: ItemCatalog
    accounts: Accounts

    @property
    def public(self) -> PublicFacts:
        """What a server hands out."""
        return PublicFacts(self.size, self.catalog)

    @property
    def ledger_file(self) -> Path:
        """As `ClientData.ledger_file`: beside the clients' parts."""
        return self.folder / "ledger.sqlite"

    def account(self, client_index: int) -> str:
        """As `ClientData.account`."""
        return self.accounts.name(client_index)

    def rows(self, client_indices: Ints, columns: Sequence[str]) -> ClientRows:
        """As `ClientData.rows`."""
        return read_clients(self.folder, client_indices, columns)

    @cached_property
    def first_partitions(self) -> Ints:
        """First partition of each part, ascending."""
        return np.array([first for _, _, first in self.parts])


def read_clients(
    folder: str | Path, partitions: Sequence[int] | Ints, columns: Sequence[str] = tuple(HISTORIES_SCHEMA)
) -> ClientRows:
    """Reads the histories of a cohort, which only a simulation can.

    Args:
        folder: What `simulations.population.write_population` wrote.
        partitions: Each in [0, num_clients), in any order; a repeated one is read again.
        columns: Which columns of the HISTORIES TABLE.

    Returns:
        The rows in the order of `partitions`, each client's in the order in which they were written.

    Raises:
        ConfigError: If a partition is out of range.
        DataError: If the folder is missing, damaged, or of another version.
    """
    return _read_rows(open_population(folder), np.asarray(partitions, dtype=np.int64), columns)


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
            size=PublicSize(int(description["population"]), int(description["clients"])),
            num_clients=int(description["num_clients"]),
            num_users=int(description["num_users"]),
            shaped_by_all=tuple(str(setting) for setting in description["shaped_by_all"]),
            data_name=str(description.get("data_name", DATA_NAME)),
            parts=tuple(
                (str(part["file"]), str(part["sha256"]), int(part["first_partition"])) for part in description["parts"]
            ),
            catalog=catalog,
            accounts=_accounts(path, description),
        )
        catalog_digest = str(description["catalog_digest"])
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{POPULATION_FILE} lacks a field. Write the population again.") from error
    if not population.parts or population.parts[0][2] != 0:
        raise DataError(f"{POPULATION_FILE} lists no part for partition 0. Write the population again.")
    if catalog.digest != catalog_digest:
        raise DataError(f"The catalog of {path.name}/ is not the one the population was written with. Write it again.")
    return population


def _accounts(folder: Path, description: Mapping[str, Any]) -> Accounts:
    """The accounts as `population.json` describes them: of users or of an attribute's values by hashes, or by numbers.

    Raises:
        DataError: If `accounts.bin` is missing or damaged, or the accounts are not named as this version names them.
    """
    kind, checksum = str(description["accounts"]["of"]), description["accounts"]["sha256"]
    # An earlier version gave silos by an attribute's values the names of silos by number.
    if (kind == "client") != (checksum is None) or not _KINDS.fullmatch(kind):
        raise DataError(
            f"Expected accounts in {POPULATION_FILE} as this version names them, got others. Write the population again "
            "with this version."
        )
    return Accounts(kind) if checksum is None else Accounts.read(folder / ACCOUNTS_FILE, kind, checksum=str(checksum))


def _read_description(path: Path) -> dict[str, Any]:
    """Reads the JSON object."""
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path.name} is damaged or unreadable. Write the population again.") from error
    if not isinstance(description, dict):
        raise DataError(f"{path.name} is damaged or unreadable. Write the population again.")
    return description


@dataclass(frozen=True)
class _Part:
    """The arrays of one part (see the module's docstring), all of them mapped. (private)"""

    partitions: Ints
    counted: Ints
    bounds: Ints
    values: npt.NDArray[np.int32]

    def gather(self, column: str, rows: Ints) -> Entries:
        """A copy of the entries of one column in these rows."""
        entries = HISTORIES_SCHEMA.names().index(column) * len(self.partitions) + rows
        starts = self.bounds[entries]
        lengths = self.bounds[entries + 1] - starts
        return self.values[_ranges(starts, lengths)], lengths


def _read_rows(population: Population, partitions: Ints, columns: Sequence[str]) -> ClientRows:
    """Gathers the rows part by part, then puts them into the order of `partitions`."""
    outside = (partitions < 0) | (partitions >= population.num_clients)
    if outside.any():
        raise ConfigError(
            f"Expected partition_id in [0, num_clients), got partition_id={partitions[outside][0]}, "
            f"num_clients={population.num_clients}. Start as many nodes as the population has clients."
        )
    if not len(partitions):
        return ClientRows(pl.DataFrame(schema=HISTORIES_SCHEMA).select(columns), partitions)
    part_of = np.searchsorted(population.first_partitions, partitions, side="right") - 1
    client_of_row: list[Ints] = []
    counted: list[Ints] = []
    gathered: dict[str, list[Entries]] = {column: [] for column in columns}
    for number in np.unique(part_of):
        name, checksum, _ = population.parts[number]
        part = _read_part(population.folder / CLIENTS_FOLDER / name, checksum)
        positions = np.flatnonzero(part_of == number)
        first = np.searchsorted(part.partitions, partitions[positions], side="left")
        num_users = np.searchsorted(part.partitions, partitions[positions], side="right") - first
        client_of_row.append(np.repeat(positions, num_users))
        counted.append(part.counted[_ranges(first, num_users)])
        for column, pieces in gathered.items():
            pieces.append(part.gather(column, _ranges(first, num_users)))
    client = np.concatenate(client_of_row)
    if not len(client):
        return ClientRows(pl.DataFrame(schema=HISTORIES_SCHEMA).select(columns), client)
    order = np.argsort(client, kind="stable")
    # One query for all columns, since a query costs more than its work.
    histories = pl.select([_column(column, pieces, order) for column, pieces in gathered.items()])
    before = np.concatenate(counted)[order]
    return ClientRows(histories, client[order], before if before.any() else None)


def _column(name: str, pieces: list[Entries], order: Ints) -> pl.Series | pl.Expr:
    """The entries of a column in another order, in the type of the HISTORIES TABLE."""
    values, lengths = (np.concatenate(arrays) for arrays in zip(*pieces, strict=True))
    ends = np.cumsum(lengths)
    starts, ends = (ends - lengths)[order], ends[order]
    if name == "user":
        text = values.tobytes().decode("utf-32-le")
        return pl.Series(name, [text[start:end] for start, end in zip(starts.tolist(), ends.tolist(), strict=True)])
    # One list of everything, cut into one list a row: the only way into a list column without an object a row.
    whole = pl.lit(pl.Series(name, [pl.Series(values)]))
    return whole.list.slice(pl.lit(pl.Series(starts)), pl.lit(pl.Series(ends - starts)))


def _ranges(starts: Ints, lengths: Ints) -> Ints:
    """The whole numbers from each start on, as many as its length, one range after the other."""
    offsets: Ints = np.repeat(starts - (np.cumsum(lengths) - lengths), lengths)
    return offsets + np.arange(len(offsets))


@lru_cache(maxsize=CACHED_PARTS)
def _read_part(path: Path, checksum: str) -> _Part:
    """Maps one part after verifying its checksum, which also tells versions apart in the cache."""
    try:
        with path.open("rb") as stream:
            # Read, not mapped: pages of a mapping would count as this process's memory.
            if hashlib.file_digest(stream, "sha256").hexdigest() != checksum:
                raise DataError(f"{path.name} is damaged: its checksum differs. Write the population again.")
            mapped = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise DataError(f"{path.name} is missing or unreadable. Write the population again.") from error
    (num_users,) = np.frombuffer(mapped, "<i8", count=1)
    partitions = np.frombuffer(mapped, "<i8", count=num_users, offset=8)
    counted = np.frombuffer(mapped, "<i8", count=num_users, offset=8 * (1 + num_users))
    bounds = np.frombuffer(mapped, "<i8", count=4 * num_users + 1, offset=8 * (1 + 2 * num_users))
    values = np.frombuffer(mapped, "<i4", offset=8 * (2 + 6 * num_users))
    return _Part(partitions, counted, bounds, values)
