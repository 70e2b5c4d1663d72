"""Bad files, disks and folders: a ledger that cannot be used is refused, and never replaced."""

from __future__ import annotations

import sqlite3
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest

from client.ledger.ledger import Ledger, Policy, Spending
from shared.errors import PrivacyError
from tests.ledgers import BINDING, EVENT, open_connections, python, reserve, reserve_all


def test_reservations_and_limits_are_synced_to_the_disk(tmp_path: Path) -> None:
    """`kill -9` cannot show it, because the kernel keeps what a dead process wrote: the setting is looked at instead."""
    path = tmp_path / "synced.sqlite"
    ledger = Ledger(path, binding=BINDING)
    (connection,) = open_connections(path)
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    synchronous = {}
    for name, call in {
        "reserve": lambda: reserve(ledger),
        "sent": lambda: ledger.sent([1]),
        "reserve again": lambda: reserve(ledger),
        "freed": lambda: ledger.freed([2]),
        "reserve_all": lambda: reserve_all(ledger, [Spending("a", [EVENT])], [Spending("b", [EVENT])]),
        "record_faults": lambda: ledger.record_faults([("a", "missing")], run="r", round_number=1),
        "set_policy": lambda: ledger.set_policy(Policy()),
    }.items():
        call()
        synchronous[name] = connection.execute("PRAGMA synchronous").fetchone()[0]
    full, normal = 2, 1  # normal: a power cut may turn sent or freed events into reserved ones, which count
    assert synchronous == {
        "reserve": full, "sent": normal, "reserve again": full, "freed": normal, "reserve_all": full,
        "record_faults": normal, "set_policy": full,
    }  # fmt: skip
    ledger.close()


def _refused(path: Path, message: str) -> None:
    """Refuses to open, and leaves everything in the folder as it was."""
    before = {found: found.read_bytes() for found in path.parent.iterdir() if found.is_file()}
    for binding in (BINDING, None):
        with pytest.raises(PrivacyError, match=message):
            Ledger(path, binding=binding)
    after = {found: found.read_bytes() for found in path.parent.iterdir() if found.is_file()}
    assert {found: content for found, content in after.items() if not found.name.endswith(("-wal", "-shm"))} == before


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"this is no database, but it is long enough to be looked at" * 20, "file is not a database"),
        (b"\x00" * 5000, "file is not a database"),
        (b"", "the file is empty"),
    ],
)
def test_a_file_that_is_no_database_is_refused_and_not_replaced(path: Path, content: bytes, reason: str) -> None:
    path.write_bytes(content)
    _refused(
        path,
        rf"The privacy ledger ledger\.sqlite cannot be used \({reason}\)\. No data was read\. Restore it from a copy; a "
        "ledger is never replaced silently",
    )


def _full_ledger(path: Path) -> bytearray:
    ledger = Ledger(path, binding=BINDING)
    for number in range(200):
        reserve(ledger, round_number=number)
    ledger.close()
    return bytearray(path.read_bytes())


@pytest.mark.parametrize("damage", ["overwritten", "truncated", "zeroed"])
def test_a_damaged_file_is_refused_and_not_replaced(path: Path, damage: str) -> None:
    content = _full_ledger(path)
    half = len(content) // 8192 * 4096
    if damage == "truncated":
        del content[half:]
    else:
        content[half : half + 4096] = (b"\xa5" if damage == "overwritten" else b"\x00") * 4096
    path.write_bytes(content)
    _refused(path, r"The privacy ledger ledger\.sqlite cannot be used \(.+\)\. No data was read\. Restore it from a copy")


def test_an_index_that_has_lost_entries_is_an_error_and_not_a_smaller_spending(path: Path) -> None:
    _full_ledger(path)
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute("UPDATE sqlite_master SET sql = sql || ' WHERE id > 100' WHERE name = 'events_by_owner'")
    connection.close()
    with sqlite3.connect(path) as connection:  # writes the index anew, with half of the entries, and hides that
        connection.execute("REINDEX")
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute(
            "UPDATE sqlite_master SET sql = replace(sql, ' WHERE id > 100', '') WHERE name = 'events_by_owner'"
        )
    connection.close()
    with sqlite3.connect(path) as connection:
        seen = "SELECT COUNT(*) FROM events INDEXED BY events_by_owner WHERE owner = 'a'"
        assert connection.execute(seen).fetchone() == (100,)  # of 200
    connection.close()
    _refused(path, r"cannot be used \(row 1 missing from index events_by_owner\)\. No data was read\. Restore")


