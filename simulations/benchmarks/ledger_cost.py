"""What the ledger adds to a message: reserving, synced to the disk, before data is read, and marking as sent.

Two measurements. Reserving and sending in a file that holds many owners' events already and a limit on epsilon, where the
run fits as a whole (so that only the first message computes an epsilon). And the ledgers of many clients in one file, as a
simulation has them, against one file each, as on devices: opening, one reservation, one delivery.

The disk matters more than anything else: `--folder` chooses it.
"""

from __future__ import annotations

import tempfile
from functools import partial
from itertools import count
from pathlib import Path

from shared.privacy.events import Event
from shared.privacy.ledger import Binding, Ledger, Policy
from simulations.benchmarks.timing import Spread, compare, options, seconds, show

_TARGET_MS = 20.0
_BINDING = Binding("benchmark", "user", "add-or-remove-one", 1e-5)
_EVENT = Event(5.0, 0.1, 1, sampled_by="server")
_ROUNDS = 60


def main() -> None:
    """Measures and prints."""
    parser = options(__doc__, repeats=1)
    parser.add_argument("--messages", type=int, default=400, help="reservations to time (default 400)")
    parser.add_argument("--owners", type=int, default=1000, help="owners in the file, and clients (default 1000)")
    parser.add_argument("--events", type=int, default=10_000, help="events in the file (default 10000)")
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
    show(
        "ledger_cost",
        comparison,
        a="one file",
        b="one file each",
        target=None,
        as_json=chosen.json,
        clients=chosen.owners,
        reserve_and_sent_ms=vars(rest) if chosen.json else f"{rest} in {chosen.messages} messages, {chosen.events} events",
        target_ms=_TARGET_MS,
        first_with_epsilon_ms=round(first, 1),
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
    planned = [Event(5.0, 0.1, _ROUNDS, sampled_by="server")]
    ledger.sent(
        ledger.reserve(
            f"client-{owner}",
            [_EVENT],
            run="now",
            purpose="train",
            round_number=round_number,
            planned=planned,
            min_separation=1,
        )
    )


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
