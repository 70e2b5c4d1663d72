"""Data sets made by the project, with a known best achievable score: the embedded one and those of five domains.

Here lives a generative process whose conditional distribution of the next item is known exactly, so that
a run can say how much of what is learnable was learned. Nothing here is taken from a real data set. The draws are in
`worlds.py`, what the domains have of their own in `domains.py`, their words in `vocabularies.py`.

The process. Items belong to a first and a second topic, have a Zipf popularity within the first, and a
text made of their topics' words. A user has a region; the region shapes the user's interests, a mixture
over topics that drifts from one end of the history to the other. Items also belong to circles of
twenty, drawn regardless of topic: the items of one maker, whose name is in the text. Circles follow one another on a
hidden cycle, and an item is often followed by one of the next circle. The next item is drawn, among items not seen
before, from

    p(next) ~ (1 - l1 - l2) * sum_k interest[k] * popularity(next | topic k)
              + l1 * followers(circle of the last item) + l2 * followers(circle of the item before)

So popularity alone is weak, and text reveals the topical part. Which maker follows which is in no text: similar texts
name the same maker, never the next one. It has to be learned from sequences, either item by item (item-kNN, item
factors) or, with far fewer numbers, as a map from one text to another. Circles, and not one successor an item,
because a random permutation of items has full rank: counting pairs learns it, but SASRec on a population of 800 users
does not even beat popularity (tried), and a data set that no sequence model can learn shows nothing.

The ceiling ranks each user's unseen items by this p, with the user's true interests known, and scores
the drawn last item, as leave-last-out does. No ranking has a higher expectation; a model does not know
the interests, so it stays below. It is a score on the same drawn targets, so it shares their luck.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl

from shared.data.catalog import CATEGORIES, PRICE, ItemCatalog, build_catalog
from shared.data.interactions import Interactions
from shared.errors import ConfigError
from simulations.worlds.domains import EMBEDDED, Domain
from simulations.worlds.worlds import DAY_SECONDS, START_SECONDS, Floats, Ints, Paths, World, draw_paths, draw_world

CEILING_K: Final = 10
INTEREST_CONCENTRATION: Final = 0.3
INTEREST_FLOOR: Final = 0.02
LENGTH_SPREAD: Final = 0.6
PRICE_SPREAD: Final = 0.5
FEWEST_ITEMS: Final = 50
CHUNK_CELLS: Final = 4_000_000


@dataclass(frozen=True)
class SyntheticSet:
    """A generated population. All of it is public, since it is nobody's.

    Attributes:
        interactions: In order of time; no two of one user share a timestamp.
        catalog: I items in an order that tells neither topic nor popularity.
        user_attributes: Columns `user` and the domain's attribute.
        ceiling: `hr@10` and `ndcg@10` of the ranking by true probability, on the last interactions.
    """

    interactions: Interactions
    catalog: ItemCatalog
    user_attributes: pl.DataFrame
    ceiling: dict[str, float]


def generate(
    domain: Domain = EMBEDDED,
    *,
    num_users: int | None = None,
    num_items: int | None = None,
    mean_length: float | None = None,
    seed: int = 0,
) -> SyntheticSet:
    """Generates a population of any size; the same domain, seed and sizes give the same population.

    Users are made in groups whose (users, items) tables stay below 32 MB each, step by step along the
    history and all users of a group at once.

    Args:
        domain: What is offered, and the sizes by default.
        num_users: >= 1.
        num_items: I, >= 50.
        mean_length: Expected length of a history, from three above the domain's shortest one to I/4; no history is longer
            than four times the mean.
        seed: Any integer >= 0.

    Returns:
        The population with its ceiling.

    Raises:
        ConfigError: If a size is out of its range.
    """
    num_users = domain.num_users if num_users is None else num_users
    num_items = domain.num_items if num_items is None else num_items
    mean_length = domain.mean_length if mean_length is None else mean_length
    _check_sizes(domain, num_users, num_items, mean_length)
    shared_rng, user_rng = (np.random.default_rng(child) for child in np.random.SeedSequence(seed).spawn(2))
    world = draw_world(num_items, shared_rng, domain)
    catalog = _catalog(world, shared_rng)
    group_interests = _group_interests(domain, shared_rng)
    groups = _groups(domain, num_users, user_rng)
    chunk = max(1, CHUNK_CELLS // num_items)
    walked = [
        _walk_chunk(world, group_interests, groups[start : start + chunk], mean_length, user_rng)
        for start in range(0, num_users, chunk)
    ]
    paths = [path for path, _ in walked]
    known = [times for _, times in walked if times is not None]
    # Where times have no part in what is drawn, they are drawn last.
    times = np.concatenate(known) if known else _times(domain, np.concatenate([path.lengths for path in paths]), user_rng)
    users = np.asarray(_names("u", num_users))
    return SyntheticSet(
        interactions=_timed(users, catalog, paths, times),
        catalog=catalog,
        user_attributes=pl.DataFrame({"user": users, domain.attribute: np.asarray(domain.groups)[groups]}),
        ceiling=_ceiling(paths),
    )


def _check_sizes(domain: Domain, num_users: int, num_items: int, mean_length: float) -> None:
    """Refuses sizes that leave nothing to draw from.

    Raises:
        ConfigError: If one is out of its range.
    """
    if num_users < 1:
        raise ConfigError(f"Expected num_users >= 1, got num_users={num_users}. Use more.")
    if num_items < FEWEST_ITEMS:
        raise ConfigError(f"Expected num_items >= {FEWEST_ITEMS}, got num_items={num_items}. Use more.")
    least = domain.shortest + 3
    if not least <= mean_length <= num_items / 4:
        raise ConfigError(
            f"Expected mean_length in [{least}, num_items/4], got mean_length={mean_length}, num_items={num_items}. "
            "Use a length in between."
        )


def _group_interests(domain: Domain, rng: np.random.Generator) -> Floats:
    """What each group likes, shape (groups, T), rows sum to 1: the topics of its stage of life, or drawn."""
    if not domain.stages:
        return rng.dirichlet(np.full(len(domain.topics), 0.5), size=len(domain.groups))
    return np.array([[float(topic in stage) / len(stage) for topic in domain.topics] for stage in domain.stages])


def _groups(domain: Domain, num_users: int, rng: np.random.Generator) -> Ints:
    """The group of each user, shape (n,)."""
    if not domain.group_weights:
        return rng.integers(len(domain.groups), size=num_users)
    weights = np.asarray(domain.group_weights)
    return rng.choice(len(domain.groups), size=num_users, p=weights / weights.sum())


def _walk_chunk(
    world: World, group_interests: Floats, groups: Ints, mean_length: float, rng: np.random.Generator
) -> tuple[Paths, Ints | None]:
    """Draws interests and lengths of some users, then their histories, and before them their times where items age."""
    domain, last_group = world.domain, len(group_interests) - 1
    interests = np.stack(
        [
            _dirichlet_rows(INTEREST_CONCENTRATION * group_interests[later] + INTEREST_FLOOR, rng)
            for turn in range(domain.turns + 1)
            for later in [np.minimum(groups + turn, last_group) if domain.stages else groups]
        ]
    )
    # A log-normal of the wanted mean above the shortest length; the long tail is cut at four means.
    center = np.log(mean_length - domain.shortest) - LENGTH_SPREAD**2 / 2
    drawn = domain.shortest + rng.lognormal(center, LENGTH_SPREAD, size=len(groups))
    lengths = np.rint(np.minimum(drawn, 4 * mean_length - 1)).astype(np.int64)
    if not domain.lifetime_days:
        return draw_paths(world, interests, lengths, rng), None
    times = _times(domain, lengths, rng)
    table = np.zeros((len(lengths), int(lengths.max())), dtype=np.int64)
    table[np.arange(table.shape[1]) < lengths[:, None]] = times
    return draw_paths(world, interests, lengths, rng, times=table), times


def _dirichlet_rows(alphas: Floats, rng: np.random.Generator) -> Floats:
    """One Dirichlet draw a row, as normalized gamma draws."""
    draws = rng.standard_gamma(alphas) + 1e-12
    return np.asarray(draws / draws.sum(axis=1, keepdims=True))


def _ceiling(paths: list[Paths]) -> dict[str, float]:
    """HR and NDCG at 10 of the ranking by true score, on the last item of each user."""
    ranks = np.concatenate([_rank_of_last(part) for part in paths])
    hits = ranks <= CEILING_K
    gains = np.where(hits, 1 / np.log2(ranks + 1.0), 0.0)
    return {f"hr@{CEILING_K}": float(hits.mean()), f"ndcg@{CEILING_K}": float(gains.mean())}


def _rank_of_last(paths: Paths) -> Ints:
    """Rank (from 1) of each user's last item by the scores from which it was drawn."""
    rows = np.arange(len(paths.lengths))
    target = paths.last_scores[rows, paths.items[rows, paths.lengths - 1]]
    return np.asarray(1 + (paths.last_scores > target[:, None]).sum(axis=1))


