"""One reservation in this device's own ledger: made before any data is read, counted from then on.

What never lives here: the ledger's file and rules (`shared/privacy/ledger.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from shared.privacy.events import Event
from shared.privacy.ledger import Ledger, Request


@dataclass(frozen=True)
class Spending:
    """What one message asks of one owner (a client, or a group of its users under DP-FTRL).

    Attributes:
        owner: Whose ledger.
        events: What this message releases.
        planned: What the whole run releases, for one look at the limit instead of one a round.
    """

    owner: str
    events: Sequence[Event]
    planned: Sequence[Event]


class Reservation:
    """The device's side of one message: what was reserved, and what went wrong meanwhile."""

    def __init__(self, ledger: Ledger | None, owner: str, *, run: str, round_number: int) -> None:
        self._ledger, self._owner, self._run, self._round_number = ledger, owner, run, round_number

    def fault(self, kind: str) -> None:
        """Counts a fault in the ledger, where the owner of the device finds it and nobody else does."""
        if self._ledger is not None:
            self._ledger.record_fault(self._owner, run=self._run, round_number=self._round_number, kind=kind)


@contextmanager
def reserved(
    ledger: Ledger,
    spendings: Sequence[Spending],
    *,
    owner: str,
    request: Request,
    run: str,
    purpose: str,
    round_number: int,
    min_separation: int,
) -> Iterator[Reservation]:
    """Reserves before the block, counts as spent after it; gives back only when an error kept everything here.

    Raises:
        PrivacyError: If the ledger cannot be used, the budget is exceeded, or its clock went backwards.
        PolicyRefused: If the device's owner does not allow the request.
    """
    identifiers: list[int] = []
    try:
        for spending in spendings:
            identifiers += ledger.reserve(
                spending.owner,
                spending.events,
                run=run,
                purpose=purpose,
                round_number=round_number,
                request=request,
                planned=spending.planned,
                min_separation=min_separation,
            )
        yield Reservation(ledger, owner, run=run, round_number=round_number)
    except BaseException:
        ledger.freed(identifiers)
        raise
    ledger.sent(identifiers)
