"""From what is wanted to a plan: `[privacy]` of the configuration is checked, resolved and calibrated.

Here live the settings' meanings and their contradictions, and the search for the noise; what a plan then does and costs is
`plan.py`'s. A plan is made anew by whoever needs it, server and clients alike, from the same public constants.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import lru_cache

from shared.config import RunConfig
from shared.config.defaults import fitted
from shared.errors import ConfigError, UnsupportedMechanism
from shared.privacy import supported_claims
from shared.privacy.accounting import calibrate
from shared.privacy.division import verify_something_is_left, with_all_spent, with_divided_budget
from shared.privacy.events import Event
from shared.privacy.mechanism import Mechanism
from shared.privacy.plan import PrivacyPlan
from shared.privacy.population import PublicSize, default_delta
from shared.privacy.releases import METRICS, Release, kind_of, release_names
from shared.privacy.shares import shares_of
from shared.secagg.parameters import Assumptions, fewest_in_active_sums

# Beyond, no noise is found in minutes where steps are sampled, and nothing is promised anyway.
_LARGEST_SAMPLED_EPSILON = 1000.0
_MOST_SAMPLED_STEPS = 1_000_000


def plan_of(config: RunConfig, *, num_users: int, num_clients: int | None = None) -> PrivacyPlan:
    """Calibrates the noise of a run.

    Args:
        config: What is wanted. (public)
        num_users: Users found, which the plan does not hold: it has `privacy.population`, or the number rounded. (private)
        num_clients: Number of clients, equal to num_users where every user is one; by default what the configuration says.

    Raises:
        ConfigError: If a setting contradicts another, or delta is not below 1 / population.
        UnsupportedMechanism: If the combination cannot be claimed.
        PrivacyError: If no noise reaches the epsilon asked for.
    """
    clients = num_clients or config.federation.clients or num_users
    size = PublicSize.of(num_users, clients, declared=config.privacy.population)
    return plan_for(config, size.users, size.clients)


@lru_cache(maxsize=256)
def plan_for(config: RunConfig, num_users: int, num_clients: int) -> PrivacyPlan:
    """`plan_of`, remembered, for public constants: the same ones lead to the same plan."""
    config = fitted(config, num_users=num_users, num_clients=num_clients)
    plan = without_noise_for_training(config, num_users, num_clients)
    if plan.mechanism.is_none:
        return plan
    if not plan.rounds:
        return with_all_spent(plan, config)

    def events_of(noise_multiplier: float) -> list[Event]:
        candidate = replace(plan, noise_multiplier=noise_multiplier)
        return candidate.seen_by(candidate.adversary, candidate.events()) or []  # type: ignore[arg-type]

    _check_effort(plan)
    verify_something_is_left(plan, config)
    noise_multiplier = calibrate(events_of, target_epsilon=config.privacy.epsilon, delta=plan.delta, relation=plan.relation)
    return replace(plan, noise_multiplier=noise_multiplier)


def without_noise_for_training(config: RunConfig, num_users: int, num_clients: int) -> PrivacyPlan:
    """Everything but the noise of training, checked; its multiplier is 1 where there will be one."""
    training, privacy, mechanism = config.training, config.privacy, config.mechanism
    plan = PrivacyPlan(
        mechanism=mechanism,
        unit=privacy.unit,
        adversary=privacy.adversary,
        secure_aggregation=_aggregation(config),
        windows_per_user=privacy.windows_per_user if privacy.unit == "window" else 1,
        population=num_users,
        num_clients=num_clients,
        rounds=int(config.federation.rounds),
        steps_per_round=training.local_steps,
        sampling_rate=training.sampling_rate,
        noise_multiplier=0.0,
        l2_clip_norm=math.inf,
        delta=0.0,
        target_epsilon=privacy.epsilon,
        cohort_cap=0,
        # Each silo adds its full noise, so a round holds without some of them; with less than half it says little.
        minimum_survivors=config.federation.minimum_clients or math.ceil(num_clients / 2),
        colluding_clients=0,
        min_separation=0,
        clipping_share=0.0,
        clipping_quantile=privacy.clipping_quantile,
        releases=_planned(config),
        reproducible=config.run.reproducible,
        public_catalog=config.data.public_catalog,
    )
    if mechanism.is_none:
        return replace(plan, adversary="none", secure_aggregation="none")
    adversary = privacy.adversary
    if adversary == "auto":
        adversary = supported_claims.strongest_adversary(mechanism, plan.secure_aggregation)
    supported_claims.check(
        unit=privacy.unit, mechanism=mechanism, secure_aggregation=plan.secure_aggregation, adversary=adversary
    )
    supported_claims.check_aggregation(aggregation=config.adapter.aggregation, mechanism=mechanism)
    _check_settings(config, num_users, num_clients)
    plan = replace(
        plan,
        adversary=adversary,
        noise_multiplier=1.0,
        l2_clip_norm=privacy.l2_clip_norm,
        delta=privacy.delta or default_delta(plan.num_units),
        releases=(*plan.releases, Release(METRICS.name, 0.0, _evaluations(config))),
        cohort_cap=privacy.cohort_cap,
        colluding_clients=privacy.colluding_clients,
        clipping_share=privacy.clipping_budget_share if privacy.clipping == "adaptive" else 0.0,
    )
    if plan.clips_whole_updates:
        rate = min(1.0, (privacy.expected_cohort or num_clients) / num_clients)
        plan = replace(plan, sampling_rate=rate)
    if mechanism.takes_turns:
        longest = max(plan.rounds, 1) * (plan.steps_per_round if mechanism.users_take_turns else 1)
        separation = privacy.min_separation or min(max(1, round(1 / plan.sampling_rate)), longest)
        plan = replace(plan, min_separation=separation)
        if separation > longest:
            raise ConfigError(
                f"Expected DP-FTRL's separation <= steps of the run, got min_separation={separation}, steps={longest}. Most "
                "users would never take part; train longer, or set privacy.min_separation."
            )
    if mechanism.shares_noise:
        rate, masked = plan.sampling_rate, plan.masks_contributions
        shares = shares_of(config, num_clients=num_clients, sampling_rate=rate, masked=masked)
        plan = replace(plan, minimum_survivors=shares.survivors, colluding_clients=shares.colluding)
        if masked:
            assumed = Assumptions.of(config.secure_aggregation)
            plan = replace(plan, smallest_active_sum=fewest_in_active_sums(shares.survivors, plan.most_clients, assumed))
    elif plan.clips_whole_updates:
        plan = replace(plan, minimum_survivors=config.federation.minimum_clients)
    return with_divided_budget(plan, config)


def _aggregation(config: RunConfig) -> supported_claims.Aggregation:
    """How the server gets the sum of contributions; only noise in shares needs it to see nothing else."""
    settings = config.secure_aggregation
    if not config.mechanism.shares_noise or not settings.enabled:
        return "none"
    return "masked" if settings.simulate == "full" else "stand-in"


def _planned(config: RunConfig) -> tuple[Release, ...]:
    """The statistics that a configuration names, exact as yet."""
    named = {"popularity", *(config.statistics.names() or ())}
    return tuple(Release(name, 0.0, kind_of(name).times) for name in release_names() if name in named)


def _check_effort(plan: PrivacyPlan) -> None:
    """Refuses sampled steps whose noise could not be computed in minutes."""
    if plan.sampling_rate == 1.0:
        return  # they compose into one release
    steps = plan.rounds * (1 if plan.clips_whole_updates else plan.steps_per_round)
    if steps > _MOST_SAMPLED_STEPS:
        raise ConfigError(
            f"Expected at most {_MOST_SAMPLED_STEPS:,} noised steps in a run (federation.rounds x training.local_steps), "
            f"got {steps:,}. Use fewer."
        )
    if plan.target_epsilon > _LARGEST_SAMPLED_EPSILON:
        raise ConfigError(
            f"Expected privacy.epsilon <= {_LARGEST_SAMPLED_EPSILON:g} or inf where users are sampled, got privacy.epsilon="
            f"{plan.target_epsilon:g}. It promises nothing; use a value such as 8, or inf to turn privacy off."
        )


def _evaluations(config: RunConfig) -> int:
    """Releases of metrics in a run: the test at the end, and one validation a judged round where the best is chosen."""
    if config.evaluation.released_round == "last":
        return 1
    return 1 + len(validated_rounds(config))


def validated_rounds(config: RunConfig) -> list[int]:
    """The rounds after which validation is measured: every so many, and the last."""
    rounds, every = int(config.federation.rounds), config.evaluation.every_rounds
    return sorted({*range(every, rounds + 1, every), *range(rounds, rounds + 1)} - {0})


def _check_settings(config: RunConfig, num_users: int, num_clients: int) -> None:
    """Refuses settings that contradict one another, or that nobody can keep."""
    privacy, mechanism, across = config.privacy, config.mechanism, config.mechanism.clips_whole_updates
    windows = privacy.windows_per_user if privacy.unit == "window" else 1
    if privacy.delta and not privacy.delta < 1 / (num_users * windows):
        units = "population" if windows == 1 else "(population x privacy.windows_per_user)"
        raise ConfigError(
            f"Expected delta < 1/{units}, got delta={privacy.delta:g}, population={num_users} (public)"
            f"{'' if windows == 1 else f', windows_per_user={windows}'}. Use at most {default_delta(num_users * windows):g}."
        )
    if across and num_clients != num_users:
        raise UnsupportedMechanism(
            f"Expected one user a client for privacy.mechanism={mechanism}, got clients={num_clients}, users={num_users}. "
            "A clipped update protects a client, and a user only where a client is one; use federation.clients=0, or "
            "mechanism=dp-sgd."
        )
    if privacy.clipping == "adaptive" and not across:
        raise UnsupportedMechanism(
            f"Expected privacy.clipping=fixed for privacy.mechanism={mechanism}, got adaptive. A silo that counted its own "
            "norms would need a budget of its own for it; use fixed, or federation.clients=0."
        )
    cohort = privacy.expected_cohort or num_clients
    if mechanism.clients_take_turns and privacy.expected_cohort and privacy.min_separation:
        raise ConfigError(
            "Expected privacy.expected_cohort or privacy.min_separation for dp-ftrl-central, got both. One follows from the "
            "other; set one to 0."
        )
    allowed = {
        "expected_cohort": across,
        "cohort_cap": mechanism is Mechanism.CENTRAL,  # the truncated-Poisson bound is known for Gaussian noise
        "colluding_clients": mechanism.shares_noise,  # only noise in shares depends on who colludes
        "min_separation": mechanism.takes_turns,
    }
    for name, holds in allowed.items():
        if getattr(privacy, name) and not holds:
            raise UnsupportedMechanism(
                f"Expected privacy.{name} = 0 for privacy.mechanism={mechanism}, got privacy.{name}="
                f"{getattr(privacy, name)}. It means nothing there; set it to 0, or choose another mechanism."
            )
    if mechanism is Mechanism.CENTRAL and cohort < num_clients and config.federation.minimum_clients:
        raise UnsupportedMechanism(
            f"Expected federation.minimum_clients = 0 for a sampled cohort under privacy.mechanism=central, got "
            f"{config.federation.minimum_clients}. Dropping small cohorts would tell who was in them, and the noise does "
            "not need it; set it to 0."
        )
    if cohort > num_clients:
        raise ConfigError(
            f"Expected privacy.expected_cohort <= number of clients, got expected_cohort={cohort}, clients={num_clients}. "
            "Use 0 to ask all."
        )
    if privacy.cohort_cap and not cohort <= privacy.cohort_cap <= num_clients:
        raise ConfigError(
            f"Expected expected_cohort <= privacy.cohort_cap <= clients, got cohort_cap={privacy.cohort_cap}, "
            f"expected_cohort={cohort}, clients={num_clients}. Use 0 for no cap."
        )
    if config.evaluation.released_round == "best-noised" and not privacy.evaluation_noise_multiplier:
        raise ConfigError(
            "Expected privacy.evaluation_noise_multiplier > 0 with evaluation.released_round=best-noised, got 0. Choosing a "
            "round needs noised validations; use released_round=last."
        )
