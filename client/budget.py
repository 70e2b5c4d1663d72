"""One reservation in a device's own ledger: made before any data is read, counted from then on.

Where many clients are played by one process their reservations are one transaction, and so is what becomes of them. What
never lives here: the ledger's file and rules (`shared/privacy/ledger.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from shared.errors import TacitError
from shared.privacy.ledger import Ledger, Request, Spending


class Reservation:
    """The devices' side of one message: what was reserved, what went out, and what went wrong meanwhile.

    Args:
        ledger: None where nothing is recorded.
        owners: The clients that were asked.
        refused: Why a client will not answer, by its place among `owners`.
        identifiers: What is reserved for each of the others.
        run: What the ledger knows the run by.
        round_number: Of the message.
    """

    def __init__(
        self,
        ledger: Ledger | None,
        owners: Sequence[str],
        *,
        refused: Mapping[int, TacitError],
        identifiers: Mapping[int, Sequence[int]] | None = None,
        run: str = "",
        round_number: int = 0,
    ) -> None:
        self._ledger, self._owners, self._run, self._round_number = ledger, owners, run, round_number
        self.refused = refused
        self._reserved = dict(identifiers or {})
        self._answered: set[int] = set()

    def answered(self, places: Sequence[int]) -> None:
        """Notes whose answers are on their way: whatever happens later, these are not given back."""
        if self._reserved:
            self._answered.update(places)

    def fault(self, place: int, kind: str) -> None:
        """Counts a fault in the ledger, where the owner of the device finds it and nobody else does."""
        if self._ledger is not None:
            self._ledger.record_fault(self._owners[place], run=self._run, round_number=self._round_number, kind=kind)

    def settle(self) -> None:
        """Marks as sent what was answered and gives back the rest; afterwards there is nothing left to do.

        Whoever hands out answers calls it before the last one, so that no sum is complete before the ledger says so.
        """
        if self._ledger is None or not self._reserved:
            return
        sent = [number for place, found in self._reserved.items() if place in self._answered for number in found]
        kept = [number for place, found in self._reserved.items() if place not in self._answered for number in found]
        self._reserved.clear()
        if kept:
            self._ledger.freed(kept)
        if sent:
            self._ledger.sent(sent)


@contextmanager
def reserved(
    ledger: Ledger,
    spendings: Sequence[Sequence[Spending]],
    *,
    owners: Sequence[str],
    refused: Mapping[int, TacitError],
    request: Request,
    run: str,
    purpose: str,
    round_number: int,
    min_separation: int,
) -> Iterator[Reservation]:
    """Reserves before the block, in one transaction for all; gives back only what is certain never to have left.

    Args:
        ledger: Of these devices.
        spendings: What the message asks of each client's accounts.
        owners: The clients, one for each entry of `spendings`.
        refused: Who is not asked at all.
        request: What the plan asks of the device. (public)
        run: What the ledger knows the run by. (public)
        purpose: "train", or what else is released. (public)
        round_number: Of the message. (public)
        min_separation: Rounds between two participations. (public)

    Raises:
        PrivacyError: If the ledger cannot be used.
    """
    asked = [place for place in range(len(spendings)) if place not in refused]
    found = ledger.reserve_all(
        [spendings[place] for place in asked],
        run=run,
        purpose=purpose,
        round_number=round_number,
        request=request,
        min_separation=min_separation,
    )
    refusals = dict(refused)
    identifiers: dict[int, Sequence[int]] = {}
    for place, result in zip(asked, found, strict=True):
        if isinstance(result, TacitError):
            refusals[place] = result
        else:
            identifiers[place] = result
    reservation = Reservation(ledger, owners, refused=refusals, identifiers=identifiers, run=run, round_number=round_number)
    try:
        yield reservation
    finally:
        reservation.settle()
