"""Who is shown a run's states and noised sums: a simulation, which measures them, or nobody.

What never lives here: anything that moves a state.
"""

from __future__ import annotations

from typing import Protocol

from server.event_log import EventLog
from server.statistics.statistic import Total
from shared.model.state import RecommenderState
from shared.privacy.releases import Purpose


class Observer(Protocol):
    """Is shown the server's states and sums, which are noised already; a simulation measures them."""

    def begins(self, log: EventLog) -> None:
        """Before anything is asked; may write an event of its own."""

    def summed(self, purpose: Purpose, round_number: int, total: Total) -> None:
        """After each release beside training, and where whole updates are clipped after each round (`train`)."""

    def round_finished(self, state: RecommenderState, round_number: int) -> None:
        """After a round is in the checkpoint, before it is announced."""

    def released(self, state: RecommenderState, round_number: int) -> None:
        """Before the released state is written."""


class Unobserved:
    """Nothing is measured, as in a deployment."""

    def begins(self, log: EventLog) -> None:
        """Does nothing."""

    def summed(self, purpose: Purpose, round_number: int, total: Total) -> None:
        """Does nothing."""

    def round_finished(self, state: RecommenderState, round_number: int) -> None:
        """Does nothing."""

    def released(self, state: RecommenderState, round_number: int) -> None:
        """Does nothing."""
