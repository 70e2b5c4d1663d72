"""Events in flight: a set of identifiers that takes memory by its gaps."""

from __future__ import annotations

import gc
import tracemalloc

from hypothesis import given
from hypothesis import strategies as st

from client.ledger.in_flight import InFlight, ranges
from client.ledger.ledger import Ledger, Spending
from tests.ledgers import EVENT, reserve_all


@given(changes=st.lists(st.tuples(st.booleans(), st.integers(0, 30), st.integers(0, 8)), max_size=30))
def test_events_in_flight_are_a_set_whatever_comes_and_goes(changes: list[tuple[bool, int, int]]) -> None:
    flight, model = InFlight(), set()
    for comes, start, length in changes:
        if comes:
            flight.add(start, start + length)
            model |= set(range(start, start + length))
        elif length:
            flight.remove(start, start + length)
            model -= set(range(start, start + length))
        for first in range(40):
            for stop in range(first + 1, 40):
                assert flight.holds(first, stop) == model.issuperset(range(first, stop))
    assert [number for start, stop in ranges(sorted(model, key=hash)) for number in range(start, stop)] == sorted(model)


def test_events_in_flight_take_no_memory_of_their_own(ledger: Ledger) -> None:
    """A set of forty thousand numbers takes three megabytes."""
    clients = [[Spending(f"client-{number}", [EVENT] * 100)] for number in range(200)]
    reserve_all(ledger, *clients)
    gc.collect()
    tracemalloc.start()
    try:
        for _ in range(2):
            reserve_all(ledger, *clients)
        gc.collect()
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 100_000
    ledger.freed(range(1, 60_001))
