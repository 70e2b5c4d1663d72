"""How one budget is divided: the noise of the popularity prior and of released metrics, as parts of the run's epsilon.

Training, prior and metrics share one epsilon. Where a setting says `auto`, the noise of a release follows from that epsilon:
it is the noise that is enough at epsilon 8, or more where that would use up too much. What never lives here: the noise of
training, which gets all that is left (`planning.py`).
"""

from __future__ import annotations

import math
from dataclasses import replace

from shared import rounding
from shared.config import RunConfig
from shared.errors import EpsilonOutOfReach
from shared.privacy.accounting import calibrate
from shared.privacy.plan import PrivacyPlan

# Enough noise at epsilon 8: the prior of some hundred users, and metrics of as many, are hardly blurred by it.
_POPULARITY_NOISE, _EVALUATION_NOISE = 3.0, 5.0
# Largest parts of the budget, as parts of the squared signal that a single release of that cost would have.
_POPULARITY_PART, _EVALUATION_PART = 0.1, 0.04
# Of all releases of metrics together.
_EVALUATIONS_PART = 0.3


def with_divided_budget(plan: PrivacyPlan, config: RunConfig) -> PrivacyPlan:
    """The plan with the noise of prior and metrics: what is set, or what follows from epsilon.

    Args:
        plan: Everything else, with its number of evaluations.
        config: The settings. (public)
    """
    privacy = config.privacy
    if "auto" not in (privacy.popularity_noise_multiplier, privacy.evaluation_noise_multiplier):
        alone = 0.0
    else:
        alone = _noise_of_a_single_release(plan)
    part = min(_EVALUATION_PART, _EVALUATIONS_PART / max(plan.evaluations, 1))

    def resolved(setting: float | str, enough: float, part: float) -> float:
        return max(enough, alone / math.sqrt(part)) if isinstance(setting, str) else setting

    return replace(
        plan,
        popularity_noise_multiplier=resolved(privacy.popularity_noise_multiplier, _POPULARITY_NOISE, _POPULARITY_PART),
        evaluation_noise_multiplier=resolved(privacy.evaluation_noise_multiplier, _EVALUATION_NOISE, part),
    )


def verify_something_is_left(plan: PrivacyPlan, config: RunConfig) -> None:
    """Refuses settings of prior and metrics that cost all of epsilon, before any noise for training is looked for.

    Raises:
        EpsilonOutOfReach: Names the settings, what they cost, and values that would do.
    """
    spent = plan.epsilon_after(0, evaluations=plan.evaluations)
    if spent < plan.target_epsilon:
        return
    settings = {
        "privacy.popularity_noise_multiplier": config.privacy.popularity_noise_multiplier,
        "privacy.evaluation_noise_multiplier": config.privacy.evaluation_noise_multiplier,
    }
    given = {name: value for name, value in settings.items() if value not in ("auto", 0.0)}
    auto = with_divided_budget(plan, config.with_values(dict.fromkeys(given, "auto")))
    enough = {
        "privacy.popularity_noise_multiplier": auto.popularity_noise_multiplier,
        "privacy.evaluation_noise_multiplier": auto.evaluation_noise_multiplier,
    }
    now = " and ".join(f"{name}={value:g}" for name, value in given.items())
    do = " and ".join(f"{name}={rounding.significant(enough[name], up=True, digits=3)}" for name in given)
    cost = rounding.at_most(spent)
    raise EpsilonOutOfReach(
        f"Expected releases beside training to cost less than privacy.epsilon={plan.target_epsilon:g}, got epsilon={cost} "
        f"for {now} alone, so that nothing is left for training. Use {do} (which is what auto means here), or a "
        f"privacy.epsilon well above {cost}."
    )


def _noise_of_a_single_release(plan: PrivacyPlan) -> float:
    """The noise multiplier with which a single release to which every unit contributes costs the whole epsilon."""
    return calibrate(
        lambda multiplier: [plan.full_release(multiplier)],
        target_epsilon=plan.target_epsilon,
        delta=plan.delta,
        relation=plan.relation,
    )