def _times(domain: Domain, lengths: Ints, rng: np.random.Generator) -> Ints:
    """When each interaction happens, user after user: starts are spread evenly, gaps are exponential, none is 0."""
    gaps = 60 + rng.exponential(domain.mean_gap_days * DAY_SECONDS, size=int(lengths.sum())).astype(np.int64)
    first = np.cumsum(lengths) - lengths
    gaps[first] = START_SECONDS + rng.integers(domain.span_days * DAY_SECONDS, size=len(lengths))
    total = np.cumsum(gaps)
    return np.asarray(total - np.repeat(total[first] - gaps[first], lengths))


def _timed(users: npt.NDArray[np.str_], catalog: ItemCatalog, paths: list[Paths], times: Ints) -> Interactions:
    """The table of interactions in the order of time."""
    lengths = np.concatenate([part.lengths for part in paths])
    rows = np.concatenate([part.items[part.items >= 0] for part in paths])
    owner = np.repeat(np.arange(len(lengths)), lengths)
    frame = pl.DataFrame({"user": users[owner], "item": np.asarray(catalog.ids)[rows], "timestamp": times})
    return Interactions.validated(frame.sort("timestamp", "user"), source="synthetic")


def _names(prefix: str, count: int) -> tuple[str, ...]:
    """Ids of equal width, from 1."""
    width = len(str(count))
    return tuple(f"{prefix}{number:0{width}d}" for number in range(1, count + 1))


