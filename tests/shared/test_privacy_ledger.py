"""The device's ledger: what is reserved counts whatever happens next, and a bad file is never replaced."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from shared.errors import PrivacyError
from shared.privacy.events import Event
from shared.privacy.ledger import Ledger

ROOT = Path(__file__).parent.parent.parent
EVENT = Event(1.5, 0.25, 4)
OTHER = Event(3.0, 1.0, 1)


def _python(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, timeout=60,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip


def test_reserved_counts_sent_counts_freed_does_not(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "new" / "ledger.sqlite")
    assert ledger.spent("client-0") == []
    first = ledger.reserve("client-0", [EVENT, OTHER], run="r", purpose="train", round_number=1)
    assert sorted(ledger.spent("client-0")) == sorted([EVENT, OTHER])
    ledger.freed(first[1:])
    assert ledger.spent("client-0") == [EVENT]
    ledger.sent(first[:1])
    assert ledger.spent("client-0") == [EVENT]


def test_what_was_sent_can_never_be_given_back(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.sqlite")
    identifiers = ledger.reserve("client-0", [EVENT], run="r", purpose="train", round_number=1)
    ledger.sent(identifiers)
    ledger.freed(identifiers)
    assert ledger.spent("client-0") == [EVENT]


def test_owners_are_kept_apart(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.sqlite")
    for owner, events in {"a": [EVENT], "b": [EVENT, EVENT], "c": [EVENT]}.items():
        ledger.reserve(owner, events, run="r", purpose="train", round_number=1)
    assert ledger.owners() == ["a", "b", "c"]
    assert [len(ledger.spent(owner)) for owner in "abc"] == [1, 2, 1]
    assert ledger.spent("d") == []
    assert ledger.largest_spending() == [[EVENT], [EVENT, EVENT]]


def test_it_survives_being_closed_and_two_processes_see_the_same(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    ledger = Ledger(path)
    ledger.reserve("a", [EVENT], run="r", purpose="train", round_number=1)
    second = Ledger(path)
    assert second.spent("a") == [EVENT]
    second.reserve("a", [OTHER], run="r", purpose="train", round_number=2)
    assert sorted(ledger.spent("a")) == sorted([EVENT, OTHER])
    ledger.close()
    second.close()
    assert len(Ledger(path).spent("a")) == 2


@pytest.mark.parametrize("end", ["os._exit(7)", "os.kill(os.getpid(), 9)"])
def test_a_process_killed_after_reserving_leaves_the_event_spent(tmp_path: Path, end: str) -> None:
    path = tmp_path / "ledger.sqlite"
    code = (
        "import os, sys; from pathlib import Path\n"
        "from shared.privacy.events import Event\n"
        "from shared.privacy.ledger import Ledger\n"
        "ledger, event = Ledger(Path(sys.argv[1])), Event(1.5, 0.25, 4)\n"
        "ledger.reserve('a', [event], run='r', purpose='train', round_number=1)\n"
        f"{end}"
    )
    done = _python(code, path)
    assert done.returncode in {7, -9}, done.stderr
    assert Ledger(path).spent("a") == [EVENT]


def test_many_processes_may_open_and_write_one_new_ledger_at_once(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    code = (
        "import sys; from pathlib import Path\n"
        "from shared.privacy.events import Event\n"
        "from shared.privacy.ledger import Ledger\n"
        "sys.stdin.readline()\n"
        "ledger = Ledger(Path(sys.argv[1]))\n"
        "event = Event(1.5, 0.25, 4)\n"
        "for n in range(10): ledger.reserve(sys.argv[2], [event], run='r', purpose='p', round_number=n)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    running = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(path), f"owner-{number}"],
            stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
        )
        for number in range(4)
    ]  # fmt: skip
    for process in running:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    assert [process.communicate(timeout=60)[1] for process in running] == [""] * 4
    ledger = Ledger(path)
    assert [len(ledger.spent(owner)) for owner in ledger.owners()] == [10] * 4


@pytest.mark.parametrize("content", [b"this is no database, but it is long enough to be looked at" * 20, b"\x00" * 5000])
def test_a_corrupt_file_is_refused_and_not_replaced(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "ledger.sqlite"
    path.write_bytes(content)
    with pytest.raises(
        PrivacyError,
        match=r"The privacy ledger ledger\.sqlite cannot be used \(.*\)\. No data was read\. Restore",
    ):
        Ledger(path)
    assert path.read_bytes() == content


def test_a_damaged_page_is_an_error_and_not_a_smaller_spending(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    ledger = Ledger(path)
    for number in range(200):
        ledger.reserve("a", [EVENT], run="r", purpose="train", round_number=number)
    ledger.close()
    content = bytearray(path.read_bytes())
    content[4096:] = b"\xa5" * (len(content) - 4096)  # the first page, with the schema, stays
    path.write_bytes(content)
    with pytest.raises(
        PrivacyError,
        match=r"The privacy ledger ledger\.sqlite cannot be (used|read) \(.*Restore it from a copy",
    ):
        Ledger(path).spent("a")


def test_a_database_of_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE events (name TEXT)")
    connection.close()
    with pytest.raises(PrivacyError, match=r"cannot be used \(.*no such column: owner\)\. No data was read"):
        Ledger(path)


def test_a_path_that_cannot_be_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path, tmp_path / "file" / "ledger.sqlite"):
        with pytest.raises(PrivacyError, match=r"The privacy ledger .* cannot be used \(.*\)\. No data was read"):
            Ledger(path)


def test_a_locked_ledger_refuses_to_reserve(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    ledger = Ledger(path, timeout_seconds=0.05)
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    message = r"The privacy ledger ledger\.sqlite could not be written \(database is locked\)\. Nothing was"
    with pytest.raises(PrivacyError, match=message):
        ledger.reserve("a", [EVENT], run="r", purpose="train", round_number=1)
    holder.execute("ROLLBACK")
    assert ledger.spent("a") == []
    ledger.reserve("a", [EVENT], run="r", purpose="train", round_number=1)
    assert ledger.spent("a") == [EVENT]


def test_a_full_disk_refuses_to_reserve(tmp_path: Path) -> None:
    """The limit on file sizes makes the kernel refuse the write, as a full disk does."""
    path = tmp_path / "ledger.sqlite"
    Ledger(path).close()
    code = (
        "import resource, signal, sys; from pathlib import Path\n"
        "from shared.errors import PrivacyError\n"
        "from shared.privacy.events import Event\n"
        "from shared.privacy.ledger import Ledger\n"
        "ledger = Ledger(Path(sys.argv[1]))\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))\n"
        "done, event = 0, Event(1.5, 0.25, 4)\n"
        "try:\n"
        "    for done in range(1000): ledger.reserve('a', [event], run='r', purpose='t', round_number=1)\n"
        "except PrivacyError as error: print(done, error)"
    )
    result = _python(code, path)
    done, message = result.stdout.split(" ", 1)
    assert "could not be written (" in message
    assert "Nothing was released" in message
    assert len(Ledger(path).spent("a")) == int(done) > 0


def test_an_error_while_reserving_leaves_nothing_half_written_or_locked(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.sqlite", timeout_seconds=0.05)
    with pytest.raises(OverflowError, match="too large"):
        ledger.reserve("a", [EVENT, Event(1.0, 1.0, 2**70)], run="r", purpose="train", round_number=1)
    assert ledger.spent("a") == []
    Ledger(tmp_path / "ledger.sqlite", timeout_seconds=0.05).reserve("a", [EVENT], run="r", purpose="train", round_number=1)
    assert ledger.spent("a") == [EVENT]
