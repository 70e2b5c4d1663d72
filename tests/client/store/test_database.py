"""The file under a node's interactions: whatever is wrong with it or its disk is one line, and nothing is lost."""

from __future__ import annotations

import sqlite3
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from client.store.database import Database
from shared.errors import StoreUnavailable
from tests.running import ROOT

TABLES = (("CREATE TABLE t (x BLOB)", ()), ("INSERT INTO t VALUES (?)", (b"first",)))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "node" / "interactions.sqlite"


@pytest.fixture
def database(path: Path) -> Database:
    database = Database(path, timeout_seconds=0.05)
    database.create(TABLES)
    return database


def content(database: Database) -> list[bytes]:
    with database.reading() as connection:
        return [row[0] for row in connection.execute("SELECT x FROM t ORDER BY rowid")]


def refusal(database: Database) -> str:
    with pytest.raises(StoreUnavailable) as caught:
        database.verify()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_new_database_is_for_its_owner_alone_and_so_is_its_log(database: Database, path: Path) -> None:
    with database.writing() as connection:
        connection.execute("INSERT INTO t VALUES (x'00')")
        for file in (path, path.with_name(path.name + "-wal"), path.with_name(path.name + "-shm")):
            assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert sorted(file.name for file in path.parent.iterdir()) == [path.name]


def test_making_it_again_changes_nothing(database: Database) -> None:
    database.create(TABLES)
    assert content(database) == [b"first"]


def test_a_transaction_that_fails_changes_nothing(database: Database) -> None:
    with pytest.raises(ZeroDivisionError), database.writing() as connection:
        connection.execute("INSERT INTO t VALUES (x'00')")
        raise ZeroDivisionError
    assert content(database) == [b"first"]


def test_a_database_that_is_missing_says_what_makes_one(path: Path) -> None:
    assert refusal(Database(path)) == "There is no database interactions.sqlite yet. `tacit node ingest` makes one."
    assert not path.exists()


def test_an_empty_file_was_a_database_once(database: Database, path: Path) -> None:
    path.write_bytes(b"")
    assert refusal(database) == (
        "The database interactions.sqlite cannot be used (the file is empty). Nothing was changed. Restore it from a copy, "
        "or move it away and ingest again; it is never replaced silently."
    )
    database.create(TABLES)
    assert path.read_bytes() == b""


def test_a_damaged_header_is_told_and_the_file_is_left_as_it_is(database: Database, path: Path) -> None:
    damaged = b"\0" * 16 + path.read_bytes()[16:]
    path.write_bytes(damaged)
    assert refusal(database).startswith(
        "The database interactions.sqlite cannot be read (file is not a database). Nothing was changed. Restore it"
    )
    assert path.read_bytes() == damaged


def test_a_damaged_page_is_told(database: Database, path: Path) -> None:
    with database.writing() as connection:
        connection.executemany("INSERT INTO t VALUES (?)", [(bytes(1000),)] * 100)
    content = bytearray(path.read_bytes())
    content[8192:8300] = b"\xff" * 108
    path.write_bytes(content)
    assert "Restore it from a copy" in refusal(database)


@pytest.mark.parametrize(
    ("statement", "reason"),
    [
        (
            "PRAGMA user_version = 7",
            "its schema has version 7, this software knows 1). Nothing was changed. Use the",
        ),
        ("PRAGMA application_id = 7", "it is a database of something else). Nothing was changed. Name another folder"),
    ],
)
def test_another_version_and_something_else_are_refused(database: Database, path: Path, statement: str, reason: str) -> None:
    connection = sqlite3.connect(path)
    connection.execute(statement)
    connection.commit()
    connection.close()
    assert reason in refusal(database)
    with pytest.raises(StoreUnavailable, match="cannot be used"), database.writing():
        pytest.fail("it was opened")


def test_a_log_without_its_file_is_not_swallowed_by_a_new_one(path: Path) -> None:
    path.parent.mkdir()
    log = path.with_name(path.name + "-wal")
    log.write_bytes(b"somebody's")
    with pytest.raises(StoreUnavailable, match=r"is missing, but its interactions\.sqlite-wal is there"):
        Database(path).create(TABLES)
    assert not path.exists() and log.read_bytes() == b"somebody's"


def test_a_locked_database_waits_and_then_says_so(database: Database, path: Path) -> None:
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreUnavailable) as caught, database.writing():
        pytest.fail("it was opened")
    assert str(caught.value) == (
        "The database interactions.sqlite could not be written (database is locked). Nothing was changed. Another process "
        "is writing to it: let it finish, then repeat."
    )
    assert content(database) == [b"first"]  # reading goes on meanwhile
    holder.execute("ROLLBACK")
    holder.close()
    with database.writing() as connection:
        connection.execute("INSERT INTO t VALUES (x'00')")
    assert content(database) == [b"first", b"\0"]


