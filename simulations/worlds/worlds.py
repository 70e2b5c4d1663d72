"""What the users of a synthetic data set share, and how they walk through it: the process itself.

Here live the conditional distribution of the next item and draws from it. Here never live words and sizes (`domains.py`),
ids, texts and times (`synthetic.py`). The process is described in `synthetic.py`, what a domain adds in `domains.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from simulations.worlds.domains import EMBEDDED, Domain

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

ZIPF_EXPONENT: Final = 0.9
SECOND_TOPIC_SHARE: Final = 0.1
# How much of its readers an item keeps once it is no longer current.
OUTDATED_SHARE: Final = 0.02
START_SECONDS: Final = 1_577_836_800  # 2020-01-01, so that no time looks like today's.
DAY_SECONDS: Final = 86_400


@dataclass(frozen=True)
class World:
    """The parameters that users share.

    Attributes:
        domain: Whose world it is.
        topics: Shape (I, 2): first and second topic of each item, in [0, T).
        item_given_topic: Shape (T, I), rows sum to 1: popularity within a topic.
        circle: Shape (I,): hidden circle of each item, in [0, G).
        followers: Shape (G, S): the items that follow items of each circle, the likeliest first.
        follower_weights: Shape (S,), sums to 1: how likely each of them is.
        levels: Shape (I,): level of each item, from 0; all 0 where the domain has no levels.
        published: Shape (I,), seconds: when each item appeared; all 0 where items do not age.
    """

    domain: Domain
    topics: Ints
    item_given_topic: Floats
    circle: Ints
    followers: Ints
    follower_weights: Floats
    levels: Ints
    published: Ints


@dataclass(frozen=True)
class Paths:
    """What a group of users did.

    Attributes:
        items: Shape (n, L), int64: items in order, -1 beyond a user's length.
        lengths: Shape (n,).
        last_scores: Shape (n, I): unnormalized p of the last interaction, 0 for items seen before.
    """

    items: Ints
    lengths: Ints
    last_scores: Floats


def draw_world(num_items: int, rng: np.random.Generator, domain: Domain = EMBEDDED) -> World:
    """Draws what users share: topics, popularity within them, hidden circles."""
    num_topics, size, items = len(domain.topics), domain.circle_size, np.arange(num_items)
    first = rng.permutation(items % num_topics)
    second = (first + rng.integers(1, num_topics, size=num_items)) % num_topics
    # Items come in random order, so their order within a topic is a random rank.
    by_topic = np.argsort(first, kind="stable")
    topic_start = np.searchsorted(first[by_topic], np.arange(num_topics))
    rank = np.empty(num_items)
    rank[by_topic] = 1 + items - topic_start[first[by_topic]]
    membership = np.zeros((num_topics, num_items))
    membership[first, items] = 1 - SECOND_TOPIC_SHARE
    membership[second, items] = SECOND_TOPIC_SHARE
    weighted = membership * rank**-ZIPF_EXPONENT
    # The last circle is filled up from the one before where I is no multiple of its size.
    order = rng.permutation(num_items)
    circle = np.empty(num_items, dtype=np.int64)
    circle[order] = items // size
    starts = np.minimum(np.arange(0, num_items, size), num_items - size)
    members = order[starts[:, None] + np.arange(size)]
    weights = 1 / (1.0 + np.arange(size))
    levels, published = np.zeros(num_items, dtype=np.int64), np.zeros(num_items, dtype=np.int64)
    # In a circle the likeliest followers are of the lowest level.
    levels[order] = items % size * max(1, len(domain.levels)) // size
    if domain.lifetime_days:
        published[order] = _publishing_times(domain, num_items)
    return World(
        domain=domain,
        topics=np.stack([first, second], axis=1),
        item_given_topic=weighted / weighted.sum(axis=1, keepdims=True),
        circle=circle,
        followers=np.roll(members, -1, axis=0),
        follower_weights=weights / weights.sum(),
        levels=levels,
        published=published,
    )


def _publishing_times(domain: Domain, count: int) -> Ints:
    """Evenly from one lifetime before the first user comes until about the last one has left, circle after circle."""
    days = domain.lifetime_days + domain.span_days + 2 * domain.mean_length * domain.mean_gap_days
    since_start = np.linspace(-domain.lifetime_days, days - domain.lifetime_days, count)
    return np.asarray(START_SECONDS + since_start * DAY_SECONDS).astype(np.int64)


def draw_paths(
    world: World, interests: Floats, lengths: Ints, rng: np.random.Generator, *, times: Ints | None = None
) -> Paths:
    """Draws the histories of n users, one step at a time, all users at once.

    Args:
        world: What users share.
        interests: Shape (W, n, T), W >= 2, the last axis sums to 1: interests at W points spread evenly from the first
            interaction to the last; between them they change linearly.
        lengths: Shape (n,), in [2, I - 1].
        rng: Seeded source.
        times: Shape (n, L), seconds: when each interaction happens; needed where items age.

    Returns:
        The histories, and the scores from which each last item was drawn.
    """
    num_users, num_items = len(lengths), world.item_given_topic.shape[1]
    items = np.full((num_users, int(lengths.max())), -1, dtype=np.int64)
    unseen = np.ones((num_users, num_items))
    last_scores = np.zeros((num_users, num_items))
    again_share = world.domain.again_share
    for step in range(items.shape[1]):
        active = np.flatnonzero(lengths > step)
        now = None if times is None else times[active, step]
        scores = next_scores(
            world, _at(interests, step, active, lengths), items[active, max(0, step - 2) : step],
            openness(world, items[active, :step], now),
        ) * unseen[active]  # fmt: skip
        drawn = _drawn(scores, rng)
        if again_share and step:
            # The two that are held out are first ones: what was had before is no candidate in a list of new things.
            chosen = (rng.random(len(active)) < again_share) & (step < lengths[active] - 2)
            had = items[active, rng.integers(step, size=len(active))]
            drawn = np.where(chosen, had, drawn)
        items[active, step] = drawn
        unseen[active, drawn] = 0.0
        finished = lengths[active] == step + 1
        last_scores[active[finished]] = scores[finished]
    return Paths(items, lengths, last_scores)


def _at(interests: Floats, step: int, active: Ints, lengths: Ints) -> Floats:
    """Interests of some users at a step of theirs, shape (n, T)."""
    intervals = len(interests) - 1
    place = step / (lengths[active] - 1) * intervals
    left = np.minimum(place.astype(np.int64), intervals - 1)
    right_share = (place - left)[:, None]
    mixed = (1 - right_share) * interests[left, active] + right_share * interests[left + 1, active]
    return np.asarray(mixed)


def _drawn(scores: Floats, rng: np.random.Generator) -> Ints:
    """One item a row, with probability proportional to its score."""
    cumulative = np.cumsum(scores, axis=1)
    points = rng.random(len(scores)) * cumulative[:, -1]
    # `<=` passes over items of score 0, also where the drawn point is exactly 0.
    chosen: Ints = np.minimum((cumulative <= points[:, None]).sum(axis=1), scores.shape[1] - 1)
    return chosen


def openness(world: World, had: Ints, now: Ints | None) -> Floats | None:
    """How far each item can be met by users at a moment.

    Args:
        world: What users share.
        had: Shape (n, s): all items so far.
        now: Shape (n,), seconds; needed where items age.

    Returns:
        Shape (n, I), in [0, 1]; None where every item is open to everybody at any time.
    """
    domain = world.domain
    if domain.levels:
        reached = np.zeros((len(had), len(domain.topics)), dtype=np.int64)
        rows = np.repeat(np.arange(len(had)), had.shape[1])
        taken = had.reshape(-1)
        np.maximum.at(reached, (rows, world.topics[taken, 0]), world.levels[taken] + 1)
        return np.asarray(world.levels <= reached[:, world.topics[:, 0]], dtype=np.float64)
    if domain.lifetime_days and now is not None:
        age = now[:, None] - world.published
        current = age <= domain.lifetime_days * DAY_SECONDS
        return np.where(age < 0, 0.0, np.where(current, 1.0, OUTDATED_SHARE))
    return None


def next_scores(world: World, interests: Floats, recent: Ints, open_items: Floats | None = None) -> Floats:
    """Computes p(next) before items seen are excluded.

    Args:
        world: What users share.
        interests: Shape (n, T), rows sum to 1.
        recent: Shape (n, 0), (n, 1) or (n, 2): the last items, the very last one in the last column.
        open_items: Shape (n, I), in [0, 1]; None where all are open.

    Returns:
        Shape (n, I), rows sum to 1 where all are open. What a missing earlier item would contribute goes to the interests;
        what followers that are not open would contribute goes nowhere, and the others gain in proportion.
    """
    shares = (world.domain.last_share, world.domain.before_share)[: recent.shape[1]]
    scores: Floats = interests @ world.item_given_topic
    if open_items is not None:
        scores *= open_items
        scores /= scores.sum(axis=1, keepdims=True)
    scores *= 1 - sum(shares)
    rows = np.arange(len(scores))[:, None]
    for lag, share in enumerate(shares, start=1):
        followers = world.followers[world.circle[recent[:, -lag]]]
        weights = world.follower_weights if open_items is None else world.follower_weights * open_items[rows, followers]
        # The followers of one circle are distinct, so that += meets each cell once.
        scores[rows, followers] += share * weights
    return scores
