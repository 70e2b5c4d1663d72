"""Whether more fits into what the owner of a device allows: compositions compared with a limit on epsilon.

Computing an epsilon takes up to a second, and a device must answer in milliseconds: a composition that is contained in
another one costs at most as much, so that one computation, of all that a run plans, answers for its rounds.

Everything is counted as if everybody knew when the device took part, because a device cannot verify that the server's
sampling stayed secret. What never lives here: what was spent (`ledger.py`), what it costs (`accounting.py`).
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import replace

from shared.errors import BudgetExceeded
from shared.privacy import accounting
from shared.privacy.events import Event, with_known_participation
from shared.privacy.policy import Binding

_REMEMBERED = 32

# How often each kind of release, an `Event` of one step, happened.
Composition = Counter[Event]


def composition(events: Iterable[Event]) -> Composition:
    """How often each kind of release happened, to somebody who knows when the device took part."""
    counts: Composition = Counter()
    for event in with_known_participation(events):
        counts[replace(event, steps=1)] += event.steps
    return counts


class Budget:
    """Limits on the epsilon of what is bound to one unit, relation and delta.

    Args:
        binding: What the events are about. (public)
    """

    def __init__(self, binding: Binding) -> None:
        self.binding = binding
        # Compositions whose epsilon is known, the newest last.
        self._known: deque[tuple[Composition, float]] = deque(maxlen=_REMEMBERED)

    def verify(
        self, requested: Composition, *, others: Composition, of_run: Composition, planned: Composition, limit: float
    ) -> None:
        """Raises unless what was spent and what is requested stay within the limit together.

        Guarantee:
            When this returns, the epsilon of `others`, `of_run` and `requested` together is at most `limit`.

        Args:
            requested: What shall be released now. (public)
            others: What other runs spent. (public)
            of_run: What this run spent already. (public)
            planned: All that this run is going to release. It decides nothing; where it fits, later calls are fast. (public)
            limit: Largest epsilon allowed. (public)

        Raises:
            BudgetExceeded: Names spent, requested and limit.
        """
        spent = others + of_run
        together = spent + requested
        if any(epsilon <= limit and together <= known for known, epsilon in self._known):
            return
        # The larger of plan and reality: a round that was repeated is in the ledger more often than in the plan.
        for whole in (others + (planned | (of_run + requested)), together):
            epsilon = self._epsilon(whole)
            if epsilon <= limit:
                self._known.append((whole, epsilon))
                return
        raise BudgetExceeded(
            f"Expected epsilon <= limit for all events together, got epsilon={epsilon:.2f}, limit={limit:.2f}: spent="
            f"{self._epsilon(spent):.2f}, requested={self._epsilon(requested):.2f}. No data was read. The owner of this "
            "device can raise the limit with `tacit node budget set-limit --epsilon`."
        )

    def _epsilon(self, releases: Composition) -> float:
        events = [replace(release, steps=steps) for release, steps in releases.items()]
        return accounting.epsilon(events, delta=self.binding.delta, relation=self.binding.relation)
