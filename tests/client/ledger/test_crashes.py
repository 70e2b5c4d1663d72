"""Processes that are killed, fork, or use one ledger at once: what was promised to be reserved stays so."""

from __future__ import annotations

import signal
import threading
from pathlib import Path

import pytest

from client.ledger.ledger import Ledger
from shared.errors import PrivacyError
from shared.privacy.events import Event
from tests.ledgers import BINDING, EVENT, OTHER, python, reserve, start, states_of

_STEP_BY_STEP = """
import signal, sqlite3
left, connect = 0, sqlite3.connect
def trace(statement):
    global left
    left -= 1
    if left == 0: os.kill(os.getpid(), signal.SIGKILL)
def watched(*arguments, **options):
    connection = connect(*arguments, **options)
    connection.set_trace_callback(trace)
    return connection
sqlite3.connect = watched
def work():
    ledger = Ledger(Path("ledger.sqlite"), binding=BINDING)
    say("open")
    identifiers = reserve(ledger)
    say("reserved")
    say("read")
    ledger.sent(identifiers)
    say("sent")
    ledger.close()
    say("closed")
for number in range(1, 200):
    folder = PATH / str(number)
    folder.mkdir()
    child = os.fork()
    if not child:
        os.chdir(folder)
        os.dup2(os.open("said", os.O_CREAT | os.O_WRONLY), 1)
        left = number
        work()
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    say(number, status)
    if status != -signal.SIGKILL: break
"""


def test_a_process_killed_at_any_statement_never_leaves_an_event_uncounted(tmp_path: Path) -> None:
    """Processes kill themselves before their first, second, ... SQL statement, from making the file to closing it."""
    code = (
        "def reserve(ledger):\n"
        "    return ledger.reserve('a', [EVENT, Event(3.0)], run='r', purpose='train', round_number=1)\n"
    )
    ends = [int(line.split()[1]) for line in python(code + _STEP_BY_STEP, tmp_path).splitlines()]
    assert set(ends[:-1]) == {-signal.SIGKILL}
    assert ends[-1] == 0
    seen = []
    for number in range(1, len(ends) + 1):
        said = (tmp_path / str(number) / "said").read_text().split()
        # Checks the file, and makes it where it is not there yet.
        ledger = Ledger(tmp_path / str(number) / "ledger.sqlite", binding=BINDING)
        spent = ledger.spent("a")
        assert spent == [EVENT, Event(3.0)] or ("reserved" not in said and spent == []), said
        states = {entry["state"] for entry in ledger.export()["events"]}
        assert states <= ({"sent"} if "sent" in said else {"reserved", "sent"})
        with pytest.raises(PrivacyError, match="Expected events that this process reserved"):
            ledger.freed([1])
        reserve(ledger, OTHER)
        assert ledger.spent("a") == [*spent, OTHER]
        ledger.close()
        seen.append((len(said), len(spent)))
    # Killed before it was open, while it reserved, between reading and sent, and after all.
    assert {(0, 0), (1, 0), (3, 2), (5, 2)} <= set(seen)


def test_a_process_killed_at_any_statement_of_a_batch_leaves_all_of_it_or_nothing(tmp_path: Path) -> None:
    """A client with two groups, one that is refused, one with two events, and one that is asked twice."""
    code = (
        "from client.ledger.ledger import Spending\n"
        "def reserve(ledger):\n"
        "    ledger.set_policy(Policy(rounds_at_most=1), 'b')\n"
        "    clients = [['a/group-0-of-2', 'a/group-1-of-2'], ['b'], ['c'], ['d'], ['c']]\n"
        "    spendings = [[Spending(owner, [EVENT, Event(3.0)]) for owner in client] for client in clients]\n"
        "    say('asked')\n"
        "    outcomes = ledger.reserve_all(spendings, run='r', purpose='train', round_number=1, min_separation=0)\n"
        "    return [number for outcome in outcomes if isinstance(outcome, list) for number in outcome]\n"
    )
    ends = [int(line.split()[1]) for line in python(code + _STEP_BY_STEP, tmp_path).splitlines()]
    assert set(ends[:-1]) == {-signal.SIGKILL}
    assert ends[-1] == 0
    seen = []
    for number in range(1, len(ends) + 1):
        said = (tmp_path / str(number) / "said").read_text().split()
        ledger = Ledger(tmp_path / str(number) / "ledger.sqlite", binding=BINDING)
        spent = {owner: len(ledger.spent(owner)) for owner in ledger.owners()}
        assert spent == {"a/group-0-of-2": 2, "a/group-1-of-2": 2, "c": 4, "d": 2} or (
            "reserved" not in said and spent == {}
        ), said
        states = {entry["state"] for entry in ledger.export()["events"]}
        assert len(states) <= 1
        assert states <= ({"sent"} if "sent" in said else {"reserved", "sent"})
        with pytest.raises(PrivacyError, match="Expected events that this process reserved"):
            ledger.freed([1])
        ledger.close()
        seen.append((len(said), len(spent)))
    # Killed in the midst of the batch (at eight statements or more), between reading and sent, and after all.
    assert seen.count((2, 0)) >= 8
    assert {(4, 4), (6, 4)} <= set(seen)


