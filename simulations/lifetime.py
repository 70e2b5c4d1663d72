"""What the ledger of earlier runs leaves for one more: its limit, and epsilon over all runs.

A run that continues another spends from the same accounts. Where the ledger has a limit for everyone, the plan must fit into
what is left of it; a default epsilon is the earlier run's, or what is left where that is less. The devices hold every plan
against their own limits as well (`client/ledger/ledger.py`): this here says so before anything is written, and with
numbers, which a server is never told.

An epsilon that was made smaller to fit is public, and follows from how often the account with the most was really drawn. Who
runs a simulation holds all ledgers; who minds says a smaller number.

What never lives here: a limit that only one account has.
"""

from __future__ import annotations

import math
from contextlib import closing
from pathlib import Path

from client.ledger.ledger import EVERYONE, Ledger
from shared import wording
from shared.config import RunConfig
from shared.errors import ConfigError, EpsilonOutOfReach, PrivacyError
from shared.privacy import accounting
from shared.privacy.calibration import plan_of
from shared.privacy.events import Event, with_known_participation
from shared.privacy.plan import PrivacyPlan

# An epsilon below is of no use to anybody; a search for what is left ends there.
_SMALLEST = 0.01
_HALVINGS = 8


def verify_holds(path: Path, run_id: str) -> None:
    """Raises unless a ledger holds what an earlier run spent.

    Args:
        path: The ledger.
        run_id: What the ledger knows that run by.

    Raises:
        ConfigError: If it is missing, or holds no event of that run.
    """
    if path.exists():
        with closing(Ledger(path)) as ledger:
            if ledger.has_run(run_id):
                return
    raise ConfigError(
        f"Expected the ledger of the run that is continued, found none of what it spent in {path.name}. Leave --ledger "
        "out, or give the file that its ledger was moved to; another one would forget what these users spent."
    )


def within_limit(config: RunConfig, path: Path, *, users: int, clients: int, asked: bool) -> RunConfig:
    """The configuration of a run that fits into what the limit of a ledger leaves.

    Args:
        config: Of the run. (public)
        path: The ledger.
        users: Of the run.
        clients: Of the run.
        asked: Whether its epsilon was asked for; otherwise it may be made smaller.

    Raises:
        ConfigError: If it does not fit; says what was spent, what is asked and what is allowed.
    """
    with closing(Ledger(path)) as ledger:
        policy = ledger.policies().get(EVERYONE)
        spendings = [with_known_participation(events) for events in ledger.largest_spending()] or [[]]
    limit = None if policy is None else policy.epsilon
    if limit is None:
        return config

    def together(epsilon: float) -> float:
        wanted = config.with_values({"privacy.epsilon": epsilon})
        try:
            plan = plan_of(wanted, num_users=users, num_clients=clients)
        except (EpsilonOutOfReach, PrivacyError):
            return float("inf")
        return _largest(spendings, plan)

    total = together(config.privacy.epsilon)
    if total <= limit:
        return config
    plan = plan_of(config, num_users=users, num_clients=clients)
    bounds = [accounting.epsilon(events, delta=plan.delta, relation=plan.relation) for events in spendings if events]
    spent = max(bounds, default=0.0)
    left = 0.0
    low, high = 0.0, min(limit, config.privacy.epsilon)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if together(middle) <= limit:
            low = left = middle
        else:
            high = middle
    left = math.floor(left * 1000) / 1000 if left >= _SMALLEST else 0.0
    if asked or not left:
        raise ConfigError(
            f"Expected a run within the limit of the ledger, epsilon {wording.asked_text(limit)} over all runs, got "
            f"privacy.epsilon={wording.asked_text(config.privacy.epsilon)} on top of {wording.at_most(spent)} that the "
            f"account with the most has spent: {wording.at_most(total)} together. "
            + (f"Use at most {wording.at_least(left)}." if left else "Nothing is left; only the owner can raise the limit.")
        )
    return config.with_values({"privacy.epsilon": left})


def _largest(spendings: list[list[Event]], plan: PrivacyPlan) -> float:
    planned = with_known_participation(plan.events())
    return max(accounting.epsilon([*spent, *planned], delta=plan.delta, relation=plan.relation) for spent in spendings)
