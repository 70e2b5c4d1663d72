"""What a run releases beside its training: sums over users of one bounded vector each, noised once a release.

All of them go one way: the client bounds a unit's vector (`client/statistics/`), the plan says how much noise its sum gets,
the ledger and every claim count its event, the server decodes the sum and makes public values of it (`server/statistics/`).
None of these places knows what a single release is about; they read `PrivacyPlan.releases`.

The kinds, in the order of a run:

    popularity   how often each item was used; the prior, and what every later release takes the head of the catalog from
    pairs        which two items stand near one another in histories: a pilot, with a part of the budget
    transitions  what the last items say about the next one: a pilot too
    refinement   the same statistic once more, with most of the budget: of the three the one that promises most by the
                 first step of the weights. Its noise is the same whichever it is, so it composes like any other release
    blending     how the weights of the scores should move, from held-out validation interactions
    selection    how well the candidates for the released recommender do on held-out validation interactions
    metrics      HR and NDCG of what is released

A new one is a kind here with its setting (`shared/config/sections.py`), a class in `client/statistics/` that bounds a unit's
vector, and a class in `server/statistics/` that learns from the noised sum. What never lives here: how much noise each gets
(`division.py`), what a vector holds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from shared.metrics.noised import NUM_VALUES

# The name of a kind; and what a server asks for: a kind, which statistic is refined, or what the metrics are about.
ReleaseName = str
Purpose = str
_REFINES: Final = "refine-"
# L2 bound of one unit's vector, whatever the release.
L2_BOUND: Final = 1.0
# A user's gradient and scaled Hessian in the weights of the scores are clipped to this norm together.
BLENDING_BOUND, HESSIAN_SCALE = 4.0, 0.5
# The weights move by so many Newton steps, of which the first says what is refined.
BLENDING_STEPS: Final = 3


class Shapes(Protocol):
    """What the sizes of releases follow from (`shapes.py`)."""

    @property
    def num_items(self) -> int:
        """I."""
        ...

    @property
    def num_pairs(self) -> int:
        """Pairs of items of the head."""
        ...

    @property
    def num_transitions(self) -> int:
        """Entries of the moments between directions."""
        ...

    @property
    def num_derivatives(self) -> int:
        """Gradient and Hessian in the weights of the scores."""
        ...

    @property
    def num_compared(self) -> int:
        """Candidates that the selection compares with the untrained recommender."""
        ...


@dataclass(frozen=True)
class ReleaseKind:
    """What is public about a kind of release, whatever the run.

    Attributes:
        name: What it is called on the wire, in plans, ledgers and reports.
        setting: The key of [privacy] that sets its noise; `auto` there divides the budget.
        size: How many values a unit's vector has.
        holds: What a contribution is, for people: "a client sends ...".
        times: How often a run makes it; of metrics the configuration says how often.
        is_sparse: Whether one unit's vector has few nonzero values among very many, and is encoded as it is.
        reads_held_out: Whether it is about held-out interactions; others see training interactions alone.
        about: The purposes that ask for it, where these are others than its name.
    """

    name: ReleaseName
    setting: str
    size: Callable[[Shapes], int]
    holds: str
    times: int = 1
    is_sparse: bool = False
    reads_held_out: bool = False
    about: tuple[Purpose, ...] = ()


def _of_what_is_refined(shapes: Shapes) -> int:
    return max(kind.size(shapes) for kind in _BEFORE)


_BEFORE: Final = (
    ReleaseKind(
        "popularity",
        "popularity_noise_multiplier",
        size=lambda shapes: shapes.num_items,
        holds="the count of its users' training items",
    ),
    ReleaseKind(
        "pairs",
        "pairs_noise_multiplier",
        size=lambda shapes: shapes.num_pairs,
        holds="which pairs of the catalog's head stand near one another in its users' training histories",
        is_sparse=True,
    ),
    ReleaseKind(
        "transitions",
        "transitions_noise_multiplier",
        size=lambda shapes: shapes.num_transitions,
        holds="second moments of the texts of successive training items",
    ),
)
KINDS: tuple[ReleaseKind, ...] = (
    *_BEFORE,
    ReleaseKind(
        "refinement",
        "refinement_noise_multiplier",
        size=_of_what_is_refined,
        holds="one of these three statistics once more",
        about=tuple(f"{_REFINES}{one.name}" for one in _BEFORE),
    ),
    ReleaseKind(
        "blending",
        "blending_noise_multiplier",
        size=lambda shapes: shapes.num_derivatives,
        holds="how the weights of the scores should move for its users' validation items",
        times=BLENDING_STEPS,
        reads_held_out=True,
    ),
    ReleaseKind(
        "selection",
        "selection_noise_multiplier",
        size=lambda shapes: shapes.num_compared,
        holds="how well each candidate ranks its users' validation items",
        reads_held_out=True,
    ),
    ReleaseKind(
        "metrics",
        "evaluation_noise_multiplier",
        size=lambda shapes: NUM_VALUES,
        holds="the sums of HR, NDCG and users behind the released metrics",
        reads_held_out=True,
        about=("validation", "test"),
    ),
)
POPULARITY, METRICS = KINDS[0], KINDS[-1]


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


def release_names() -> tuple[ReleaseName, ...]:
    """The names of all kinds, in the order of a run."""
    return tuple(kind.name for kind in KINDS)


def purposes() -> tuple[Purpose, ...]:
    """All that a server can ask for beside training."""
    return tuple(purpose for kind in KINDS for purpose in kind.about or (kind.name,))


def kind_of(purpose: Purpose) -> ReleaseKind:
    """The kind of release that a request is for, by its name or a purpose."""
    return next(kind for kind in KINDS if purpose == kind.name or purpose in kind.about)


def release_of(purpose: Purpose) -> ReleaseName:
    """The release that a request is for."""
    return kind_of(purpose).name


def statistic_of(purpose: Purpose) -> str:
    """What the vectors of a request hold: a refinement holds what it refines, metrics are metrics."""
    return purpose.removeprefix(_REFINES) if purpose.startswith(_REFINES) else kind_of(purpose).name


def is_sparse(purpose: Purpose) -> bool:
    """Whether a unit's vector has few nonzero values among very many, and is encoded as it is."""
    return kind_of(statistic_of(purpose)).is_sparse