def test_a_database_of_something_else_is_refused(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE events (name TEXT)")
    connection.close()
    _refused(path, r"cannot be used \(it is a database of something else\)\. No data was read\. Name the file of a ledger")


def test_a_ledger_of_a_newer_version_is_refused(ledger: Ledger, path: Path) -> None:
    ledger.close()
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 7")
    connection.close()
    _refused(
        path, r"cannot be used \(its schema has version 7, this software knows 3\)\. No data.*Use the version that wrote it"
    )


def test_a_path_that_cannot_be_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(PrivacyError, match=r"The privacy ledger .* cannot be used \(.*\)\. No data was read"):
        Ledger(tmp_path, binding=BINDING)
    with pytest.raises(PrivacyError, match=r"cannot be used \(File exists\)\. No data was read"):
        Ledger(tmp_path / "file" / "ledger.sqlite", binding=BINDING)


def test_the_log_of_a_lost_ledger_is_not_swallowed_by_a_new_one(path: Path) -> None:
    ledger = Ledger(path, binding=BINDING)
    reserve(ledger)
    path.rename(path.with_name("moved"))
    with pytest.raises(
        PrivacyError, match=r"ledger\.sqlite is missing, but its ledger\.sqlite-wal is there\. No data was read"
    ):
        Ledger(path, binding=BINDING)
    assert not path.exists()
    path.with_name("moved").rename(path)
    assert Ledger(path).spent("a") == [EVENT]


def test_a_ledger_that_is_replaced_while_it_is_open_is_refused(ledger: Ledger, path: Path, tmp_path: Path) -> None:
    Ledger(tmp_path / "another", binding=replace(BINDING, data_name="something else")).close()
    (tmp_path / "another").replace(path)
    with pytest.raises(PrivacyError, match=r"ledger\.sqlite was replaced while it was in use\. No data was read"):
        reserve(ledger)
    ledger.close()
    with pytest.raises(PrivacyError, match=r"ledger\.sqlite was replaced while it was in use\. No data was read"):
        reserve(ledger)


def test_a_locked_ledger_refuses_to_reserve(path: Path) -> None:
    ledger = Ledger(path, binding=BINDING, timeout_seconds=0.05)
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    with pytest.raises(PrivacyError) as caught:
        reserve(ledger)
    assert str(caught.value) == (
        "The privacy ledger ledger.sqlite could not be written (database is locked). No data was read. Another process is "
        "writing to it: let it finish, then repeat."
    )
    assert ledger.spent("a") == []
    holder.execute("ROLLBACK")
    holder.close()
    reserve(ledger)
    assert ledger.spent("a") == [EVENT]


def test_a_full_database_refuses_to_reserve(path: Path) -> None:
    """SQLite's own limit on pages gives the error of a full disk."""
    ledger = Ledger(path, binding=BINDING)
    for connection in open_connections(path):
        connection.execute("PRAGMA max_page_count = 1")  # is raised to what is in use
    message = r"could not be written \(database or disk is full\)\. No data was read\. Free disk space"
    with pytest.raises(PrivacyError, match=message):
        for _ in range(1000):
            reserve(ledger, *[EVENT] * 20)
    assert len(ledger.spent("a")) % 20 == 0


def test_a_full_disk_refuses_to_reserve(path: Path) -> None:
    """The limit on file sizes makes the kernel refuse the write, as a full disk does."""
    code = (
        "import resource, signal\n"
        "ledger, done = Ledger(PATH, binding=BINDING), 0\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (80_000, 80_000))\n"
        "try:\n"
        "    for done in range(1000): reserve(ledger)\n"
        "except PrivacyError as error: say(done, error); os._exit(0)\n"
    )
    done, message = python(code, path).split(" ", 1)
    assert message == (
        "The privacy ledger ledger.sqlite could not be written (disk I/O error). No data was read. Free disk space or mend "
        "the disk, then repeat.\n"
    )
    assert len(Ledger(path).spent("a")) == int(done) > 0


@pytest.mark.parametrize("what", ["file", "folder", "new"])
def test_a_ledger_that_may_not_be_written_refuses_to_reserve(what: str) -> None:
    """As an ordinary user, because permissions do not hold for root."""
    with tempfile.TemporaryDirectory() as name:  # pytest's own folders are closed to other users
        folder = Path(name) / "folder"
        folder.mkdir()
        path = folder / "ledger.sqlite"
        if what != "new":
            Ledger(path, binding=BINDING).close()
            path.chmod(0o666 if what == "folder" else 0o444)
        Path(name).chmod(0o755)
        folder.chmod(0o777 if what == "file" else 0o555)
        code = (
            "import shared.privacy.accounting\n"
            "if os.geteuid() == 0: os.setresuid(65534, 65534, 65534)\n"
            "try: reserve(Ledger(PATH, binding=BINDING)); say('reserved')\n"
            "except PrivacyError as error: say(error)\n"
        )
        message = python(code, path)
        folder.chmod(0o755)
        assert message.startswith("The privacy ledger ledger.sqlite c")
        assert ". No data was read. Make the f" in message
        if what != "new":
            assert Ledger(path).spent("a") == []