def test_a_full_database_keeps_what_it_had(database: Database) -> None:
    """SQLite's own limit on pages gives the error of a full disk."""
    with pytest.raises(StoreUnavailable) as caught, database.writing() as connection:
        connection.execute("PRAGMA max_page_count = 1")  # is raised to what is in use
        connection.executemany("INSERT INTO t VALUES (?)", [(bytes(1000),)] * 1000)
    assert str(caught.value) == (
        "The database interactions.sqlite could not be written (database or disk is full). Nothing was changed. Free disk "
        "space, then repeat."
    )
    assert content(database) == [b"first"]


def python(code: str, path: Path) -> str:
    """What a process of its own prints."""
    head = (
        "import os, sys\nfrom pathlib import Path\nfrom client.store.database import Database\n"
        "from shared.errors import StoreUnavailable\nPATH = Path(sys.argv[1])\n"
    )
    command = [sys.executable, "-c", head + code, str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout.strip()


def test_a_full_disk_keeps_what_it_had(database: Database, path: Path) -> None:
    """The limit on file sizes makes the kernel refuse the write, as a full disk does."""
    code = (
        "import resource, signal\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (80_000, 80_000))\n"
        "try:\n"
        "    with Database(PATH).writing() as connection:\n"
        "        connection.executemany('INSERT INTO t VALUES (?)', [(bytes(1000),)] * 1000)\n"
        "except StoreUnavailable as error: print(error)\n"
    )
    assert python(code, path) == (
        "The database interactions.sqlite could not be written (disk I/O error). Nothing was changed. Free disk space or "
        "mend the disk, then repeat."
    )
    database.verify()
    assert content(database) == [b"first"]


@pytest.mark.parametrize("what", ["file", "folder", "new"])
def test_a_database_that_may_not_be_written_says_so(what: str) -> None:
    """As an ordinary user, because permissions do not hold for root."""
    with tempfile.TemporaryDirectory() as name:  # pytest's own folders are closed to other users
        folder = Path(name) / "folder"
        folder.mkdir()
        path = folder / "interactions.sqlite"
        if what != "new":
            Database(path).create(TABLES)
            path.chmod(0o666 if what == "folder" else 0o444)
        Path(name).chmod(0o755)
        folder.chmod(0o777 if what == "file" else 0o555)
        code = (
            "if os.geteuid() == 0: os.setresuid(65534, 65534, 65534)\n"
            "try:\n"
            "    database = Database(PATH)\n"
            "    database.create([('CREATE TABLE t (x BLOB)', ())])\n"
            "    with database.writing() as connection: connection.execute(\"INSERT INTO t VALUES (x'00')\")\n"
            "    print('written')\n"
            "except StoreUnavailable as error: print(error)\n"
        )
        said = python(code, path)
        folder.chmod(0o755)
        assert said.startswith("The database interactions.sqlite c")
        assert ". Nothing was changed. Make the f" in said
        if what != "new":
            assert content(Database(path)) == [b"first"]


def test_what_was_deleted_is_in_no_file_once_it_is_erased(database: Database, path: Path) -> None:
    log = path.with_name(path.name + "-wal")
    reader = sqlite3.connect(path)
    reader.execute("SELECT * FROM t").fetchall()  # as long as it is open, the log's file is there
    with database.writing() as connection:
        connection.executemany("INSERT INTO t VALUES (?)", [(b"secret-%d" % number * 50,) for number in range(500)])
    reader.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
    with database.writing() as connection:
        # Some builds of SQLite overwrite by default, and none overwrites what moved from page to page.
        connection.execute("PRAGMA secure_delete = OFF")
        connection.execute("DELETE FROM t WHERE x <> ?", (b"first",))
    assert all(b"secret-" in file.read_bytes() for file in (path, log))
    database.erase()
    assert not any(b"secret-" in file.read_bytes() for file in path.parent.iterdir())
    assert log.exists()
    reader.close()
    assert content(database) == [b"first"]


def test_erasing_while_another_process_reads_says_that_traces_are_left(database: Database, path: Path) -> None:
    with database.writing() as connection:
        connection.execute("DELETE FROM t")
    reader = sqlite3.connect(path, isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT * FROM t").fetchall()
    with pytest.raises(StoreUnavailable, match=r"still holds traces of what was deleted.*The rows are deleted.*then repeat"):
        database.erase()
    reader.close()
    database.erase()
