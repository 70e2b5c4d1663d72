"""Privacy plans for tests, made field by field, so that a test says what matters to it and nothing else."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from shared.config import RunConfig
from shared.privacy.calibration import plan_of
from shared.privacy.mechanism import Mechanism
from shared.privacy.plan import PrivacyPlan
from shared.privacy.releases import KINDS, METRICS, Release

_SILO = PrivacyPlan(
    mechanism=Mechanism.DP_SGD,
    unit="user",
    adversary="active-server",
    secure_aggregation="none",
    windows_per_user=1,
    population=943,
    num_clients=4,
    rounds=3,
    steps_per_round=4,
    sampling_rate=0.25,
    noise_multiplier=1.25,
    l2_clip_norm=0.5,
    delta=1e-4,
    target_epsilon=8.0,
    cohort_cap=0,
    minimum_survivors=4,
    colluding_clients=0,
    min_separation=0,
    clipping_share=0.0,
    clipping_quantile=0.5,
    releases=(Release("popularity", 3.0), Release("metrics", 5.0)),
    reproducible=False,
    public_catalog=True,
)


def changed(plan: PrivacyPlan, **changes: Any) -> PrivacyPlan:
    """A plan with other fields; `popularity_noise_multiplier=2.0` and the like change, add or (0) drop one release.

    `statistics="popularity,pairs"` names all that are released beside metrics, `evaluations` says how often these are.
    """
    named = changes.pop("statistics", ",".join(plan.statistics)).split(",")
    times = changes.pop("evaluations", plan.evaluations)
    releases = []
    for kind in KINDS:
        noise = changes.pop(kind.setting, None)
        if not times if kind is METRICS else kind.name not in named and not noise:
            continue
        multiplier = plan.noise_of(kind.name) if noise is None else noise
        if multiplier or not changes.get("noise_multiplier", plan.noise_multiplier):
            releases.append(Release(kind.name, multiplier, times if kind is METRICS else kind.times))
    return replace(plan, **{"releases": tuple(releases), **changes})


def silo_plan(**changes: Any) -> PrivacyPlan:
    """DP-SGD inside silos."""
    return changed(_SILO, **changes)


def plain_plan(**changes: Any) -> PrivacyPlan:
    """No privacy."""
    plain = {
        "mechanism": Mechanism.NONE, "adversary": "none", "noise_multiplier": 0.0, "l2_clip_norm": math.inf, "delta": 0.0,
        "target_epsilon": math.inf, "popularity_noise_multiplier": 0.0, "evaluation_noise_multiplier": 0.0, "evaluations": 0,
    }  # fmt: skip
    return changed(_SILO, **{**plain, **changes})


def central_plan(**changes: Any) -> PrivacyPlan:
    """One user a client, noise by the server."""
    central = {
        "mechanism": "central", "adversary": "outsider", "population": 100, "num_clients": 100, "minimum_survivors": 0,
        "sampling_rate": 1.0, "steps_per_round": 1,
    }  # fmt: skip
    return changed(_SILO, **{**central, **changes})


def distributed_plan(**changes: Any) -> PrivacyPlan:
    """One user a client, noise in shares."""
    shares = {
        "mechanism": Mechanism.DISTRIBUTED,
        "adversary": "server",
        "secure_aggregation": "stand-in",
        "minimum_survivors": 80,
    }
    return central_plan(**{**shares, **changes})


def default_plan() -> PrivacyPlan:
    """The plan of `tacit simulate` without options on the embedded data: statistics alone, in four silos."""
    config = RunConfig.from_mapping({"data.public_catalog": True})
    return plan_of(config, num_users=3000, num_clients=4)
