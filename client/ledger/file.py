"""The file under a ledger: SQLite in WAL mode that is complete or refused, and whose commits are on the disk.

What lives here: making, opening and checking the file, transactions, and one clear line for whatever SQLite or the disk
says. What never does: what the rows mean (`ledger.py`). Why SQLite: a commit is atomic, and synced where that matters
(`synchronous = FULL`); a process killed at any moment leaves the last commit; several processes may write in turn.

* A new file is made under a temporary name and linked to its own when it is complete, so that nobody meets half of one and
  two processes that make it at once end with the same. For the same reason an empty file is refused: it was a ledger once.
* `PRAGMA integrity_check` runs at every opening of a file of up to `_CHECKED_BYTES`: unlike `quick_check` it notices an
  index that has lost entries, which would hide events. In a larger file SQLite checks each page when it is read, and a
  damaged one refuses then. There are no checksums over content: a digit that the disk changed in a well-formed page is not
  noticed.
* Each write that matters counts the ledger's revision on, and a mark beside the file remembers it (`mark.py`), so
  that an older copy is refused.
* A connection must not cross a fork, not even to be closed (sqlite.org, "How To Corrupt An SQLite Database File", section
  on fork). All of this process are closed before it forks, and opened again when they are needed.
"""

from __future__ import annotations

import os
import sqlite3
import tempfile
import threading
import weakref
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any

from client.ledger.mark import LedgerMark
from client.ledger.schema import SCHEMA_VERSION, lay_out, migrate, rolled_back_on_error, version_of
from shared.errors import PrivacyError

# Of a file with many owners that much is kept in memory: their entries lie anywhere in it. A small file takes less.
_CACHED_BYTES = 64 * 2**20
# Checking that much takes about 0.2 s.
_CHECKED_BYTES = 32 * 2**20

_ADVICE = {
    sqlite3.SQLITE_BUSY: "Another process is writing to it: let it finish, then repeat.",
    sqlite3.SQLITE_LOCKED: "Another process is writing to it: let it finish, then repeat.",
    sqlite3.SQLITE_FULL: "Free disk space, then repeat.",
    sqlite3.SQLITE_IOERR: "Free disk space or mend the disk, then repeat.",
    sqlite3.SQLITE_READONLY: "Make the file and its folder writable, then repeat.",
    sqlite3.SQLITE_CANTOPEN: "Make the file and its folder writable, then repeat.",
    sqlite3.SQLITE_PERM: "Make the file and its folder writable, then repeat.",
    sqlite3.SQLITE_CORRUPT: "Restore it from a copy; a ledger is never replaced silently.",
    sqlite3.SQLITE_NOTADB: "Restore it from a copy; a ledger is never replaced silently.",
}

# One for all files of the process: a fork waits until no transaction is under way, and none starts before it is done.
_LOCK = threading.RLock()
_FILES: weakref.WeakSet[LedgerFile] = weakref.WeakSet()


