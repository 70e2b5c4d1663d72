"""Audit documents for tests, made from readings that are written down here: no run, no model."""

from __future__ import annotations

from typing import Any

import numpy as np

from shared.audit.document import (
    Attack,
    AuditDocument,
    AuditProtocol,
    CanaryClass,
    Evidence,
    Independence,
    Reconstruction,
    ReleaseRead,
)
from shared.audit.judgment import claimed_against, planned, results_of, views_of
from shared.audit.tradeoff import mu_of
from shared.audit.verification import commitment_of
from shared.config import RunConfig
from shared.hash_chain import head_of, linked
from shared.privacy.plan import PrivacyPlan
from shared.privacy.statement import Statement, statement_of
from tests.plans import plain_plan, silo_plan

# Of one release that costs 8 at the plan's delta of 1e-4.
NOISE = 0.5432


def statement_about(plan: PrivacyPlan | None = None, *, noise_multiplier: float = NOISE) -> Statement:
    """The statement about a plan; by default of silos that release the popularity alone, at epsilon 8."""
    plan = plan or silo_plan(adversary="server", rounds=0, popularity_noise_multiplier=noise_multiplier, evaluations=0)
    return statement_of(plan, plan.events(), config=RunConfig.from_mapping({"data.public_catalog": True}))


def evidence_about(
    statement: Statement, *, canaries: int = 400, power: float = 1.0, noise: float = 1.0, **changes: Any
) -> Evidence:
    """Of an ideal Gaussian release at the claim, its signal times `power` and its noise times `noise`."""
    rng = np.random.default_rng(4)
    coins = rng.random(canaries) < 0.5
    attacks, releases = [], []
    for view, adversaries in views_of(statement).items():
        mu = mu_of(claimed_against(statement, adversaries), statement.delta)
        scores = rng.normal(size=canaries) * noise + mu * power * coins
        attacks.append(
            Attack(
                view=view,
                adversaries=adversaries,
                scores=tuple(scores.tolist()),
                included="".join("01"[int(coin)] for coin in coins),
                guesses=planned(statement, adversaries, canaries=canaries),
            )
        )
        kind = CanaryClass(factor=power, error=0.08 / mu, norm=1.0)
        releases.append(
            ReleaseRead(
                view=view, purpose="popularity", round_number=0, values=1000, noise_stddev=1.0 / mu, samples=1000,
                total=1000.0 * noise**2, short=kind, long=kind,
            )
        )  # fmt: skip
    independence = (Independence(view="sums", between="releases of one size", products=100, z=0.3),) if attacks else ()
    held = Evidence(
        attacks=tuple(attacks),
        releases=tuple(releases),
        independence=independence,
        beside=(),
        uncharged=(),
        reconstruction=(
            Reconstruction(
                setting="one contribution, plain", recovered=98, of=100, chance=0.02, example=(3, 7, 41), guessed=(3, 8, 41)
            ),
            Reconstruction(setting="a plain sum of 10: the union of their items", recovered=9, of=10, chance=0.2),
        ),
    )
    return held.model_copy(update=changes)


def body(*, contact: str = "", noise_multiplier: float = NOISE, canaries: int = 400, **readings: Any) -> dict[str, Any]:
    """The body of an audit whose evidence is that of `evidence_about`."""
    statement = statement_about(noise_multiplier=noise_multiplier)
    return _body(statement, evidence_about(statement, canaries=canaries, **readings), contact=contact)


def body_without_privacy() -> dict[str, Any]:
    """The body of an audit of a run that claims nothing."""
    empty = Evidence(attacks=(), releases=(), independence=(), beside=(), uncharged=())
    return _body(statement_about(plain_plan(rounds=0)), empty, contact="")


def _body(statement: Statement, evidence: Evidence, *, contact: str) -> dict[str, Any]:
    coins = evidence.attacks[0].included if evidence.attacks else ""
    made = [{"kind": "protocol", "commitment": commitment_of(coins, "ab")}, {"kind": "twin", "releases": 1}]
    records = linked([{"kind": "run", "event": "asked"}, *made])
    return AuditDocument(
        name="a run",
        created="2026-01-01T00:00:00+00:00",
        contact=contact,
        subject={"release_digest": "00", "code_digest": "00" * 32},
        versions={"tacit": "0.1.0"},
        statement=statement,
        protocol=AuditProtocol(
            canaries=len(coins), long_histories=0, displaced=False, commitment=commitment_of(coins, "ab"), salt="ab"
        ),
        evidence=evidence,
        results=results_of(statement, evidence),
        skipped=(),
        records=tuple(records),
        head=head_of(records),
    ).as_json()
