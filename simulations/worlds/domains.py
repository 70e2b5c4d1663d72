"""The domains of the synthetic data sets, as data: what is offered, in which words, and how people move through it.

Here live the embedded set and five domains that scenarios run on (`simulations/scenarios/`). Here never lives how a history
is drawn: `simulations/worlds/worlds.py` does that for all of them alike, by the numbers of a `Domain`.

Every domain has the parts of the embedded set (`simulations/worlds/synthetic.py`): topics, circles whose name is in the
text, and a hidden order of the circles. Each adds what is its own:

* `e-commerce`: products of makers with a price that depends on the department. People buy some things again. What is held
  out is always a first purchase: metrics leave out what was bought before, so a repeat would stand alone among new things
  and be no task at all. 5,000 customers in a few large shops.
* `content`: articles and videos that belong to running stories. An item is read for days and hardly afterwards, and one
  story takes over from another: what comes next depends on when one reads. Long histories, interests that change
  several times.
* `financial-products`: 120 products, short histories. Interests are those of a stage of life, and stages follow one
  another, so that what was bought says which need comes next.
* `medical-consultation`: consultations, leaflets and courses of clinics. Patients belong to hospitals of unequal size
  that see different conditions; clinics refer to one another, and no text says to whom.
* `education`: courses of three levels. A course opens after one of the level below in its topic, so that the order of a
  history says what is possible; introductory courses are taken most.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from simulations.worlds import vocabularies as words

REGIONS: Final = ("north", "east", "south", "west", "center")


@dataclass(frozen=True, eq=False)
class Domain:
    """One kind of offer and how it is used. (public)

    Attributes:
        name: After `synthetic:`; the embedded set's is `synthetic`.
        topics: T topics with their words.
        circles: Names of circles; beyond them they are numbered.
        text: Format of an item's text with `{circle}`, `{quality}`, `{thing}`, `{use}`, `{first}`, `{second}`, `{number}`,
            `{level}`; without a full stop where categories follow.
        num_users: Users by default, >= 1.
        num_items: Items by default, >= 50.
        mean_length: Expected length of a history by default.
        shortest: No history is shorter, >= 3.
        attribute: Column of the user attributes.
        groups: Its values; users of one group have like interests.
        group_weights: How many users each has, relative to the others; empty for equal.
        stages: Topics that matter to each group. Where given, groups are stages of life that follow one another; empty
            draws each group's interests at random.
        turns: How often interests change on the way from a history's first item to its last, >= 1.
        circle_size: Items of a circle.
        last_share, before_share: Probability that the next item follows the last item's circle, the one before.
        again_share: Probability that an interaction is one with an item had before.
        span_days: Users start within so many days.
        mean_gap_days: Expected time between two interactions.
        lifetime_days: How long an item is current; 0 for ever.
        levels: Names of levels, the lowest first; a level of a topic opens after the one below. Empty for none.
        prices: Median price of each topic; empty for none.
        has_categories: Whether the catalog says an item's topics as `categories`.
    """

    name: str
    topics: words.Topics
    circles: tuple[str, ...]
    text: str
    num_users: int = 3000
    num_items: int = 600
    mean_length: float = 16.0
    shortest: int = 5
    attribute: str = "region"
    groups: tuple[str, ...] = REGIONS
    group_weights: tuple[float, ...] = ()
    stages: tuple[tuple[str, ...], ...] = ()
    turns: int = 1
    circle_size: int = 20
    last_share: float = 0.35
    before_share: float = 0.06
    again_share: float = 0.0
    span_days: int = 730
    mean_gap_days: float = 2.0
    lifetime_days: float = 0.0
    levels: tuple[str, ...] = ()
    prices: Mapping[str, float] = field(default_factory=dict)
    has_categories: bool = True


EMBEDDED: Final = Domain(
    name="synthetic",
    topics=words.TOPICS,
    circles=words.MAKERS,
    text="{circle}: {quality} {thing} for {use}, {first} and {second}. {circle} model {number}.",
    has_categories=False,
)

_DOMAINS: Final = (
    Domain(
        name="e-commerce",
        topics=words.GOODS,
        circles=words.MAKERS,
        text="{circle}: {quality} {thing} for {use}. {circle} model {number}",
        num_users=5000,
        mean_length=14.0,
        again_share=0.1,
        mean_gap_days=12.0,
        prices=words.PRICES,
    ),
    Domain(
        name="content",
        topics=words.STORIES,
        circles=words.STORY_NAMES,
        text="{circle}: {quality} {thing} on {use}. Part of the story {circle}",
        num_users=3000,
        num_items=1000,
        mean_length=36.0,
        shortest=10,
        turns=4,
        span_days=120,
        mean_gap_days=0.5,
        lifetime_days=14.0,
    ),
    Domain(
        name="financial-products",
        topics=words.FINANCE,
        circles=words.BANKS,
        text="{circle} Bank: {quality} {thing} for {use}. A product of {circle}",
        num_users=6000,
        num_items=120,
        mean_length=7.0,
        shortest=4,
        attribute="stage",
        groups=tuple(words.LIFE_STAGES),
        stages=tuple(words.LIFE_STAGES.values()),
        circle_size=10,
        mean_gap_days=240.0,
    ),
    Domain(
        name="medical-consultation",
        topics=words.MEDICINE,
        circles=words.CLINICS,
        text="{circle} Clinic: {quality} {thing} on {use}. Offered by {circle}",
        num_users=8000,
        num_items=400,
        mean_length=10.0,
        attribute="hospital",
        groups=("university hospital", "city hospital", "county hospital"),
        group_weights=(5.0, 3.0, 2.0),
        mean_gap_days=45.0,
    ),
    Domain(
        name="education",
        topics=words.COURSES,
        circles=words.TRACKS,
        text="{circle} School: {level} {thing}, {quality} {use}. A course of {circle}",
        num_users=5000,
        num_items=480,
        mean_length=14.0,
        attribute="program",
        groups=("sciences", "humanities", "teaching", "business"),
        mean_gap_days=60.0,
        levels=("introductory", "intermediate", "advanced"),
    ),
)

# Domains by name, the embedded set not among them.
DOMAINS: Final[Mapping[str, Domain]] = MappingProxyType({domain.name: domain for domain in _DOMAINS})