@pytest.mark.parametrize("milliseconds", [0, 3, 11, 30, 70, 150])
def test_a_process_killed_at_any_moment_never_takes_back_what_it_was_told_is_reserved(path: Path, milliseconds: int) -> None:
    code = (
        "ledger = Ledger(PATH, binding=BINDING); say('ready'); sys.stdin.readline()\n"
        "for number in range(100000):\n"
        "    identifiers = reserve(ledger, round_number=number); say('reserved')\n"
        "    if number % 3: ledger.sent(identifiers)\n"
    )
    process = start(code, path)
    assert process.stdout is not None and process.stdin is not None
    assert process.stdout.readline() == "ready\n"
    process.stdin.write("go\n")
    process.stdin.flush()
    threading.Event().wait(milliseconds / 1000)
    process.kill()
    promised = process.communicate(timeout=300)[0].count("reserved\n")
    assert promised <= len(Ledger(path, binding=BINDING).spent("a")) <= promised + 1


@pytest.mark.parametrize("milliseconds", [5, 40, 90])
def test_a_process_killed_at_any_moment_of_a_batch_leaves_all_of_it_or_nothing(path: Path, milliseconds: int) -> None:
    """Mostly while SQLite writes: three thousand clients take longer than all the rest."""
    code = (
        "from client.ledger.ledger import Spending\n"
        "clients = [[Spending(f'client-{number}', [EVENT])] for number in range(3000)]\n"
        "ledger = Ledger(PATH, binding=BINDING); say('ready'); sys.stdin.readline()\n"
        "for number in range(1000):\n"
        "    ledger.reserve_all(clients, run='r', purpose='train', round_number=number); say('reserved')\n"
    )
    process = start(code, path)
    assert process.stdout is not None and process.stdin is not None
    assert process.stdout.readline() == "ready\n"
    process.stdin.write("go\n")
    process.stdin.flush()
    threading.Event().wait(milliseconds / 1000)
    process.kill()
    promised = process.communicate(timeout=300)[0].count("reserved\n")
    Ledger(path, binding=BINDING).close()
    batches, rest = divmod(states_of(path).get("reserved", 0), 3000)
    assert rest == 0
    assert promised <= batches <= promised + 1


def test_many_processes_may_make_and_write_one_ledger_at_once(path: Path) -> None:
    code = (
        "sys.stdin.readline(); ledger = Ledger(PATH, binding=BINDING)\n"
        "for number in range(10): ledger.sent(reserve(ledger, sys.argv[2], round_number=number))\n"
    )
    running = [start(code, path, f"owner-{number}") for number in range(4)]
    for process in running:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    assert [process.communicate(timeout=300)[1] for process in running] == [""] * 4
    ledger = Ledger(path)
    assert [len(ledger.spent(owner)) for owner in ledger.owners()] == [10] * 4


def test_a_fork_leaves_both_processes_a_ledger_of_their_own(path: Path) -> None:
    """The child may not use the parent's connection, and may not give back what the parent reserved."""
    code = (
        "import gc, sqlite3\n"
        "ledger = Ledger(PATH, binding=BINDING); identifiers = reserve(ledger, round_number=0)\n"
        "child = os.fork()\n"
        "for found in gc.get_objects():\n"
        "    if type(found) is sqlite3.Connection: say('open')\n"
        "if not child:\n"
        "    try: ledger.freed(identifiers)\n"
        "    except PrivacyError as error: say(error)\n"
        "for number in range(1, 30): reserve(ledger, 'a' if child else 'b', round_number=number)\n"
        "if child: assert os.waitpid(child, 0)[1] == 0; ledger.freed(identifiers)\n"
        "else: os._exit(0)\n"
    )
    (said,) = python(code, path).splitlines()
    assert said.startswith("Expected events that this process reserved and did not send, got others")
    ledger = Ledger(path)
    assert [len(ledger.spent(owner)) for owner in "ab"] == [29, 29]


def test_threads_of_one_process_take_turns(ledger: Ledger) -> None:
    def work(owner: str) -> None:
        for number in range(10):
            ledger.sent(reserve(ledger, owner=owner, round_number=number))

    threads = [threading.Thread(target=work, args=(f"owner-{number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [len(ledger.spent(owner)) for owner in ledger.owners()] == [10] * 4
