"""Draws of the run's own code: coins pass; a fixed size, and a higher rate, are found in steps and in rounds."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np
import pytest

import client.training.dp_sgd
import server.cohort
import shared.randomness
from shared.audit.document import SamplingRead
from shared.audit.judgment import NOT_BY_COINS, TOO_OFTEN, design_of, results_of
from shared.audit.sampling import SamplingProbe, sampling_probe
from shared.config import RunConfig
from shared.data.catalog import ItemCatalog
from shared.model.recommender import Recommender, resident
from shared.privacy.plan import PrivacyPlan
from simulations.audits.sampling_probe import probe_sampling
from tests import running
from tests.audits import evidence_about, statement_about
from tests.plans import central_plan, distributed_plan, plain_plan, silo_plan

PLANS: dict[str, PrivacyPlan] = {
    "silos": silo_plan(sampling_rate=0.25, population=943, num_clients=4),
    "rounds": central_plan(sampling_rate=0.1, population=943, num_clients=943),
}
WHERE = {"silos": "users in local steps", "rounds": "clients in rounds"}
Read = Callable[[PrivacyPlan], tuple[SamplingRead, ...]]


@pytest.fixture(autouse=True)
def _same_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared.randomness, "secret_bytes", np.random.default_rng(2).bytes)


@pytest.fixture
def read(tiny_bert: str, tiny_catalog: ItemCatalog, tmp_path_factory: pytest.TempPathFactory) -> Read:
    config: RunConfig = running.settings(tmp_path_factory.mktemp("none"), tiny_bert, privacy__l2_clip_norm=0.5)
    recommender: Recommender = resident(config, tiny_catalog)
    return lambda plan: probe_sampling(config, plan, recommender)


def _probe(found: tuple[SamplingRead, ...]) -> SamplingProbe:
    (one,) = found
    return sampling_probe(design_of(one), one.sums)


@pytest.mark.parametrize("kind", PLANS)
def test_the_runs_own_coins_vary_as_claimed(read: Read, kind: str) -> None:
    """A spread within 30 % of the claimed one: three standard errors of 50 readings; p is above 1e-3."""
    found = read(PLANS[kind])
    assert found[0].where == WHERE[kind] and found[0].users == {"silos": 236, "rounds": 943}[kind]
    probe = _probe(found)
    assert 0.7 < probe.spread < 1.3 and probe.excess == pytest.approx(1.0, abs=0.05)
    assert min(probe.p_spread, probe.p_excess) > 1e-3


@pytest.mark.parametrize("kind", PLANS)
def test_power_cohorts_of_a_fixed_size_accounted_as_poisson_are_found(
    read: Read, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)

    def fixed_steps(task: object, plan: PrivacyPlan, num_examples: int) -> list[np.ndarray]:
        size = round(plan.local_sampling_rate * num_examples)
        return [np.sort(rng.choice(num_examples, size=size, replace=False)) for _ in range(plan.steps_per_round)]

    def fixed_rounds(nodes: list[int], plan: PrivacyPlan, **_: object) -> list[int]:
        return sorted(rng.choice(nodes, size=round(plan.sampling_rate * len(nodes)), replace=False).tolist())

    monkeypatch.setattr(client.training.dp_sgd, "_who_takes_part", fixed_steps)
    monkeypatch.setattr(server.cohort, "draw", fixed_rounds)
    found = read(PLANS[kind])
    assert _probe(found).p_spread < 1e-8
    statement = statement_about()
    results = results_of(statement, evidence_about(statement, sampling=found))
    assert results.verdict == "failed" and any(NOT_BY_COINS in failure for failure in results.failures)


def test_power_coins_of_a_higher_rate_are_found(read: Read) -> None:
    plan = PLANS["silos"]
    (found,) = read(dataclasses.replace(plan, sampling_rate=0.3))
    lied = found.model_copy(update={"rate": 0.25})
    statement = statement_about()
    failures = results_of(statement, evidence_about(statement, sampling=(lied,))).failures
    assert any(TOO_OFTEN in failure for failure in failures)


def test_where_no_claim_rests_on_coins_nothing_is_read(read: Read) -> None:
    silent = [
        plain_plan(),
        silo_plan(rounds=0),
        silo_plan(sampling_rate=1.0),
        distributed_plan(sampling_rate=0.5),
        dataclasses.replace(PLANS["rounds"], cohort_cap=math.ceil(0.1 * 943)),
    ]
    assert [read(plan) for plan in silent] == [()] * len(silent)
