"""Whether a plan fits into what the owner of a device allows: compositions compared with a limit on epsilon.

What has to fit is all of it: what other runs spent, what this run spent, and what its plan still asks for. So a plan that
asks for too much is refused before its first release, and spends nothing. Later a run that fitted is refused only where
other runs spent, or the owner lowered the limit, meanwhile.

Computing an epsilon takes up to a second, and a device must answer in milliseconds: a composition that is contained in
another one costs at most as much, so that one computation, of the whole run, answers for its rounds.

Everything is counted without amplification by the server's sampling, because a device cannot verify that it stayed secret.
What never lives here: what was spent (`ledger.py`), what it costs (`shared/privacy/accounting.py`).
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import replace

from client.ledger.limits import Binding
from shared.errors import BudgetExceeded
from shared.privacy import accounting
from shared.privacy.events import Event, with_known_participation

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
        """Raises unless what was spent, what is requested and what is planned stay within the limit together.

        Guarantee:
            When this returns, the epsilon of `others`, `of_run` and `requested` together is at most `limit`, and so is that
            of `others` and the whole run, if it goes as planned. The refusal holds no number: it travels to the server, and
            what was spent is other runs' (`tacit node budget show` tells the owner).

        Args:
            requested: What shall be released now. (public)
            others: What other runs spent. (public)
            of_run: What this run spent already. (public)
            planned: All that this run is going to release. (public)
            limit: Largest epsilon allowed. (public)

        Raises:
            BudgetExceeded: If they do not.
        """
        # The larger of plan and reality: a round that was repeated is in the ledger more often than in the plan.
        whole = others + (planned | (of_run + requested))
        if any(epsilon <= limit and whole <= known for known, epsilon in self._known):
            return
        # With some room, so that what was spent meanwhile does not ask the accountant again; then as it is.
        roomy = Composition({release: _rounded_up(steps) for release, steps in whole.items()})
        if not (self._fits(roomy, limit) or self._fits(whole, limit)):
            raise BudgetExceeded(
                "Expected a plan that fits what the owner of this device still allows, got one that asks for more. No data "
                "was read, and the plan spent nothing more. Run a plan with a smaller epsilon; the owner can see what was "
                "spent with `tacit node budget show`, and raise the limit with `tacit node budget set-limit --epsilon`."
            )

    def _fits(self, releases: Composition, limit: float) -> bool:
        events = [replace(release, steps=steps) for release, steps in releases.items()]
        epsilon = accounting.epsilon(events, delta=self.binding.delta, relation=self.binding.relation)
        if epsilon <= limit:
            self._known.append((releases, epsilon))
        return epsilon <= limit


def _rounded_up(steps: int) -> int:
    """The next number of three binary digits and zeros: at most a quarter more."""
    unit = 1 << max(0, steps.bit_length() - 3)
    return -(-steps // unit) * unit
