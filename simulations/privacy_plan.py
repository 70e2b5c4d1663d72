"""`tacit privacy plan`: what a configuration promises before anything runs, and what changing each knob would cost.

It computes nothing of its own: claims and epsilons come from `shared/privacy`, and the price of a knob is the noise of a
plan that is calibrated with the knob changed.
"""

from __future__ import annotations

import math
from typing import Any

from shared import wording
from shared.config import RunConfig, Scalar
from shared.config.defaults import fitted
from shared.errors import EpsilonOutOfReach, TacitError
from shared.files import finite
from shared.privacy.calibration import plan_of, without_noise_for_training
from shared.privacy.mechanism import Mechanism
from shared.privacy.plan import PrivacyPlan
from shared.privacy.population import PublicSize, default_delta
from shared.privacy.releases import KINDS, ReleaseName
from shared.privacy.shapes import StatisticShapes
from shared.privacy.statement import Statement, statement_of
from simulations.plan_record import Knob, PlannedData, PlannedNoise, PlanRecord, RefusedPlan

# More than any head has.
_MANY_ITEMS = 100_000


def explain(
    config: RunConfig, *, num_users: int, num_clients: int, data_name: str, num_items: int | None = None
) -> dict[str, Any]:
    """Everything that `tacit privacy plan` says, ready for JSON.

    Args:
        config: What is wanted. (public)
        num_users: Users found; what is said is the plan's public constant. (private)
        num_clients: Clients found. (private where every user is one)
        data_name: What to call the data.
        num_items: Of the catalog; None where there is none to look at. (public)

    Returns:
        Claims, noise and knobs; where no noise keeps the epsilon asked for, `refused` with the reason, and the knobs alone.

    Raises:
        TacitError: If the configuration promises what cannot be claimed; the message has the reason.
    """
    try:
        plan = plan_of(config, num_users=num_users, num_clients=num_clients)
    except EpsilonOutOfReach as error:
        return _refused(config, error, num_users=num_users, num_clients=num_clients, data_name=data_name)
    sizes = message_bytes(config, plan, num_items)
    statement = statement_of(plan, plan.events(), config=config, message_bytes=sizes)
    return PlanRecord(
        **{name: getattr(statement, name) for name in Statement.model_fields},
        data=PlannedData(name=data_name, users=plan.population, clients=plan.num_clients),
        noise=_noise(plan),
        division=statement.shares,
        knobs=tuple(_knobs(config, plan, today=noise_in_the_mean(plan))) if plan.adds_noise else (),
    ).as_json()


def _refused(
    config: RunConfig, error: EpsilonOutOfReach, *, num_users: int, num_clients: int, data_name: str
) -> dict[str, Any]:
    """What to change where the epsilon asked for is out of reach."""
    size = PublicSize.of(num_users, num_clients, declared=config.privacy.population)
    config = fitted(config, num_users=size.users, num_clients=size.clients)
    plan = without_noise_for_training(config, size.users, size.clients)
    return RefusedPlan(
        data=PlannedData(name=data_name, users=plan.population, clients=plan.num_clients),
        refused=str(error),
        error=str(error),
        exit_status=error.exit_status,
        delta=plan.delta,
        knobs=tuple(_knobs(config, plan, today=None)),
    ).as_json()


def message_bytes(config: RunConfig, plan: PrivacyPlan, num_items: int | None) -> dict[ReleaseName, int]:
    """How large a client's contribution to each release is; without a catalog that of the prior is not known.

    Args:
        config: Settings of the statistics, and how many text directions the model keeps at most. (public)
        plan: How contributions travel. (public)
        num_items: I, or None. (public)
    """
    shapes = StatisticShapes.expected(
        config, plan, num_items=num_items or _MANY_ITEMS, dimensions=config.model.content_dimensions
    )
    found = shapes.message_bytes(plan)
    return {name: size for name, size in found.items() if num_items is not None or name != "popularity"}


def noise_multiplier_of(plan: PrivacyPlan) -> float:
    """The noise of training; where there is none, of the release with the least."""
    if plan.rounds or not plan.releases:
        return plan.noise_multiplier
    return min(one.noise_multiplier for one in plan.releases)


def noise_in_the_mean(plan: PrivacyPlan) -> float:
    """Standard deviation of the noise in one step's mean over C, in each coordinate: what the signal has to outweigh.

    Without training it is that of the release with the least, in the mean over all users.
    """
    if not plan.rounds:
        return noise_multiplier_of(plan) * math.sqrt(plan.num_clients if plan.adds_noise_locally else 1) / plan.population
    if plan.clips_whole_updates:
        return plan.noise_multiplier / plan.expected_cohort
    return plan.noise_multiplier / (plan.expected_batch_size * math.sqrt(plan.num_clients))


