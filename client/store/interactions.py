"""A node's interactions: adding them, forgetting a user, dropping old ones, reading them.

What lives here: the tables and every query on them. What never does: the file (`database.py`), what a row looks like when
it is encrypted (`encryption.py`), reading people's files (`ingest.py`), catalogs and splits (`local.py`).

    about         one row: revision, counted on by every change; a check of the key, NULL in clear; when it was last pruned
    users         id, and the user's own id (sealed)
    interactions  user, and what is known: 8 bytes of time, then the item's id (sealed)
    counted       run, user, how many training interactions of the user that run has counted

Sealed is what stands for it in the database, the same for the same user, time and item, and the table is kept by it: so the
same interaction twice is one, in whatever order, in however many pieces, and however often a file is read.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from sqlite3 import Connection
from typing import Final

import numpy as np
import polars as pl

from client.store.database import Database
from client.store.encryption import Clear, Encrypted, Sealing
from shared.errors import StoreUnavailable

SECONDS_A_DAY: Final = 86_400
# Rows that are in memory at a time.
CHUNK: Final = 50_000
# Users whose numbers are in memory while interactions are added.
_MOST_PLACES: Final = 200_000
_TIME_BYTES: Final = 8
# By user: the number, and what stands for the user. (private)
_Places = dict[str, tuple[int, bytes]]
_TABLES: Final = (
    """CREATE TABLE about (
        only INTEGER PRIMARY KEY CHECK (only = 1),
        revision INTEGER NOT NULL,
        key_check BLOB,
        pruned_at INTEGER NOT NULL
    )""",
    "CREATE TABLE users (id INTEGER PRIMARY KEY, sealed BLOB NOT NULL UNIQUE)",
    """CREATE TABLE interactions (
        user INTEGER NOT NULL,
        sealed BLOB NOT NULL,
        PRIMARY KEY (user, sealed)
    ) WITHOUT ROWID""",
    """CREATE TABLE counted (
        run TEXT NOT NULL,
        user INTEGER NOT NULL,
        interactions INTEGER NOT NULL,
        PRIMARY KEY (run, user)
    ) WITHOUT ROWID""",
)
_PAGE: Final = """
    SELECT i.user, u.sealed, i.sealed FROM interactions AS i CROSS JOIN users AS u ON u.id = i.user
    WHERE (i.user, i.sealed) > (?, ?) ORDER BY i.user, i.sealed LIMIT ?
"""
_OF_USER: Final = """
    SELECT i.sealed FROM interactions AS i JOIN users AS u ON u.id = i.user WHERE u.sealed = ? ORDER BY i.sealed
