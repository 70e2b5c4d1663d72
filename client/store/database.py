"""The file under a node's interactions: SQLite in WAL mode, readable for its owner alone, complete or refused.

What lives here: making, opening and checking the file, transactions, overwriting what was deleted, and one clear line for
whatever SQLite or the disk says. What never does: what the rows mean (`interactions.py`), how they are encrypted
(`encryption.py`).

* A new file is made under a temporary name and linked to its own when it is complete, so that nobody meets half of one and
  two processes that make it at once end with the same. An empty file is refused: it was a database once.
* Every use opens a connection of its own, since an application's endpoint, a training process and a command of the owner's
  meet here: none crosses a fork or a thread, and an idle one never keeps deleted rows alive.
* `deleting` overwrites deleted rows within the file. What earlier versions of pages hold is in the log, in free pages and
  between the rows of others: `erase` empties the one and writes the file anew. What a disk keeps of blocks that a file no
  longer has is out of reach; where that matters, the disk itself is to be encrypted.
"""

from __future__ import annotations

import os
import sqlite3
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Final

from shared.errors import StoreUnavailable

SCHEMA_VERSION: Final = 1
# Bytes "TACD" in the file's header, so that a database of something else is not taken for interactions.
_APPLICATION_ID: Final = 0x54414344
# Checking that much takes about 0.2 s; of a larger file SQLite checks each page when it reads it.
_CHECKED_BYTES: Final = 32 * 2**20
_CACHED_BYTES: Final = 64 * 2**20
# What a log may keep on the disk after a large file was ingested.
_LARGEST_LOG_BYTES: Final = 16 * 2**20

_REPLACE: Final = "Restore it from a copy, or move it away and ingest again; it is never replaced silently."
_WAIT: Final = "Another process is writing to it: let it finish, then repeat."
_WRITABLE: Final = "Make the file and its folder writable, then repeat."
_ADVICE: Final = {
    sqlite3.SQLITE_BUSY: _WAIT,
    sqlite3.SQLITE_LOCKED: _WAIT,
    sqlite3.SQLITE_FULL: "Free disk space, then repeat.",
    sqlite3.SQLITE_IOERR: "Free disk space or mend the disk, then repeat.",
    sqlite3.SQLITE_READONLY: _WRITABLE,
    sqlite3.SQLITE_CANTOPEN: _WRITABLE,
    sqlite3.SQLITE_PERM: _WRITABLE,
    sqlite3.SQLITE_CORRUPT: _REPLACE,
    sqlite3.SQLITE_NOTADB: _REPLACE,
}
_UNCHANGED: Final = "Nothing was changed."


