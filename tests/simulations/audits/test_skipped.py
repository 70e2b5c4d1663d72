"""What an audit says that it did not try, by kind of run."""

from __future__ import annotations

from typing import Any

import pytest

from shared.config import RunConfig
from shared.privacy.plan import PrivacyPlan
from simulations.audits.skipped import skipped_of
from tests.plans import central_plan, distributed_plan, plain_plan, silo_plan

ROUNDS = "canaries in the training rounds"
IN_SUMS = "guesses about canaries from the training rounds, in the sums"
STEPS = "the one-shot estimate from local steps"
TURNS: dict[str, Any] = {"mechanism": "dp-ftrl-central", "min_separation": 3}
KINDS: dict[str, tuple[PrivacyPlan, dict[str, Any], set[str]]] = {
    "silos": (silo_plan(), {"training.optimizer": "sgd"}, {IN_SUMS, STEPS}),
    "silos with adam": (silo_plan(), {"training.optimizer": "adam"}, {ROUNDS}),
    "silos by turns": (silo_plan(mechanism="dp-ftrl-silo", min_separation=3), {}, {ROUNDS}),
    "statistics alone": (silo_plan(rounds=0), {}, set()),
    "central": (central_plan(sampling_rate=1.0), {}, set()),
    "a bound that moves": (central_plan(sampling_rate=1.0, clipping_share=0.05), {}, set()),
    "drawn": (central_plan(sampling_rate=0.1), {}, {"the one-shot estimate from the training rounds, for outsiders"}),
    "by turns": (central_plan(**TURNS), {}, {"the one-shot estimate from the training rounds"}),
    "by turns, a bound that moves": (central_plan(**TURNS, clipping_share=0.05), {}, {ROUNDS}),
    "shares": (distributed_plan(), {}, set()),
    "masks": (distributed_plan(secure_aggregation="masked"), {}, {"the masks of secure sums"}),
    "without privacy": (plain_plan(), {}, set()),
    "a run of a chain": (silo_plan(rounds=0), {"run.continues": "before"}, {"releases of the runs before this one"}),
}


@pytest.mark.parametrize("name", KINDS)
def test_what_is_skipped_is_told_with_the_reason(name: str) -> None:
    plan, settings, attacks = KINDS[name]
    found = list(skipped_of(plan, RunConfig.from_mapping(settings)))
    assert {one.attack for one in found} == attacks
    assert all(len(one.reason) > 40 for one in found)
