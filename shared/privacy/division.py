"""How one budget is divided: the noise of the popularity prior and of released metrics, as parts of the run's epsilon.

Training, prior and metrics share one epsilon. Where a setting says `auto`, the noise of a release follows from that epsilon:
it is the noise that is enough at epsilon 8, or more where that would use up too much. What never lives here: the noise of
training, which gets all that is left (`calibration.py`).
"""

from __future__ import annotations

import math
from dataclasses import replace

from shared import wording
from shared.config import RunConfig
from shared.errors import EpsilonOutOfReach
from shared.privacy.accounting import calibrate
from shared.privacy.events import Event
from shared.privacy.plan import PrivacyPlan
from shared.privacy.releases import BLENDING_BOUND, KINDS, ReleaseName, kind_of

# Parts of the budget, as parts of the squared signal that a single release with the whole budget would have.
_METRICS_PART, _SELECTION_PART = 0.03, 0.02
# The weights get what moves a mean over users by a thirtieth of the clipping bound, within these limits; the prior what
# places an item that one user in 250 has, and a tenth where that is less: catalogs grow with their users (Amazon Scientific,
# epsilon 8: .076 with a twentieth, .079 with three twentieths; ml-100k: .089 and .087).
_BLENDING_PARTS, _BLENDING_PRECISION = (0.03, 0.12), 0.03 / BLENDING_BOUND
_POPULARITY_PARTS, _POPULARITY_USERS = (0.1, 0.3), 250.0
# Each pilot's part of what is left then; the refinement gets the rest. Where there are few users a small pilot would say too
# little about which statistic to refine.
_PILOT_PART, _LARGE_PILOT_PART, _FEW_USERS, _ALL_PILOTS_PART = 0.15, 0.3, 800.0, 0.8
# What is left to training where there is any.
_TRAINING_PART = 0.4
# Noise of prior and metrics that is enough where training takes the rest, and the least that it leaves them.
_ENOUGH: dict[ReleaseName, float] = {"popularity": 3.0, "metrics": 5.0}
_TRAINED_PARTS: dict[ReleaseName, float] = {"popularity": 0.1, "metrics": 0.04}
# Of all releases of metrics together.
_EVALUATIONS_PART = 0.3


def with_divided_budget(plan: PrivacyPlan, config: RunConfig) -> PrivacyPlan:
    """The plan with the noise of every release: what is set, or what follows from epsilon.

    Args:
        plan: Everything else, with its names of statistics and number of evaluations.
        config: The settings. (public)
    """
    settings = {one.name: getattr(config.privacy, kind_of(one.name).setting) for one in plan.releases}
    alone = noise_of_a_single_release(plan) if "auto" in settings.values() else 0.0
    plan = replace(plan, releases=tuple(one for one in plan.releases if settings[one.name] != 0.0))
    parts = _parts(plan, alone)
    releases = (
        replace(one, noise_multiplier=_noise(alone, parts[one.name], plan, one.name))
        if isinstance(settings[one.name], str)
        else replace(one, noise_multiplier=settings[one.name])
        for one in plan.releases
    )
    return replace(plan, releases=tuple(releases))


def _parts(plan: PrivacyPlan, alone: float) -> dict[ReleaseName, float]:
    """Each release's part of the budget, once.

    What counts is how many users there are to one standard deviation of the noise: all statistics are sums over users.

    Args:
        plan: The population, the clients that add noise, the releases and how often each is planned. (public)
        alone: Noise multiplier of a single release that costs all of epsilon.
    """
    if _only_trains(plan):
        part = min(_TRAINED_PARTS["metrics"], _EVALUATIONS_PART / max(plan.evaluations, 1))
        return {"popularity": _TRAINED_PARTS["popularity"], "metrics": part}
    named = {one.name: one.times for one in plan.releases}
    noise = max(alone, 1e-12) * math.sqrt(plan.num_clients if plan.adds_noise_locally else 1)
    users = plan.population / noise
    parts: dict[ReleaseName, float] = {
        "metrics": _METRICS_PART,
        "selection": _SELECTION_PART,
        "blending": _within(_BLENDING_PARTS, (1.0 / (_BLENDING_PRECISION * users)) ** 2),
        "popularity": _within(_POPULARITY_PARTS, (_POPULARITY_USERS / users) ** 2),
    }
    left = 1.0 - sum(part for name, part in parts.items() if name in named)
    pilots = [name for name in named if name not in parts and name != "refinement"]
    if "refinement" in named:
        pilot = min(_PILOT_PART if users >= _FEW_USERS else _LARGE_PILOT_PART, _ALL_PILOTS_PART / len(pilots))
        parts |= dict.fromkeys(pilots, left * pilot) | {"refinement": left * (1.0 - len(pilots) * pilot)}
    elif pilots:
        parts |= dict.fromkeys(pilots, left / len(pilots))
    else:
        parts["popularity"] += left
    kept = 1.0 - _TRAINING_PART if plan.rounds else 1.0
    return {name: kept * part / named[name] for name, part in parts.items() if name in named}


