"""Who is shown a run's states: a simulation, which measures them, or nobody.

What never lives here: anything that moves a state.
"""

from __future__ import annotations

from typing import Protocol

from shared.model.state import RecommenderState


class Observer(Protocol):
    """Is shown the server's states, which are noised already; a simulation measures them."""

    def round_finished(self, state: RecommenderState, round_number: int) -> None:
        """After a round is in the checkpoint, before it is announced."""

    def released(self, state: RecommenderState, round_number: int) -> None:
        """Before the released state is written."""


class Unobserved:
    """Nothing is measured, as in a deployment."""

    def round_finished(self, state: RecommenderState, round_number: int) -> None:
        """Does nothing."""

    def released(self, state: RecommenderState, round_number: int) -> None:
        """Does nothing."""