class LedgerFile:
    """One ledger's file; connections are made when they are needed.

    Args:
        path: The file.
        timeout_seconds: How long to wait for another process that is writing.
    """

    def __init__(self, path: Path, *, timeout_seconds: float) -> None:
        self.path = path.absolute()
        self._timeout_seconds = timeout_seconds
        self._connection: sqlite3.Connection | None = None
        self._place: tuple[int, int] | None = None
        self._mark = LedgerMark(self.path)
        _FILES.add(self)

    def create(self) -> None:
        """Puts a ledger without events at the path, complete and synced, unless something is there.

        Raises:
            PrivacyError: If that is impossible, or parts of a lost ledger lie there.
        """
        with self._explained("cannot be used", "No data was read."):
            # A log without its file holds events of a ledger that was moved away; a new file would swallow it. The log is
            # looked for first: another process that makes the ledger now makes the file before the log.
            if self._beside("-wal").exists() and not self.path.exists():
                raise PrivacyError(
                    f"The privacy ledger {self.path.name} is missing, but its {self.path.name}-wal is there. No data was "
                    "read. Put the file back beside it; a ledger is never replaced silently."
                )
            if self.path.exists():
                return
            if self._mark.exists():
                raise PrivacyError(
                    f"The privacy ledger {self.path.name} is missing, but its mark is there. No data was read. Put the file "
                    "back beside it; a ledger is never replaced silently."
                )
            self.path.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=self.path.parent, prefix=f".{self.path.name}.")
            os.close(handle)
            try:
                _write_new(name)
                with suppress(FileExistsError):  # another process was first
                    self.path.hardlink_to(name)
            finally:
                Path(name).unlink(missing_ok=True)
            _sync(self.path.parent)

    def close(self) -> None:
        """Closes the file; using it again opens it again."""
        with _LOCK:
            self._disconnect()

    def alone(self) -> AbstractContextManager[bool]:
        """No other thread of this process uses a ledger's file, and none forks, until the block is left."""
        return _LOCK

    def open(self) -> None:
        """Opens and checks the file, which must exist.

        Raises:
            PrivacyError: If it cannot be used.
        """
        with _LOCK:
            self._connect()

    def read(self, query: str, *values: str | int | None) -> list[Any]:
        """All rows of one query.

        Raises:
            PrivacyError: If the file cannot be used or read.
        """
        with _LOCK, self._explained("cannot be read", "Nothing was released."):
            return self._connect().execute(query, values).fetchall()

    def transaction(self, consequence: str) -> AbstractContextManager[sqlite3.Connection]:
        """What is written inside is on the disk when the block is left, or, after an error, not at all.

        Args:
            consequence: What the reader of an error has to know, in a sentence.

        Raises:
            PrivacyError: If the file cannot be used or written, or is an older copy of what was here.
        """
        return self._counted(consequence)

    def verify_newest(self) -> None:
        """Raises if the file is an older copy of the ledger that was here.

        Raises:
            PrivacyError: If it is, or cannot be read.
        """
        with self._transaction("NORMAL", "Nothing was released.") as connection:
            self._mark.verify(*connection.execute("SELECT identity, revision FROM binding").fetchone())

    @contextmanager
    def _counted(self, consequence: str) -> Iterator[sqlite3.Connection]:
        """A transaction that is synced, counts the revision on, and leaves a mark of it."""
        with self._transaction("FULL", consequence) as connection:
            identity, revision = connection.execute("SELECT identity, revision FROM binding").fetchone()
            self._mark.verify(identity, revision)
            yield connection
            connection.execute("UPDATE binding SET revision = ?", (revision + 1,))
        self._mark.advance(identity, revision + 1)

    def transaction_without_sync(self, consequence: str) -> AbstractContextManager[sqlite3.Connection]:
        """The same for what may be lost when the power fails (not when a process is killed), without waiting for the disk.

        The next `transaction` syncs what was written here, too.
        """
        return self._transaction("NORMAL", consequence)

    @contextmanager
    def _transaction(self, synchronous: str, consequence: str) -> Iterator[sqlite3.Connection]:
        with _LOCK, self._explained("could not be written", consequence):
            connection = self._connect()
            connection.execute(f"PRAGMA synchronous = {synchronous}")
            connection.execute("BEGIN IMMEDIATE")
            with rolled_back_on_error(connection):
                yield connection
                connection.execute("COMMIT")

    def _connect(self) -> sqlite3.Connection:
        with self._explained("cannot be used", "No data was read."):
            if not self.path.exists():
                raise PrivacyError(
                    f"There is no privacy ledger {self.path.name}. No data was read. The first private run writes one, and "
                    "so does `tacit node budget set-limit`."
                )
            status = self.path.stat()
            place = (status.st_dev, status.st_ino)
            if self._place not in {None, place}:
                # What is written now would go into a file that nobody finds again, or that is about something else.
                raise PrivacyError(
                    f"The privacy ledger {self.path.name} was replaced while it was in use. No data was read. Put the "
                    "former file back, or start this process again."
                )
            if self._connection is None:
                self._connection = self._opened(status.st_size)
                self._place = place
            return self._connection

    def _opened(self, size: int) -> sqlite3.Connection:
        if size == 0:
            raise self._unusable("the file is empty", _ADVICE[sqlite3.SQLITE_NOTADB])
        # Mode rw: SQLite must not make a file where there is none.
        connection = sqlite3.connect(
            f"{self.path.as_uri()}?mode=rw",
            uri=True,
            timeout=self._timeout_seconds,
            isolation_level=None,
            check_same_thread=False,
        )
        try:
            if size <= _CHECKED_BYTES:
                (fault,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
                if fault != "ok":
                    raise self._unusable(" ".join(str(fault).split()), _ADVICE[sqlite3.SQLITE_CORRUPT])
            self._verify_schema(connection)
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute(f"PRAGMA cache_size = -{_CACHED_BYTES // 1024}")
            connection.execute("PRAGMA fullfsync = ON")  # macOS: without it the disk may keep a commit in its cache
        except BaseException:
            connection.close()
            raise
        return connection

    def _verify_schema(self, connection: sqlite3.Connection) -> None:
        migrate(connection)
        version = version_of(connection)
        if version is None:
            raise self._unusable("it is a database of something else", "Name the file of a ledger.")
        if version != SCHEMA_VERSION:
            raise self._unusable(
                f"its schema has version {version}, this software knows {SCHEMA_VERSION}", "Use the version that wrote it."
            )

    def _unusable(self, reason: str, advice: str) -> PrivacyError:
        return PrivacyError(f"The privacy ledger {self.path.name} cannot be used ({reason}). No data was read. {advice}")

    @contextmanager
    def _explained(self, what: str, consequence: str) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            # The lower byte is the kind of error, the rest of it the place.
            code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
            advice = _ADVICE.get(code, "Look at the file; a ledger is never replaced silently.")
            message = f"The privacy ledger {self.path.name} {what} ({error}). {consequence} {advice}"
        except OSError as error:
            advice = "Make the folder writable or free disk space, then repeat."
            message = f"The privacy ledger {self.path.name} {what} ({error.strerror}). {consequence} {advice}"
        else:
            return
        raise PrivacyError(message)

    def _beside(self, suffix: str) -> Path:
        return self.path.with_name(self.path.name + suffix)

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _write_new(name: str) -> None:
    """A complete ledger without events; nothing has to be safe before the one sync at the end."""
    connection = sqlite3.connect(name, isolation_level=None)
    try:
        connection.execute("PRAGMA synchronous = OFF")
        lay_out(connection)
        connection.execute("PRAGMA journal_mode = WAL")
    finally:
        connection.close()
    _sync(Path(name))


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _before_fork() -> None:
    _LOCK.acquire()
    for file in _FILES:
        file._disconnect()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_LOCK.release, after_in_child=_LOCK.release)
