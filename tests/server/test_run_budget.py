"""The plan's epsilon is a ceiling: what was interrupted and is sent again takes the place of something later."""

from __future__ import annotations

import pytest

from server.event_log import Asked
from server.run_budget import RunBudget
from shared.config import RunConfig
from shared.errors import BudgetExceeded
from shared.privacy.calibration import plan_of
from shared.privacy.plan import PrivacyPlan
from shared.privacy.releases import ReleaseName

METRICS: dict[ReleaseName, int] = {"metrics": 1}


def _plan(**changes: object) -> PrivacyPlan:
    settings = {
        "federation.rounds": 5, "federation.clients": 4, "privacy.epsilon": 4.0, "privacy.delta": 1e-4,
        "statistics.releases": "none",
    }  # fmt: skip
    named = {key.replace("__", "."): value for key, value in changes.items()}
    return plan_of(RunConfig.from_mapping({**settings, **named}), num_users=1000)


def test_the_planned_requests_fit_and_cost_what_was_planned() -> None:
    plan = _plan()
    budget = RunBudget(plan, Asked())
    budget.request("popularity", 0, set_aside=METRICS)
    for round_number in range(1, 6):
        budget.request("train", round_number, set_aside=METRICS)
    budget.request("test", 5, set_aside={})
    assert budget.asked == Asked(rounds=5, repeated=0, released={"popularity": 1, "metrics": 1})
    assert budget.spent() == plan.epsilon_after(5, released={"popularity": 1, "metrics": 1}) <= 4.0


@pytest.mark.parametrize("purpose", ["popularity", "train", "test"])
def test_one_request_more_than_planned_is_refused_and_not_counted(purpose: str) -> None:
    budget = RunBudget(_plan(), Asked(rounds=5, repeated=0, released={"popularity": 1, "metrics": 1}))
    before = budget.asked
    with pytest.raises(BudgetExceeded, match=r"used part of epsilon=4, and this one does not fit"):
        budget.request(purpose, 5, set_aside={})
    assert budget.asked == before


def test_a_repeated_round_takes_the_place_of_the_last_one() -> None:
    budget = RunBudget(_plan(), Asked(rounds=2, repeated=0, released={"popularity": 1}))
    for round_number in (2, 3, 4):  # the second was interrupted
        budget.request("train", round_number, set_aside=METRICS)
    assert budget.asked == Asked(rounds=5, repeated=1, released={"popularity": 1})
    with pytest.raises(BudgetExceeded, match="Training ends before its last round"):
        budget.request("train", 5, set_aside=METRICS)
    budget.request("test", 4, set_aside={})
    spent = budget.spent()
    assert spent is not None
    assert spent <= 4.0


def test_the_final_metrics_are_set_aside_before_a_round_is_asked_for() -> None:
    """Without room for them a cheap repetition could leave nothing for what the run must still release."""
    # Interrupted in the metrics of an earlier try.
    asked = Asked(rounds=4, repeated=0, released={"popularity": 1, "metrics": 1})
    budget = RunBudget(_plan(), asked)
    budget.request("train", 5, set_aside={})
    budget = RunBudget(_plan(), asked)
    with pytest.raises(BudgetExceeded):
        budget.request("train", 5, set_aside=METRICS)


def test_dp_ftrl_counts_a_repetition_as_another_turn_of_the_same_users() -> None:
    settings = {"federation__clients": 0, "privacy__mechanism": "dp-ftrl-central", "privacy__min_separation": 2}
    plan = _plan(**settings, federation__rounds=6)
    budget = RunBudget(plan, Asked(rounds=3, repeated=0, released={"popularity": 1}))
    with pytest.raises(BudgetExceeded):
        for round_number in (3, 4, 5, 6):
            budget.request("train", round_number, set_aside=METRICS)
    spent = budget.spent()
    assert spent is not None
    assert spent <= 4.0


def test_a_run_without_privacy_is_not_limited() -> None:
    budget = RunBudget(
        _plan(privacy__epsilon=float("inf"), privacy__delta=0.0), Asked(50, 40, {"popularity": 9, "metrics": 9})
    )
    budget.request("train", 5, set_aside=METRICS)
    assert budget.spent() is None
    assert budget.asked.rounds == 51
