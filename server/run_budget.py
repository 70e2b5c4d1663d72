"""What a run has asked of its clients, and whether more fits: the plan's epsilon is a ceiling, whatever is repeated.

A round that was interrupted may have been answered, so asking for it again is one more release. The noise was calibrated for
the planned releases alone; a repetition therefore takes the place of a later round. Every request is checked here before it
is sent, with what the run still has to release after it (its final metrics) set aside.

What never lives here: epsilon's arithmetic (`shared/privacy/plan.py`), and where the counts are kept (`event_log.py`,
`checkpoints.py`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

from server.event_log import Asked
from shared.errors import BudgetExceeded
from shared.privacy.plan import PrivacyPlan
from shared.privacy.releases import ReleaseName, release_of


class RunBudget:
    """Counts requests and refuses the one that would exceed the plan's epsilon.

    Args:
        plan: The run's plan. (public)
        asked: What was asked for before, by this process or an earlier one.
    """

    def __init__(self, plan: PrivacyPlan, asked: Asked) -> None:
        self._plan, self.asked = plan, asked
        whole = plan.epsilon_after(plan.rounds) if plan.is_private else 0.0
        self._ceiling = max(plan.target_epsilon, whole)

    def spent(self) -> float | None:
        """Epsilon of all that was asked for, against the plan's adversary; None where nothing is claimed."""
        return self._plan.epsilon_after(**vars(self.asked)) if self._plan.is_private else None

    def request(self, purpose: str, round_number: int, *, set_aside: Mapping[ReleaseName, int]) -> None:
        """Counts a request that is about to be sent.

        Args:
            purpose: `train`, or a purpose of a release (`shared/protocol/messages.py`).
            round_number: Of the request, from 1.
            set_aside: Releases that must still fit after it.

        Raises:
            BudgetExceeded: If the run's epsilon would exceed the plan's; nothing was counted, and nothing may be sent.
        """
        after = self._with(purpose, round_number)
        with_rest = Counter(after.released) + Counter(set_aside)
        if not self._fits(replace(after, released=dict(with_rest))):
            raise BudgetExceeded(
                f"{_left_out(purpose)} Requests that were interrupted and sent again used part of "
                f"epsilon={self._plan.target_epsilon:g}, and this one does not fit into the rest. Start a new run for more."
            )
        self.asked = after

    def _with(self, purpose: str, round_number: int) -> Asked:
        asked = self.asked
        if purpose != "train":
            return replace(asked, released=dict(Counter(asked.released) + Counter([release_of(purpose)])))
        # Rounds are asked for in order, so one that is not beyond the different ones so far was asked for before.
        again = round_number <= asked.rounds - asked.repeated
        return replace(asked, rounds=asked.rounds + 1, repeated=asked.repeated + again)

    def _fits(self, asked: Asked) -> bool:
        plan = self._plan
        if not plan.is_private:
            return True
        planned = (
            asked.rounds <= plan.rounds
            and not asked.repeated
            and Counter(asked.released) <= Counter({one.name: one.times for one in plan.releases})
        )
        # What the noise was calibrated for fits; composing it again for every request would take longer than a round.
        return planned or plan.epsilon_after(**vars(asked)) <= self._ceiling


def _left_out(purpose: str) -> str:
    return _LEFT_OUT.get(purpose, f"The release of {purpose} is not asked for again.")


_LEFT_OUT = {
    "train": "Training ends before its last round.",
    "validation": "The last rounds are not validated.",
    "test": "No metrics are released.",
}
