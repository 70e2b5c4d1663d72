"""What the ledger adds to a message: reserving, synced to the disk, before data is read, and marking as sent.

Three measurements. Reserving and sending in a file that holds many owners' events already and a limit on epsilon, where the
run fits as a whole (so that only the first message computes an epsilon). The ledgers of many clients in one file, as a
simulation has them, against one file each, as on devices: opening, one reservation, one delivery. And a whole cohort in one
transaction, as a simulation asks it, against one transaction a client, under the same limit.

The disk matters more than anything else: `--folder` chooses it.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Iterable, Sequence
from functools import partial
from itertools import count
from pathlib import Path

from client.ledger.ledger import Binding, Ledger, Policy, Request, Spending
from shared.errors import TacitError
from shared.privacy.events import Event
from simulations.benchmarks.timing import Comparison, Spread, compare, options, seconds, show

_TARGET_MS = 20.0
_TARGET_US = 20.0
_BINDING = Binding("benchmark", "user", "add-or-remove-one", 1e-5)
_EVENT = Event(5.0, 0.1, 1, sampled_by="server")
_ROUNDS = 60
_REQUEST = Request("user", "dp-sgd", "none", 0.1, 5.0, _ROUNDS, 1e-5)
_PLANNED = (Event(5.0, 0.1, _ROUNDS, sampled_by="server"),)
# Pairs of a cohort and clients one by one; each takes a quarter of a second.
_PAIRS = 7
_UNIT = "us a client"


def main() -> None:
    """Measures and prints."""
    parser = options(__doc__, repeats=1)
    parser.add_argument("--messages", type=int, default=400, help="reservations to time (default 400)")
    parser.add_argument("--owners", type=int, default=1000, help="owners in the file, and clients (default 1000)")
    parser.add_argument("--events", type=int, default=10_000, help="events in the file (default 10000)")
    parser.add_argument("--cohort", type=int, default=10_000, help="clients in one transaction (default 10000)")
    parser.add_argument("--cohort-events", type=int, default=100_000, help="events in their file before (default 100000)")
    parser.add_argument("--folder", type=Path, help="where the files are made (default: the system's)")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=chosen.folder) as name:
        folder = Path(name)
        first, rest = _messages(folder / "filled.sqlite", chosen.messages, chosen.owners, chosen.events)
        numbers = count()
        comparison = compare(
            lambda: _one_file(folder / f"{next(numbers)}.sqlite", chosen.owners),
            lambda: _one_file_each(folder / str(next(numbers)), chosen.owners),
            repeats=chosen.repeats,
        )
        many = _many(folder / "many.sqlite", chosen.cohort, chosen.cohort_events, repeats=max(chosen.repeats, _PAIRS))
    show(
        "ledger_cost",
        comparison,
        a="one file",
        b="one file each",
        target=None,
        as_json=chosen.json,
        clients=chosen.owners,
        reserve_and_sent_ms={**vars(rest), "repeats": chosen.messages}
        if chosen.json
        else f"{rest} in {chosen.messages} messages, {chosen.events} events",
        target_ms=_TARGET_MS,
        first_with_epsilon_ms=round(first, 1),
    )
    show(
        "ledger_cost",
        many,
        a="many in one transaction",
        b="one transaction each",
        target=None,
        as_json=chosen.json,
        clients=chosen.cohort,
        events=chosen.cohort_events,
        target_us=_TARGET_US,
    )


def _messages(path: Path, messages: int, owners: int, events: int) -> tuple[float, Spread]:
    ledger = Ledger(path, binding=_BINDING)
    for owner in range(owners):
        ledger.sent(
            ledger.reserve(f"client-{owner}", [_EVENT] * (events // owners), run="before", purpose="train", round_number=1)
        )
    ledger.set_policy(Policy(epsilon=50.0))
    rounds = [divmod(number, owners) for number in range(messages + 1)]
    times = [1000 * seconds(partial(_message, ledger, owner, round_number)) for round_number, owner in rounds]
    ledger.close()
    return times[0], Spread.of(times[1:])


def _message(ledger: Ledger, owner: int, round_number: int) -> None:
    ledger.sent(
        ledger.reserve(
            f"client-{owner}",
            [_EVENT],
            run="now",
            purpose="train",
            round_number=round_number,
            planned=_PLANNED,
            request=_REQUEST,
            min_separation=1,
        )
    )


def _many(path: Path, cohort: int, events: int, *, repeats: int) -> Comparison:
    ledger = Ledger(path, binding=_BINDING)
    ledger.set_policy(Policy(epsilon=50.0))
    _cohort(
        ledger, _asked([events]), run="planned"
    )  # computes the only epsilon: all that follows is contained in what is planned
    for first in range(0, events, cohort):
        _cohort(ledger, _asked(range(first, min(first + cohort, events))), run="before")
    rng, runs, few = random.Random(0), count(), max(1, cohort // 20)

    def turn(clients: int, together: int) -> float:
        """Microseconds a client, in a run of its own."""
        owners, run = rng.sample(range(events), clients), f"run-{next(runs)}"
        parts = [_asked(owners[first : first + together]) for first in range(0, clients, together)]
        return sum(seconds(partial(_cohort, ledger, part, run=run)) for part in parts) * 1e6 / clients

    # As in `compare`, with fewer clients where each waits for the disk.
    pairs = []
    for number in range(repeats + 1):
        for together in (cohort, 1) if number % 2 else (1, cohort):
            pairs.append((together, turn(cohort if together > 1 else few, together)))
    ledger.close()
    a, b = ([time for of, time in pairs[2:] if of == together] for together in (cohort, 1))
    return Comparison(Spread.of(a), Spread.of(b), Spread.of([x / y for x, y in zip(a, b, strict=True)]), repeats, _UNIT)


def _asked(clients: Iterable[int]) -> list[list[Spending]]:
    return [[Spending(f"client-{client}", (_EVENT,), _PLANNED)] for client in clients]


def _cohort(ledger: Ledger, asked: Sequence[Sequence[Spending]], *, run: str) -> None:
    outcomes = ledger.reserve_all(asked, run=run, purpose="train", round_number=1, request=_REQUEST)
    identifiers: list[int] = []
    for outcome in outcomes:
        if isinstance(outcome, TacitError):
            raise outcome
        identifiers += outcome
    ledger.sent(identifiers)


def _one_file(path: Path, clients: int) -> None:
    ledger = Ledger(path, binding=_BINDING)
    for client in range(clients):
        _message(ledger, client, 1)
    ledger.close()


def _one_file_each(folder: Path, clients: int) -> None:
    for client in range(clients):
        ledger = Ledger(folder / f"{client}.sqlite", binding=_BINDING)
        _message(ledger, client, 1)
        ledger.close()


if __name__ == "__main__":
    main()