"""
_WITHOUT_INTERACTIONS: Final = "NOT IN (SELECT DISTINCT user FROM interactions)"


@dataclass(frozen=True)
class Added:
    """What became of interactions that were to be added. (private)

    Attributes:
        added: How many are new.
        known: How many were there already, or came twice.
        expired: How many are older than the owner keeps them.
    """

    added: int = 0
    known: int = 0
    expired: int = 0

    def __add__(self, other: Added) -> Added:
        return Added(self.added + other.added, self.known + other.known, self.expired + other.expired)


@dataclass(frozen=True)
class Contents:
    """What is there. (private)

    Attributes:
        interactions: How many.
        users: How many.
        items: How often each item id occurs.
        oldest: Time of the first interaction, seconds since 1970; None without any.
        newest: Time of the last one.
    """

    interactions: int
    users: int
    items: Mapping[str, int]
    oldest: int | None
    newest: int | None


class InteractionStore:
    """The interactions of one node; several processes may use them in turn.

    Args:
        path: The database's file.
        secret: What encrypts it; None for a database in clear. (private)
        retention_days: How long interactions are kept, from their own time on; 0: for ever.
        clock: The time, in seconds since 1970.
        timeout_seconds: How long to wait for another process that is writing.
    """

    def __init__(
        self,
        path: Path,
        *,
        secret: bytes | None = None,
        retention_days: int = 0,
        clock: Callable[[], float] = time.time,
        timeout_seconds: float = 10.0,
    ) -> None:
        self._database = Database(path, timeout_seconds=timeout_seconds)
        self._sealing: Sealing = Clear()
        self._check: bytes | None = None
        if secret is not None:
            self._sealing = encrypted = Encrypted(secret)
            self._check = encrypted.check
        self.retention_days = retention_days
        self._clock = clock

    @property
    def path(self) -> Path:
        """The database's file."""
        return self._database.path

    @property
    def encryption(self) -> str:
        """How rows are encrypted; "none" where they are in clear."""
        return self._sealing.name

    def bytes_on_disk(self) -> int:
        """The size of the file and its log."""
        return self._database.bytes_on_disk()

    def create(self) -> None:
        """Makes an empty database unless there is one, and checks it.

        Raises:
            StoreUnavailable: If that is impossible, or the one that is there cannot be used or has another key.
        """
        about = ("INSERT INTO about VALUES (1, 0, ?, ?)", (self._check, int(self._clock())))
        self._database.create([*((table, ()) for table in _TABLES), about])
        self.verify()

    def verify(self) -> None:
        """Checks the file and the key.

        Raises:
            StoreUnavailable: If there is no database, or it is damaged, of another version, or has another key.
        """
        self._database.verify()
        self.revision()

    def revision(self) -> int:
        """A number that changes with every change.

        Raises:
            StoreUnavailable: As `verify`.
        """
        with self._reading() as connection:
            return int(connection.execute("SELECT revision FROM about").fetchone()[0])

    @contextmanager
    def adding(self) -> Iterator[Callable[[pl.DataFrame], Added]]:
        """One transaction: all that is added inside is kept when the block is left, or, after an error, nothing.

        Yields:
            What adds interactions: a table of `user` String, `item` String, `timestamp` Int64 (seconds, >= 0), nothing
            null or empty. (private)

        Raises:
            StoreUnavailable: If it cannot be written.
        """
        oldest = self._oldest_kept()
        places: _Places = {}
        with self._writing() as connection:
            yield lambda frame: self._add(connection, frame, oldest, places)

    def forget(self, user: str) -> int:
        """Deletes a user, and overwrites what was deleted.

        Guarantee:
            When this returns, no file of the database holds the user's id, nor an interaction of the user's, nor, where it
            is encrypted, a ciphertext of one.

        Args:
            user: The id. (private)

        Returns:
            How many interactions were deleted; 0 where the user was not there, which is safe to repeat. (private)

        Raises:
            StoreUnavailable: If it cannot be written, or traces are left; the message says which.
        """
        with self._deleting() as connection:
            found = connection.execute(
                "SELECT id FROM users WHERE sealed = ?", (self._sealing.seal(user.encode()),)
            ).fetchone()
            deleted = 0
            if found is not None:
                deleted = connection.execute("DELETE FROM interactions WHERE user = ?", found).rowcount
                connection.execute("DELETE FROM counted WHERE user = ?", found)
                connection.execute("DELETE FROM users WHERE id = ?", found)
        self._database.erase()
        return deleted

    def prune(self) -> int:
        """Deletes interactions that are older than `retention_days`, and overwrites them.

        Returns:
            How many; 0 without a limit. (private)

        Raises:
            StoreUnavailable: As `forget`.
        """
        oldest = self._oldest_kept()
        if oldest is None:
            return 0
        dropped: Counter[int] = Counter()
        with self._deleting() as connection:
            for page in _pages(connection):
                expired = [(user, sealed) for user, of, sealed in page if _time(self._sealing.open(sealed, of)) < oldest]
                connection.executemany("DELETE FROM interactions WHERE user = ? AND sealed = ?", expired)
                dropped.update(user for user, _ in expired)
            # What was counted of a history is its beginning, from which the oldest were dropped.
            connection.executemany(
                "UPDATE counted SET interactions = max(0, interactions - ?) WHERE user = ?",
                [(count, user) for user, count in dropped.items()],
            )
            if dropped:
                connection.execute(f"DELETE FROM users WHERE id {_WITHOUT_INTERACTIONS}")
                connection.execute(f"DELETE FROM counted WHERE user {_WITHOUT_INTERACTIONS}")
            connection.execute("UPDATE about SET pruned_at = ?", (int(self._clock()),))
        if dropped:
            self._database.erase()
        return dropped.total()

    def prune_if_due(self) -> int:
        """The same at most once a day: every row has to be read for it.

        Raises:
            StoreUnavailable: As `forget`.
        """
        if self._oldest_kept() is None:
            return 0
        with self._reading() as connection:
            (pruned_at,) = connection.execute("SELECT pruned_at FROM about").fetchone()
        return self.prune() if self._clock() >= pruned_at + SECONDS_A_DAY else 0

    def read(self) -> pl.DataFrame:
        """All interactions: `user` String, `item` String, `timestamp` Int64, in no particular order. (private)

        Raises:
            StoreUnavailable: If they cannot be read.
        """
        with self._reading() as connection:
            names = self._names(connection)
            pages = list(self._decoded(connection))
        table = pl.concat(pages) if pages else pl.DataFrame(schema=_SCHEMA)
        users = pl.DataFrame({"number": list(names), "user": list(names.values())}, schema=_USERS)
        return table.join(users, on="number", how="left").select("user", "item", "timestamp")

    def history(self, user: str) -> list[str]:
        """The items of one user, in time order; none where the user is not there. (private)

        Raises:
            StoreUnavailable: If they cannot be read.
        """
        of = self._sealing.seal(user.encode())
        with self._reading() as connection:
            rows = connection.execute(_OF_USER, (of,)).fetchall()
        said = sorted((self._sealing.open(sealed, of) for (sealed,) in rows), key=_time)
        return [row[_TIME_BYTES:].decode() for row in said]

    def users(self) -> list[str]:
        """The ids of all users. (private)

        Raises:
            StoreUnavailable: If they cannot be read.
        """
        with self._reading() as connection:
            return list(self._names(connection).values())

    def contents(self) -> Contents:
        """Counts what is there, a chunk at a time.

        Raises:
            StoreUnavailable: If it cannot be read.
        """
        items: Counter[str] = Counter()
        times: list[int] = []
        with self._reading() as connection:
            (users,) = connection.execute("SELECT COUNT(*) FROM users").fetchone()
            for page in self._decoded(connection):
                items.update(dict(page["item"].value_counts().iter_rows()))
                limits = page.select(pl.col("timestamp").min().alias("low"), pl.col("timestamp").max().alias("high")).row(0)
                times = [min(limits[0], *times[:1]), max(limits[1], *times[1:])] if times else list(limits)
        oldest, newest = times or (None, None)
        return Contents(items.total(), users, items, oldest, newest)

    def mark_counted(self, run: str, interactions: Mapping[str, int]) -> None:
        """Notes how many training interactions of each user the statistics of a run hold; a former note is replaced.

        Args:
            run: The run's name.
            interactions: By user. (private)

        Raises:
            StoreUnavailable: If it cannot be written.
        """
        with self._writing() as connection:
            connection.execute("DELETE FROM counted WHERE run = ?", (run,))
            connection.executemany(
                "INSERT INTO counted SELECT ?, id, ? FROM users WHERE sealed = ?",
                [(run, count, self._sealing.seal(user.encode())) for user, count in interactions.items()],
            )

    def counted(self, run: str) -> dict[str, int]:
        """What `mark_counted` noted of a run, by user. (private)

        Raises:
            StoreUnavailable: If it cannot be read.
        """
        with self._reading() as connection:
            names = self._names(connection)
            rows = connection.execute("SELECT user, interactions FROM counted WHERE run = ?", (run,)).fetchall()
        return {names[user]: count for user, count in rows}

    def _oldest_kept(self) -> int | None:
        return int(self._clock()) - self.retention_days * SECONDS_A_DAY if self.retention_days else None

    def _add(self, connection: Connection, frame: pl.DataFrame, oldest: int | None, places: _Places) -> Added:
        kept = frame if oldest is None else frame.filter(pl.col("timestamp") >= oldest)
        if len(places) > _MOST_PLACES:
            places.clear()
        for user in kept["user"].unique().to_list():
            if user not in places:
                places[user] = self._place(connection, user)
        users, items, times = (kept[name].to_list() for name in ("user", "item", "timestamp"))
        seal = self._sealing.seal
        rows = [
            (number, seal(moment.to_bytes(_TIME_BYTES, "big") + item.encode(), of))
            for (number, of), item, moment in zip(map(places.__getitem__, users), items, times, strict=True)
        ]
        rows.sort()  # neighbors in the table one after the other: each page of it is looked for once
        before = connection.total_changes
        connection.executemany("INSERT OR IGNORE INTO interactions VALUES (?, ?)", rows)
        added = connection.total_changes - before
        return Added(added, kept.height - added, frame.height - kept.height)

    def _place(self, connection: Connection, user: str) -> tuple[int, bytes]:
        """The number of a user, who is added where missing, and what stands for the user."""
        sealed = self._sealing.seal(user.encode())
        found = connection.execute("SELECT id FROM users WHERE sealed = ?", (sealed,)).fetchone()
        if found is None:
            found = (connection.execute("INSERT INTO users (sealed) VALUES (?)", (sealed,)).lastrowid,)
        return found[0], sealed

    def _names(self, connection: Connection) -> dict[int, str]:
        rows = connection.execute("SELECT id, sealed FROM users")
        return {number: self._sealing.open(sealed).decode() for number, sealed in rows}

    def _decoded(self, connection: Connection) -> Iterator[pl.DataFrame]:
        for page in _pages(connection):
            said = [self._sealing.open(sealed, of) for _, of, sealed in page]
            times = np.frombuffer(b"".join(row[:_TIME_BYTES] for row in said), ">i8").astype(np.int64)
            yield pl.DataFrame(
                {
                    "number": [row[0] for row in page],
                    "item": [row[_TIME_BYTES:].decode() for row in said],
                    "timestamp": times,
                },
                schema=_SCHEMA,
            )

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        with self._database.reading() as connection:
            self._verify_key(connection)
            yield connection

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        with self._database.writing() as connection, self._revised(connection):
            yield connection

    @contextmanager
    def _deleting(self) -> Iterator[Connection]:
        with self._database.deleting() as connection, self._revised(connection):
            yield connection

    @contextmanager
    def _revised(self, connection: Connection) -> Iterator[None]:
        self._verify_key(connection)
        before = connection.total_changes
        yield
        if connection.total_changes > before:
            connection.execute("UPDATE about SET revision = revision + 1")

    def _verify_key(self, connection: Connection) -> None:
        (check,) = connection.execute("SELECT key_check FROM about").fetchone()
        if check == self._check:
            return
        if check is None or self._check is None:
            expected, found = ("encrypted", "in clear") if check is None else ("in clear", "encrypted")
            raise StoreUnavailable(
                f"Expected a database {expected}, as encryption in [data] of node.toml says, found one {found}. Nothing was "
                "changed. Set it as it was, or move the database away and ingest again."
            )
        raise StoreUnavailable(
            f"Expected the key with which {self.path.name} was encrypted, got another. Nothing was changed. Put the right "
            "key back from a copy."
        )


_SCHEMA: Final = {"number": pl.Int64(), "item": pl.String(), "timestamp": pl.Int64()}
_USERS: Final = {"number": pl.Int64(), "user": pl.String()}


def _pages(connection: Connection) -> Iterator[list[tuple[int, bytes, bytes]]]:
    """All rows, a chunk at a time: the user's number, what stands for the user, what is sealed.

    Rows of earlier chunks may be deleted meanwhile.
    """
    last: tuple[int, bytes] = (-1, b"")
    while page := connection.execute(_PAGE, (*last, CHUNK)).fetchall():
        yield page
        last = (page[-1][0], page[-1][2])


def _time(said: bytes) -> int:
    return int.from_bytes(said[:_TIME_BYTES], "big")
