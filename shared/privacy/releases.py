"""What a run releases beside its training: sums over users of one bounded vector each, noised once a release.

All of them go one way: the client bounds a unit's vector (`client/statistics/`), the plan says how much noise its sum gets,
the ledger and every claim count its event, the server decodes the sum and makes public values of it. None of these places
knows what a single release is about; they read `PrivacyPlan.releases`.

Their names, in the order of a run:

    popularity   how often each item was used; the prior, and what every later release takes the head of the catalog from
    pairs        which two items stand near one another in histories
    transitions  what the texts of the last items say about the text of the next one
    blending     how the weights of the scores should move, from held-out validation interactions
    selection    how well the candidates for the released recommender do on held-out validation interactions
    metrics      HR and NDCG of what is released

What never lives here: how much noise each gets (`division.py`), what a vector holds (`client/statistics/`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

ReleaseName = Literal["popularity", "pairs", "transitions", "blending", "selection", "metrics"]
RELEASES: tuple[ReleaseName, ...] = ("popularity", "pairs", "transitions", "blending", "selection", "metrics")
# What a server asks for -> the release that it is.
_OF_PURPOSE: dict[str, str] = {"validation": "metrics", "test": "metrics"}
# L2 bound of one unit's vector, whatever the release.
L2_BOUND = 1.0
# The weights move by so many Newton steps.
BLENDING_STEPS = 2


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

    @property
    def is_sparse(self) -> bool:
        """Whether a unit's vector has few nonzero values among very many, and is encoded as it is."""
        return self.name == "pairs"


def release_of(purpose: str) -> ReleaseName:
    """The release that a request is for: `popularity`, `pairs`, ..., and `validation` and `test`, which are metrics."""
    return _OF_PURPOSE.get(purpose, purpose)  # type: ignore[return-value]
