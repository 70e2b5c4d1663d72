"""A clock of a test's own, in the place of the module `time`: no machine is too slow for it, and who sleeps moves it."""

from __future__ import annotations


class Clock:
    """Its numbers are exact where what is slept is exact in binary."""

    def __init__(self) -> None:
        self.now = 64.0

    def monotonic(self) -> float:
        """Seconds."""
        return self.now

    def sleep(self, seconds: float) -> None:
        """Moves it."""
        self.now += seconds
