"""Privacy plans for tests, made field by field, so that a test says what matters to it and nothing else."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from shared.privacy.mechanism import Mechanism
from shared.privacy.plan import PrivacyPlan

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
    statistics="popularity",
    popularity_noise_multiplier=3.0,
    pairs_noise_multiplier=0.0,
    transitions_noise_multiplier=0.0,
    refinement_noise_multiplier=0.0,
    blending_noise_multiplier=0.0,
    selection_noise_multiplier=0.0,
    evaluation_noise_multiplier=5.0,
    evaluations=1,
    reproducible=False,
    public_catalog=True,
)


def silo_plan(**changes: Any) -> PrivacyPlan:
    """DP-SGD inside silos."""
    return replace(_SILO, **changes)


def plain_plan(**changes: Any) -> PrivacyPlan:
    """No privacy."""
    plain = {
        "mechanism": Mechanism.NONE, "adversary": "none", "noise_multiplier": 0.0, "l2_clip_norm": math.inf, "delta": 0.0,
        "target_epsilon": math.inf, "popularity_noise_multiplier": 0.0, "evaluation_noise_multiplier": 0.0, "evaluations": 0,
    }  # fmt: skip
    return replace(_SILO, **{**plain, **changes})


def central_plan(**changes: Any) -> PrivacyPlan:
    """One user a client, noise by the server."""
    central = {
        "mechanism": "central", "adversary": "outsider", "population": 100, "num_clients": 100, "minimum_survivors": 0,
        "sampling_rate": 1.0, "steps_per_round": 1,
    }  # fmt: skip
    return replace(_SILO, **{**central, **changes})


def distributed_plan(**changes: Any) -> PrivacyPlan:
    """One user a client, noise in shares."""
    shares = {
        "mechanism": Mechanism.DISTRIBUTED,
        "adversary": "server",
        "secure_aggregation": "stand-in",
        "minimum_survivors": 80,
    }
    return central_plan(**{**shares, **changes})
