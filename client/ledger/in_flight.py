"""Which events this process reserved and did not settle yet, as ranges: identifiers are handed out one after another.

A child of a fork reserved nothing, whatever its parent did. What never lives here: what becomes of the events (`ledger.py`).
"""

from __future__ import annotations

import os
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence


class InFlight:
    """A set of identifiers that takes memory by its gaps, not by its members. For one thread at a time."""

    def __init__(self) -> None:
        # Starts and ends of disjoint ranges in turn, ascending: what lies right of an odd number of them is inside.
        self._bounds: list[int] = []
        self._process = os.getpid()

    def add(self, start: int, stop: int) -> None:
        """Takes in the identifiers from `start` up to, without, `stop`."""
        if start < stop:
            self._put(start, stop, inside=1)

    def remove(self, start: int, stop: int) -> None:
        """Drops them; those that are not there are passed over."""
        self._put(start, stop, inside=0)

    def holds(self, start: int, stop: int) -> bool:
        """Whether all of them are there."""
        bounds = self._of_this_process()
        place = bisect_right(bounds, start)
        return place % 2 == 1 and bounds[place] >= stop

    def _put(self, start: int, stop: int, *, inside: int) -> None:
        bounds = self._of_this_process()
        first, last = bisect_left(bounds, start), bisect_right(bounds, stop)
        # A bound stays where one side of it is like the range and the other is not.
        bounds[first:last] = [start] * (first % 2 != inside) + [stop] * (last % 2 != inside)

    def _of_this_process(self) -> list[int]:
        if self._process != os.getpid():
            self._bounds, self._process = [], os.getpid()
        return self._bounds


def ranges(identifiers: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Start and stop of each run of consecutive identifiers, ascending. One that is there twice is in two ranges."""
    start = stop = None
    for identifier in sorted(identifiers):
        if identifier != stop:
            if start is not None and stop is not None:
                yield start, stop
            start = identifier
        stop = identifier + 1
    if start is not None and stop is not None:
        yield start, stop