class Database:
    """One database's file.

    Args:
        path: The file.
        timeout_seconds: How long to wait for another process that is writing.
    """

    def __init__(self, path: Path, *, timeout_seconds: float = 10.0) -> None:
        self.path = path.absolute()
        self._timeout_seconds = timeout_seconds

    def create(self, statements: Sequence[tuple[str, Sequence[object]]]) -> None:
        """Puts a database at the path, complete, synced and of mode 0600, unless something is there.

        Args:
            statements: SQL and its values, which make the tables.

        Raises:
            StoreUnavailable: If that is impossible, or the log of a lost database lies there.
        """
        if self.path.exists():
            return
        with self._explained("cannot be made"):
            # A log without its file holds interactions of one that was moved away; a new file would swallow it.
            if self.path.with_name(self.path.name + "-wal").exists():
                raise StoreUnavailable(
                    f"The database {self.path.name} is missing, but its {self.path.name}-wal is there. {_UNCHANGED} Put the "
                    "file back beside it, or move the log away."
                )
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=self.path.parent, prefix=f".{self.path.name}.")  # mode 0600
            os.close(handle)
            try:
                with closing(sqlite3.connect(name, isolation_level=None)) as connection:
                    connection.execute("PRAGMA synchronous = OFF")  # nothing has to be safe before the one sync below
                    for statement, values in statements:
                        connection.execute(statement, values)
                    connection.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
                    connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
                    connection.execute("PRAGMA journal_mode = WAL")
                _sync(Path(name))
                with suppress(FileExistsError):  # another process was first
                    self.path.hardlink_to(name)
                _sync(self.path.parent)
            finally:
                Path(name).unlink(missing_ok=True)

    def verify(self) -> None:
        """Checks the file as a whole, if it is not large.

        Raises:
            StoreUnavailable: If it is damaged, of another version or of something else, or cannot be read.
        """
        with self.reading() as connection:
            if self.path.stat().st_size <= _CHECKED_BYTES:
                (fault,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
                if fault != "ok":
                    raise self._unusable("it is damaged", _REPLACE)

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """A connection whose queries all see one state.

        Raises:
            StoreUnavailable: If the file cannot be used or read.
        """
        with self._explained("cannot be read"), closing(self._opened()) as connection:
            connection.execute("BEGIN")
            yield connection

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """What is written inside is on the disk when the block is left, or, after an error, not at all.

        Raises:
            StoreUnavailable: If the file cannot be used or written.
        """
        with self._explained("could not be written"), closing(self._opened()) as connection:
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("BEGIN IMMEDIATE")
            yield connection  # an error leaves the transaction open, and closing the connection undoes it
            connection.execute("COMMIT")

    @contextmanager
    def deleting(self) -> Iterator[sqlite3.Connection]:
        """The same, and rows that are deleted inside are overwritten; `erase` does the rest.

        Raises:
            StoreUnavailable: If the file cannot be used or written.
        """
        with self.writing() as connection:
            connection.execute("PRAGMA secure_delete = ON")
            yield connection

    def erase(self) -> None:
        """Drops what free pages and the log still hold of rows that were deleted.

        Guarantee:
            No file of the database holds bytes of deleted rows when this returns.

        Raises:
            StoreUnavailable: If another process reads or writes, or the disk is full; the rows are deleted all the same.
        """
        with (
            self._explained("still holds traces of what was deleted", "The rows are deleted."),
            closing(self._opened()) as connection,
        ):
            connection.execute("VACUUM")
            (busy, *_) = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            if busy:
                raise StoreUnavailable(
                    f"The database {self.path.name} still holds traces of what was deleted in its log, because another "
                    "process reads it. The rows are deleted. Let it finish, then repeat."
                )

    def bytes_on_disk(self) -> int:
        """The size of the file and its log."""
        files = (self.path, self.path.with_name(self.path.name + "-wal"))
        return sum(file.stat().st_size for file in files if file.exists())

    def _opened(self) -> sqlite3.Connection:
        if not self.path.exists():
            raise StoreUnavailable(f"There is no database {self.path.name} yet. `tacit node ingest` makes one.")
        if self.path.stat().st_size == 0:
            raise self._unusable("the file is empty", _REPLACE)
        # Mode rw: SQLite must not make a file where there is none.
        connection = sqlite3.connect(
            f"{self.path.as_uri()}?mode=rw",
            uri=True,
            timeout=self._timeout_seconds,
            isolation_level=None,
            check_same_thread=False,
        )
        try:
            for name, expected in (("application_id", _APPLICATION_ID), ("user_version", SCHEMA_VERSION)):
                (found,) = connection.execute(f"PRAGMA {name}").fetchone()
                if found == expected:
                    continue
                if name == "application_id":
                    raise self._unusable("it is a database of something else", "Name another folder with --home.")
                raise self._unusable(
                    f"its schema has version {found}, this software knows {SCHEMA_VERSION}", "Use the version that wrote it."
                )
            connection.execute(f"PRAGMA cache_size = -{_CACHED_BYTES // 1024}")
            connection.execute(f"PRAGMA journal_size_limit = {_LARGEST_LOG_BYTES}")
            connection.execute("PRAGMA fullfsync = ON")  # macOS: without it the disk may keep a commit in its cache
        except BaseException:
            connection.close()
            raise
        return connection

    def _unusable(self, reason: str, advice: str) -> StoreUnavailable:
        return StoreUnavailable(f"The database {self.path.name} cannot be used ({reason}). {_UNCHANGED} {advice}")

    @contextmanager
    def _explained(self, what: str, consequence: str = _UNCHANGED) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            # The lower byte is the kind of error, the rest of it the place.
            code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
            reason, advice = str(error), _ADVICE.get(code, "Look at the file; it is never replaced silently.")
        except OSError as error:
            reason, advice = (
                error.strerror or type(error).__name__,
                "Make the folder writable or free disk space, then repeat.",
            )
        else:
            return
        raise StoreUnavailable(f"The database {self.path.name} {what} ({reason}). {consequence} {advice}")


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
