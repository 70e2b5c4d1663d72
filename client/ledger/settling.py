"""One reservation in a device's own ledger: made before any data is read, counted from then on.

Where many clients are played by one process their reservations are one transaction, and so is what becomes of them. What
never lives here: the ledger's file and rules (`client/ledger/ledger.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from client.ledger.ledger import Ledger, Request, Spending
from shared.errors import TacitError


class Reservation:
    """The devices' side of one message: ids reserved, ids sent, and faults.

    Args:
        ledger: None where nothing is recorded.
        refused: Why a client will not answer, by its place among those that were asked.
        identifiers: The first and the one after the last of the identifiers reserved for each client, (N, 2) int64; equal
            where there are none.
        run: What the ledger knows the run by.
        round_number: Of the message.
    """

    def __init__(
        self,
        ledger: Ledger | None,
        *,
        refused: Mapping[int, TacitError],
        identifiers: NDArray[np.int64] | None = None,
        run: str = "",
        round_number: int = 0,
    ) -> None:
        self._ledger, self._run, self._round_number = ledger, run, round_number
        self.refused = refused
        self._reserved = identifiers
        self._answered = np.zeros(0 if identifiers is None else len(identifiers), dtype=np.bool_)

    def answered(self, places: Sequence[int]) -> None:
        """Notes whose answers are on their way: whatever happens later, these are not given back."""
        if self._reserved is not None:
            self._answered[list(places)] = True

    def fault(self, owner: str, kind: str) -> None:
        """Counts a fault in the ledger, where only the owner of the device finds it."""
        if self._ledger is not None:
            self._ledger.record_fault(owner, run=self._run, round_number=self._round_number, kind=kind)

    def settle(self) -> None:
        """Marks as sent what was answered and gives back the rest; afterwards there is nothing left to do.

        It is called before the last answer is handed out, so that no sum is complete before the ledger says so.
        """
        if self._ledger is None or self._reserved is None:
            return
        reserved, self._reserved = self._reserved, None
        kept = _identifiers(reserved[~self._answered])
        if len(kept):
            self._ledger.freed(kept)
        sent = _identifiers(reserved[self._answered])
        if len(sent):
            self._ledger.sent(sent)


def _identifiers(bounds: NDArray[np.int64]) -> list[int]:
    """All identifiers between the bounds, one client's after the other's."""
    counts = bounds[:, 1] - bounds[:, 0]
    within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    found: list[int] = (np.repeat(bounds[:, 0], counts) + within).tolist()
    return found


@contextmanager
def reserved(
    ledger: Ledger,
    spendings: Sequence[Sequence[Spending]],
    *,
    asked: Sequence[int],
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
        asked: The place of each of these clients among all of the message.
        refused: Why the others are not asked, by place.
        request: What the plan asks of the device. (public)
        run: What the ledger knows the run by. (public)
        purpose: "train", or what else is released. (public)
        round_number: Of the message. (public)
        min_separation: Rounds between two participations. (public)

    Raises:
        PrivacyError: If the ledger cannot be used.
    """
    outcomes = ledger.reserve_all(
        spendings,
        run=run,
        purpose=purpose,
        round_number=round_number,
        request=request,
        min_separation=min_separation,
    )
    refusals = dict(refused)
    identifiers = np.zeros((len(asked) + len(refused), 2), dtype=np.int64)
    for place, outcome in zip(asked, outcomes, strict=True):
        if isinstance(outcome, TacitError):
            refusals[place] = outcome
        elif outcome:
            # One client's identifiers follow one another.
            identifiers[place] = outcome[0], outcome[-1] + 1
    del outcomes
    reservation = Reservation(ledger, refused=refusals, identifiers=identifiers, run=run, round_number=round_number)
    try:
        yield reservation
    finally:
        reservation.settle()