def _within(limits: tuple[float, float], part: float) -> float:
    return min(max(part, limits[0]), limits[1])


def _noise(alone: float, part: float, plan: PrivacyPlan, name: ReleaseName) -> float:
    """The noise of a release; where training takes the rest, no less than what is enough."""
    noise = alone / math.sqrt(part)
    return max(_ENOUGH.get(name, 0.0), noise) if _only_trains(plan) else noise


def _only_trains(plan: PrivacyPlan) -> bool:
    """Whether prior and metrics are all that is released beside training."""
    return plan.rounds > 0 and {one.name for one in plan.releases} <= {"popularity", "metrics"}


def with_all_spent(plan: PrivacyPlan, config: RunConfig) -> PrivacyPlan:
    """The plan of a run without training, whose releases cost all of epsilon together.

    Args:
        plan: With a divided budget.
        config: The settings; what they fix stays. (public)

    Raises:
        EpsilonOutOfReach: If what is fixed costs more.
    """
    free = {one.name for one in plan.releases if getattr(config.privacy, kind_of(one.name).setting) == "auto"}
    if not free:
        verify_something_is_left(plan, config)
        return plan

    def scaled(factor: float) -> PrivacyPlan:
        releases = (
            replace(one, noise_multiplier=one.noise_multiplier * factor) if one.name in free else one
            for one in plan.releases
        )
        return replace(plan, releases=tuple(releases))

    def events_of(factor: float) -> list[Event]:
        candidate = scaled(factor)
        return candidate.seen_by(candidate.adversary, candidate.events()) or []  # type: ignore[arg-type]

    verify_something_is_left(scaled(1e6), config)
    return scaled(calibrate(events_of, target_epsilon=plan.target_epsilon, delta=plan.delta, relation=plan.relation))


def verify_something_is_left(plan: PrivacyPlan, config: RunConfig) -> None:
    """Refuses settings of prior and metrics that cost all of epsilon, before any noise for training is looked for.

    Raises:
        EpsilonOutOfReach: Names the settings, what they cost, and values that would do.
    """
    spent = plan.epsilon_after(0)
    if spent < plan.target_epsilon:
        return
    settings = {f"privacy.{kind.setting}": getattr(config.privacy, kind.setting) for kind in KINDS}
    given = {name: value for name, value in settings.items() if value not in ("auto", 0.0)}
    auto = with_divided_budget(plan, config.with_values(dict.fromkeys(given, "auto")))
    enough = {f"privacy.{kind_of(one.name).setting}": one.noise_multiplier for one in auto.releases}
    given = {name: value for name, value in given.items() if name in enough}
    now = " and ".join(f"{name}={value:g}" for name, value in given.items())
    do = " and ".join(f"{name}={wording.significant(enough[name], up=True, digits=3)}" for name in given)
    cost = wording.at_most(spent)
    raise EpsilonOutOfReach(
        f"Expected releases beside training to cost less than privacy.epsilon={plan.target_epsilon:g}, got epsilon={cost} "
        f"for {now} alone, so that nothing is left for training. Use {do} (which is what auto means here), or a "
        f"privacy.epsilon well above {cost}."
    )


def noise_of_a_single_release(plan: PrivacyPlan) -> float:
    """The noise multiplier with which a single release to which every unit contributes costs the whole epsilon."""
    return calibrate(
        lambda multiplier: [plan.full_release(multiplier)],
        target_epsilon=plan.target_epsilon,
        delta=plan.delta,
        relation=plan.relation,
    )
