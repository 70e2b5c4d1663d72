"""The mark beside a ledger: an older copy in its place is refused, and a crash never raises a false alarm."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from client.ledger.ledger import Ledger, Policy
from client.ledger.mark import LedgerMark
from shared.errors import BudgetExceeded, PrivacyError
from tests.ledgers import BINDING, EVENT, OTHER, gaussian_epsilon, python, reserve

OLDER = r"ledger\.sqlite is an older copy: what was spent since it was made is not in it\. No data was read\. Put the newest"


def _copy(path: Path) -> bytes:
    """The file as a backup holds it, without its log."""
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    return path.read_bytes()


def _restored(path: Path, content: bytes) -> None:
    for beside in ("-wal", "-shm"):
        path.with_name(path.name + beside).unlink(missing_ok=True)
    path.write_bytes(content)


CHANGES: dict[str, Callable[[Ledger], object]] = {
    "reserved": reserve,
    "limited": lambda ledger: ledger.set_policy(Policy(rounds_at_most=20)),
    "sent": lambda ledger: ledger.sent(reserve(ledger)),
    "given back": lambda ledger: ledger.freed(reserve(ledger)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_copy_that_was_made_before_the_last_change_is_refused(path: Path, change: str) -> None:
    """By every process that opens it for a run or to set limits; the copy itself is sound, and stays as it is."""
    ledger = Ledger(path, binding=BINDING)
    reserve(ledger)
    ledger.close()
    copy = _copy(path)
    again = Ledger(path, binding=BINDING)
    CHANGES[change](again)
    again.close()
    _restored(path, copy)
    with pytest.raises(PrivacyError, match=OLDER):
        Ledger(path, binding=BINDING)
    with pytest.raises(PrivacyError, match=OLDER):
        Ledger(path).set_policy(None)
    with pytest.raises(PrivacyError, match=OLDER):
        Ledger(path).verify_newest()
    assert Ledger(path).spent("a") == [EVENT]  # its owner may look at it


def test_the_newest_copy_is_taken(path: Path) -> None:
    """The negative control."""
    ledger = Ledger(path, binding=BINDING)
    reserve(ledger)
    ledger.close()
    _restored(path, _copy(path))
    again = Ledger(path, binding=BINDING)
    again.verify_newest()
    reserve(again)
    assert again.spent("a") == [EVENT, EVENT]


def test_a_process_that_has_the_ledger_open_notices_without_a_mark(path: Path) -> None:
    """The file keeps its place on the disk, so that nothing else could tell."""
    ledger = Ledger(path, binding=BINDING)
    copy = _copy(path)
    reserve(ledger)
    ledger.close()
    path.with_name("ledger.sqlite.mark").unlink()
    _restored(path, copy)
    with pytest.raises(PrivacyError, match=OLDER):
        reserve(ledger)


def test_an_owner_who_deletes_the_mark_goes_on_with_the_older_copy(path: Path) -> None:
    ledger = Ledger(path, binding=BINDING)
    copy = _copy(path)
    reserve(ledger)
    ledger.close()
    _restored(path, copy)
    path.with_name("ledger.sqlite.mark").unlink()
    reserve(Ledger(path, binding=BINDING), OTHER)
    assert Ledger(path).spent("a") == [OTHER]


def test_another_ledger_under_the_same_name_is_refused(path: Path, tmp_path: Path) -> None:
    Ledger(path, binding=BINDING).close()
    other = tmp_path / "other.sqlite"
    ledger = Ledger(other, binding=BINDING)
    for _ in range(9):
        reserve(ledger)
    ledger.close()
    _restored(path, _copy(other))
    with pytest.raises(PrivacyError, match=r"ledger\.sqlite is not the one that was kept here\. No data was read"):
        Ledger(path, binding=BINDING)


def test_a_ledger_that_was_deleted_is_not_begun_anew(path: Path) -> None:
    """Else whoever deletes it would restart the budget of the same users by accident."""
    Ledger(path, binding=BINDING).close()
    for beside in ("", "-wal", "-shm"):
        path.with_name(path.name + beside).unlink(missing_ok=True)
    for make in (lambda: Ledger(path, binding=BINDING), lambda: Ledger(path).set_policy(Policy(epsilon=1.0))):
        with pytest.raises(PrivacyError, match=r"ledger\.sqlite is missing, but its mark is there\. No data was read"):
            make()
    assert not path.exists()


@pytest.mark.parametrize("content", [b"", b"tacit-ledger-mark", b"\xff" * 90, b"tacit-ledger-mark x 99 00000000\n"])
def test_a_torn_mark_is_written_again_and_stops_nobody(path: Path, content: bytes) -> None:
    ledger = Ledger(path, binding=BINDING)
    reserve(ledger)
    mark = path.with_name("ledger.sqlite.mark")
    whole = mark.read_bytes()
    mark.write_bytes(content)
    reserve(ledger)
    assert len(mark.read_bytes().splitlines()[0]) == len(whole) - 1
    copy = _copy(path)
    reserve(ledger)
    ledger.close()
    _restored(path, copy)
    with pytest.raises(PrivacyError, match=OLDER):
        Ledger(path, binding=BINDING)


def test_a_mark_that_is_behind_after_a_crash_raises_no_alarm(path: Path) -> None:
    """A process that is killed after the commit leaves the mark of the write before."""
    mark = path.with_name("ledger.sqlite.mark")
    ledger = Ledger(path, binding=BINDING)
    reserve(ledger)
    behind = mark.read_bytes()
    reserve(ledger)
    ledger.close()
    mark.write_bytes(behind)
    assert len(Ledger(path, binding=BINDING).spent("a")) == 2


def test_a_mark_that_cannot_be_written_stops_nobody(path: Path) -> None:
    ledger = Ledger(path, binding=BINDING)
    mark = path.with_name("ledger.sqlite.mark")
    mark.unlink()
    mark.mkdir()
    reserve(ledger)
    assert ledger.spent("a") == [EVENT]


def test_a_whole_folder_that_was_restored_cannot_be_told_from_the_newest(path: Path, tmp_path: Path) -> None:
    """What the module says that it cannot see: the mark was restored too, and the limit lets too much through."""
    ledger = Ledger(path, binding=BINDING)
    ledger.set_policy(Policy(epsilon=gaussian_epsilon([OTHER], 1e-5) + 0.05))
    ledger.close()
    shutil.copytree(path.parent, tmp_path / "backup")
    for _ in range(2):
        python("reserve(Ledger(PATH, binding=BINDING), event=Event(3.0))", path)
        shutil.copytree(tmp_path / "backup", path.parent, dirs_exist_ok=True)
        for beside in ("-wal", "-shm"):
            path.with_name(path.name + beside).unlink(missing_ok=True)
    reserve(Ledger(path, binding=BINDING), OTHER)
    with pytest.raises(BudgetExceeded):
        reserve(Ledger(path, binding=BINDING), OTHER)


def test_the_mark_holds_neither_the_identity_nor_a_count_of_one_run(path: Path) -> None:
    mark = LedgerMark(path)
    mark.advance("secret-identity", 7)
    words = path.with_name("ledger.sqlite.mark").read_text().split()
    assert words[0] == "tacit-ledger-mark"
    assert int(words[2]) == 7
    assert "secret-identity" not in " ".join(words)
    mark.verify("secret-identity", 7)
