"""What a run would cost this node's users on top of what was spent: what its owner wants to know before approving it.

Counted as limits are: by whoever knows when this node took part, for the account that has spent most, all rounds of the
plan. What never lives here: whether it fits (`client/ledger/costs.py`).
"""

from __future__ import annotations

import contextlib
import math
from pathlib import Path

from client.ledger.ledger import EVERYONE, Ledger
from shared.errors import UnsupportedMechanism
from shared.privacy import accounting
from shared.privacy.events import Event, with_known_participation
from shared.privacy.plan import PrivacyPlan


class Spent:
    """What is in a node's ledger.

    Args:
        ledger: Its file, which need not exist.

    Raises:
        PrivacyError: If it cannot be read.
    """

    def __init__(self, ledger: Path) -> None:
        self._events: list[Event] = []
        self.epsilon: float | None = None
        self.limit: float | None = None
        if not ledger.exists():
            return
        with contextlib.closing(Ledger(ledger)) as opened:
            self.limit = opened.policy(EVERYONE).epsilon
            for account in opened.accounts():
                epsilon = opened.epsilons(account.spent)["known_participation"]
                if epsilon is not None and epsilon >= (self.epsilon or 0.0):
                    self.epsilon, self._events = epsilon, account.spent

    def with_run(self, plan: PrivacyPlan) -> float | None:
        """Epsilon after a run that goes as planned, at most; None where it promises nothing or no bound is known."""
        if not plan.is_private:
            return None
        events = with_known_participation([*self._events, *plan.events()])
        try:
            epsilon = accounting.epsilon(events, delta=plan.delta, relation=plan.relation)
        except UnsupportedMechanism:
            return None
        return epsilon if math.isfinite(epsilon) else None