def _catalog(world: World, rng: np.random.Generator) -> ItemCatalog:
    """Ids, texts, and what else the domain says of its items."""
    domain, names = world.domain, tuple(world.domain.topics)
    table = pl.DataFrame({"item": _names("i", len(world.topics)), "text": _texts(world, rng)})
    if domain.has_categories:
        table = table.with_columns(pl.Series(CATEGORIES, [[names[topic] for topic in pair] for pair in world.topics]))
    if domain.prices:
        medians = np.array([domain.prices[names[topic]] for topic in world.topics[:, 0]])
        prices = np.round(medians * rng.lognormal(0.0, PRICE_SPREAD, size=len(medians)), 2)
        table = table.with_columns(pl.Series(PRICE, prices))
    catalog, _ = build_catalog(table, table["item"], source="synthetic")
    return catalog


def _texts(world: World, rng: np.random.Generator) -> list[str]:
    """A text an item, made of words of its circle and topics."""
    choices = rng.random((len(world.topics), 4))
    return [_text(world, item, row) for item, row in enumerate(choices)]


def _text(world: World, item: int, choices: Floats) -> str:
    """One item's text from four uniform numbers."""
    domain, names = world.domain, tuple(world.domain.topics)
    first, second = (names[topic] for topic in world.topics[item])
    thing, quality, use = (
        words[int(choice * len(words))] for words, choice in zip(domain.topics[first], choices[:3], strict=True)
    )
    return domain.text.format(
        circle=_circle_name(domain, int(world.circle[item])),
        thing=thing,
        quality=quality,
        use=use,
        first=first,
        second=second,
        number=100 + int(choices[3] * 900),
        level=domain.levels[world.levels[item]] if domain.levels else "",
    )


def _circle_name(domain: Domain, circle: int) -> str:
    """The name of a circle; where names run out they are numbered."""
    series = circle // len(domain.circles)
    return domain.circles[circle % len(domain.circles)] + (f" {series + 1}" if series else "")
