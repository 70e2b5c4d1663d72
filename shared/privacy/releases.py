"""What a run releases beside its training: sums over users of one bounded vector each, noised once a release.

All of them go one way: the client bounds a unit's vector (`client/statistics/`), the plan says how much noise its sum gets,
the ledger and every claim count its event, the server decodes the sum and makes public values of it. None of these places
knows what a single release is about; they read `PrivacyPlan.releases`.

Their names, in the order of a run:

    popularity   how often each item was used; the prior, and what every later release takes the head of the catalog from
    pairs        which two items stand near one another in histories: a pilot, with a part of the budget
    transitions  what the texts of the last items say about the text of the next one: a pilot too
    refinement   the same statistic once more, with most of the budget: of the three the one that promises most by the
                 first step of the weights. Its noise is the same whichever it is, so it composes like any other release
    blending     how the weights of the scores should move, from held-out validation interactions
    selection    how well the candidates for the released recommender do on held-out validation interactions
    metrics      HR and NDCG of what is released

What never lives here: how much noise each gets (`division.py`), what a vector holds (`client/statistics/`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

ReleaseName = Literal["popularity", "pairs", "transitions", "refinement", "blending", "selection", "metrics"]
RELEASES: tuple[ReleaseName, ...] = get_args(ReleaseName)
# What a server asks for: a release, which statistic is refined, or which interactions the metrics are about.
Purpose = Literal[
    "popularity",
    "pairs",
    "transitions",
    "refine-popularity",
    "refine-pairs",
    "refine-transitions",
    "blending",
    "selection",
    "validation",
    "test",
]
PURPOSES: tuple[Purpose, ...] = get_args(Purpose)
_REFINES = "refine-"
# L2 bound of one unit's vector, whatever the release.
L2_BOUND = 1.0
# A user's gradient and scaled Hessian in the weights of the scores are clipped to this norm together.
BLENDING_BOUND, HESSIAN_SCALE = 4.0, 0.5
# The weights move by so many Newton steps, of which the first says what is refined.
BLENDING_STEPS = 3


@dataclass(frozen=True)
class Release:
    """One kind of release in a run. (public)

    Attributes:
        name: Which.
        noise_multiplier: Standard deviation of the noise in the sum over `L2_BOUND`; 0: exact, without privacy alone.
        times: How often it is planned.
    """

    name: ReleaseName
    noise_multiplier: float
    times: int = 1


def release_of(purpose: str) -> ReleaseName:
    """The release that a request is for."""
    if purpose.startswith(_REFINES):
        return "refinement"
    return "metrics" if purpose in ("validation", "test") else purpose  # type: ignore[return-value]


def statistic_of(purpose: str) -> str:
    """What the vectors of a request hold: a refinement holds what it refines."""
    return purpose.removeprefix(_REFINES)


def is_sparse(purpose: str) -> bool:
    """Whether a unit's vector has few nonzero values among very many, and is encoded as it is."""
    return statistic_of(purpose) == "pairs"