def _noise(plan: PrivacyPlan) -> PlannedNoise:
    where = {
        "none": "nowhere",
        "dp-sgd": "inside each silo, at every local step",
        "dp-ftrl-silo": "inside each silo, at every local step, correlated over steps",
        "central": "by the server, on the exact integer sum of a round",
        "dp-ftrl-central": "by the server, on the exact integer sum of a round, correlated over rounds",
        "distributed": "by the clients, a share each, so that the sum carries all of it",
    }[plan.mechanism]
    return PlannedNoise(
        where=where,
        noise_multiplier=noise_multiplier_of(plan),
        in_the_mean=finite(noise_in_the_mean(plan)) if plan.adds_noise else 0.0,
        share_multiplier=plan.noise_multiplier * math.sqrt(plan.noise_share) if plan.noise_share else None,
    )


def _knobs(config: RunConfig, plan: PrivacyPlan, *, today: float | None) -> list[Knob]:
    """Each knob turned by itself: the noise of the plan that results, beside today's where there is one."""
    rows: list[Knob] = []
    if plan.mechanism.clips_whole_updates:  # a population of another size could have another one
        config = config.with_values({"privacy.mechanism": str(plan.mechanism)})
    for label, changed, num_users in _turned(config, plan):
        num_clients = num_users if config.one_user_a_client else plan.num_clients
        try:
            turned = config.with_values({**changed, "privacy.population": num_users})
            other = plan_of(turned, num_users=num_users, num_clients=num_clients)
        except TacitError as error:
            why_not = "out of reach" if isinstance(error, EpsilonOutOfReach) else str(error)
            rows.append(Knob(knob=label, noise_multiplier=None, noise_in_the_mean=None, why_not=why_not))
            continue
        ratio = None if today is None else noise_in_the_mean(other) / today
        multiplier = noise_multiplier_of(other)
        rows.append(Knob(knob=label, noise_multiplier=multiplier, noise_in_the_mean=finite(ratio), why_not=None))
    return rows


def _turned(config: RunConfig, plan: PrivacyPlan) -> list[tuple[str, dict[str, Scalar], int]]:
    """Label, changed settings, population."""
    users, rounds, epsilon, delta = plan.population, plan.rounds, config.privacy.epsilon, plan.delta
    # What a population of another size would do is asked at the same delta, so that one thing changes at a time.
    fixed: dict[str, Scalar] = {"privacy.delta": delta}
    turned: list[tuple[str, dict[str, Scalar], int]] = [
        (f"privacy.epsilon = {wording.asked_text(epsilon / 2)}", {"privacy.epsilon": epsilon / 2}, users),
        (f"privacy.epsilon = {wording.asked_text(epsilon * 2)}", {"privacy.epsilon": epsilon * 2}, users),
        (f"privacy.delta = {delta / 10:.0e}", {"privacy.delta": delta / 10}, users),
        (f"federation.rounds = {rounds * 2 or 10}", {"federation.rounds": rounds * 2 or 10}, users),
    ]
    if rounds > 1:
        turned.append((f"federation.rounds = {rounds // 2}", {"federation.rounds": rounds // 2}, users))
    if plan.rounds and not plan.clips_whole_updates:
        steps = plan.steps_per_round
        turned.append((f"training.local_steps = {steps * 2}", {"training.local_steps": steps * 2}, users))
    if plan.rounds and plan.mechanism is Mechanism.DP_SGD:
        rate = plan.sampling_rate
        turned.append((f"training.sampling_rate = {rate / 2:g}", {"training.sampling_rate": rate / 2}, users))
    if plan.rounds and plan.mechanism.clips_whole_updates and not plan.mechanism.takes_turns:
        cohort = max(1, round(plan.expected_cohort / 2))
        turned.append((f"privacy.expected_cohort = {cohort}", {"privacy.expected_cohort": cohort}, users))
    settings = {
        **{f"privacy.{kind.setting}": getattr(config.privacy, kind.setting) for kind in KINDS},
    }
    explicit = [name for name, value in settings.items() if value not in ("auto", 0.0)]
    turned += [(f"{name} = auto", {name: "auto"}, users) for name in explicit]
    if len(explicit) > 1:
        turned.append(("all of these = auto", dict.fromkeys(explicit, "auto"), users))
    if plan.noise_of("popularity"):
        off: dict[str, Scalar] = {"privacy.popularity_noise_multiplier": 0.0}
        turned.append(("no popularity prior", off, users))
    if plan.noise_of("metrics") and config.evaluation.released_round == "last":
        turned.append(("no released metrics", {"privacy.evaluation_noise_multiplier": 0.0}, users))
    units = plan.windows_per_user
    if delta < 1 / (10 * users * units):
        turned.append((f"a population of {users * 10:,}", fixed, users * 10))
    elif default_delta(users * 10 * units) < delta:
        turned.append((f"a population of {users * 10:,}", {"privacy.delta": default_delta(users * 10 * units)}, users * 10))
    return turned
