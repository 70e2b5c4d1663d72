"""The embedded data set, made by the project, with a known best achievable score.

Here lives a generative process whose conditional distribution of the next item is known exactly, so that
a run can say how much of what is learnable was learned. Nothing here is taken from a real data set.

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

from shared.catalog import ItemCatalog
from shared.errors import ConfigError
from shared.interactions import Interactions

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

NUM_USERS: Final = 3000
NUM_ITEMS: Final = 600
MEAN_LENGTH: Final = 16.0

SHORTEST: Final = 5
CEILING_K: Final = 10
ZIPF_EXPONENT: Final = 0.9
SECOND_TOPIC_SHARE: Final = 0.1
INTEREST_CONCENTRATION: Final = 0.3
INTEREST_FLOOR: Final = 0.02
LAST_SHARE: Final = 0.35
BEFORE_SHARE: Final = 0.06
CIRCLE: Final = 20
START_SECONDS: Final = 1_577_836_800  # 2020-01-01, so that no time looks like today's.
SPAN_SECONDS: Final = 2 * 365 * 86_400
MEAN_GAP_SECONDS: Final = 2 * 86_400
CHUNK_CELLS: Final = 4_000_000

REGIONS: Final = ("north", "east", "south", "west", "center")

# Topic: (kinds of things, what they are like, what they are for).
TOPICS: Final[dict[str, tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]]] = {
    "gardening": (
        ("trowel", "watering can", "seed tray", "pruning shears", "compost bin", "planter"),
        ("galvanized", "terracotta", "rust-proof", "raised-bed"),
        ("growing tomatoes", "herb beds", "rose pruning", "spring sowing"),
    ),
    "cycling": (
        ("bicycle pump", "saddle", "chain tool", "handlebar tape", "helmet", "pannier"),
        ("lightweight", "road-race", "gravel", "reflective"),
        ("commuting by bike", "long tours", "steep climbs", "puncture repair"),
    ),
    "baking": (
        ("bread tin", "whisk", "dough scraper", "proofing basket", "cake stand", "rolling pin"),
        ("non-stick", "ceramic", "beechwood", "oven-safe"),
        ("sourdough loaves", "layer cakes", "pastry", "birthday biscuits"),
    ),
    "astronomy": (
        ("telescope", "star chart", "eyepiece", "tripod", "red torch", "planisphere"),
        ("wide-field", "achromatic", "equatorial", "night-sky"),
        ("watching planets", "meteor showers", "deep-sky galaxies", "lunar craters"),
    ),
    "sewing": (
        ("fabric scissors", "thread set", "pin cushion", "quilting ruler", "bobbin case", "thimble"),
        ("cotton", "embroidered", "vintage", "self-healing"),
        ("patchwork quilts", "dressmaking", "hemming curtains", "mending denim"),
    ),
    "fishing": (
        ("fishing rod", "reel", "landing net", "lure box", "waders", "bait bucket"),
        ("carbon-fiber", "saltwater", "telescopic", "fly-casting"),
        ("river trout", "pike season", "sea angling", "ice fishing"),
    ),
    "photography": (
        ("camera lens", "light meter", "flash diffuser", "film roll", "camera strap", "photo album"),
        ("wide-aperture", "black-and-white", "macro", "portrait"),
        ("street portraits", "wildlife close-ups", "darkroom printing", "studio lighting"),
    ),
    "camping": (
        ("tent", "sleeping bag", "camp stove", "lantern", "hammock", "water filter"),
        ("ultralight", "four-season", "waterproof", "packable"),
        ("mountain nights", "family campsites", "backpacking trails", "winter bivouacs"),
    ),
    "music": (
        ("guitar", "metronome", "violin bow", "drum pad", "music stand", "harmonica"),
        ("acoustic", "rosewood", "electric", "concert"),
        ("blues practice", "orchestra rehearsal", "songwriting", "rhythm training"),
    ),
    "painting": (
        ("easel", "watercolor set", "paint brush", "sketchbook", "palette knife", "canvas"),
        ("oil", "acrylic", "fine-grain", "pigmented"),
        ("landscape studies", "still life", "figure drawing", "mural work"),
    ),
    "chemistry": (
        ("beaker", "pipette", "test tube rack", "Bunsen burner", "pH strips", "lab goggles"),
        ("borosilicate", "graduated", "acid-resistant", "analytical"),
        ("titration", "school experiments", "crystal growing", "solution mixing"),
    ),
    "pets": (
        ("dog leash", "cat tree", "aquarium filter", "bird feeder", "pet brush", "chew toy"),
        ("padded", "scratch-proof", "washable", "silent"),
        ("puppy training", "indoor cats", "tropical fish", "grooming long coats"),
    ),
}


# Names of makers, one a circle; beyond them they are numbered.
MAKERS: Final = (
    "Falcon", "Walnut", "Comet", "Harbor", "Velvet", "Granite", "Juniper", "Cobalt", "Lantern", "Mistral",
    "Otter", "Prairie", "Quartz", "Raven", "Saffron", "Thunder", "Umbra", "Violet", "Willow", "Zephyr",
    "Anchor", "Bison", "Cedar", "Dune", "Ember", "Fjord", "Glacier", "Heron", "Indigo", "Jasper",
    "Kestrel", "Lotus", "Maple", "Nimbus", "Opal", "Pelican", "Quiver", "Ruby", "Sparrow", "Tundra",
    "Ursa", "Vesper", "Wren", "Yarrow", "Amber", "Birch", "Coral", "Delta", "Elm", "Fern",
)  # fmt: skip


@dataclass(frozen=True)
class SyntheticSet:
    """A generated population. All of it is public, since it is nobody's.

    Attributes:
        interactions: In order of time; no two of one user share a timestamp.
        catalog: I items in an order that tells neither topic nor popularity.
        user_attributes: Columns `user` and `region`.
        ceiling: `hr@10` and `ndcg@10` of the ranking by true probability, on the last interactions.
    """

    interactions: Interactions
    catalog: ItemCatalog
    user_attributes: pl.DataFrame
    ceiling: dict[str, float]


@dataclass(frozen=True)
class World:
    """The parameters that users share.

    Attributes:
        topics: Shape (I, 2): first and second topic of each item, in [0, T).
        item_given_topic: Shape (T, I), rows sum to 1: popularity within a topic.
        circle: Shape (I,): hidden circle of each item, in [0, G).
        followers: Shape (G, CIRCLE): the items that follow items of each circle, the likeliest first.
        follower_weights: Shape (CIRCLE,), sums to 1: how likely each of them is.
    """

    topics: Ints
    item_given_topic: Floats
    circle: Ints
    followers: Ints
    follower_weights: Floats


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


def generate(
    *,
    num_users: int = NUM_USERS,
    num_items: int = NUM_ITEMS,
    mean_length: float = MEAN_LENGTH,
    seed: int = 0,
) -> SyntheticSet:
    """Generates a population of any size; the same seed and sizes give the same population.

    Users are made in groups whose (users, items) tables stay below 32 MB each, step by step along the
    history and all users of a group at once.

    Args:
        num_users: >= 1.
        num_items: I, >= 50.
        mean_length: Expected length of a history, in [8, I/4]; no history is shorter than 5 or longer
            than four times the mean.
        seed: Any integer >= 0.

    Returns:
        The population with its ceiling.

    Raises:
        ConfigError: If a size is out of its range.
    """
    if num_users < 1:
        raise ConfigError(f"Expected num_users >= 1, got num_users={num_users}. Use more.")
    if num_items < 50:
        raise ConfigError(f"Expected num_items >= 50, got num_items={num_items}. Use more.")
    if not 8 <= mean_length <= num_items / 4:
        raise ConfigError(f"Expected mean_length in [8, num_items/4], got mean_length={mean_length}, num_items={num_items}.")
    shared_rng, user_rng = (np.random.default_rng(child) for child in np.random.SeedSequence(seed).spawn(2))
    world = draw_world(num_items, shared_rng)
    catalog = ItemCatalog(_names("i", num_items), _texts(world, shared_rng))
    region_interests = shared_rng.dirichlet(np.full(len(TOPICS), 0.5), size=len(REGIONS))
    regions = user_rng.integers(len(REGIONS), size=num_users)
    chunk = max(1, CHUNK_CELLS // num_items)
    paths = [
        _walk_chunk(world, region_interests[regions[start : start + chunk]], mean_length, user_rng)
        for start in range(0, num_users, chunk)
    ]
    users = np.asarray(_names("u", num_users))
    return SyntheticSet(
        interactions=_timed(users, catalog, paths, user_rng),
        catalog=catalog,
        user_attributes=pl.DataFrame({"user": users, "region": np.asarray(REGIONS)[regions]}),
        ceiling=_ceiling(paths),
    )


def draw_world(num_items: int, rng: np.random.Generator) -> World:
    """Draws what users share: topics, popularity within them, hidden circles."""
    num_topics, items = len(TOPICS), np.arange(num_items)
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
    # The last circle is filled up from the one before where I is no multiple of CIRCLE.
    order = rng.permutation(num_items)
    circle = np.empty(num_items, dtype=np.int64)
    circle[order] = items // CIRCLE
    starts = np.minimum(np.arange(0, num_items, CIRCLE), num_items - CIRCLE)
    members = order[starts[:, None] + np.arange(CIRCLE)]
    weights = 1 / (1.0 + np.arange(CIRCLE))
    return World(
        topics=np.stack([first, second], axis=1),
        item_given_topic=weighted / weighted.sum(axis=1, keepdims=True),
        circle=circle,
        followers=np.roll(members, -1, axis=0),
        follower_weights=weights / weights.sum(),
    )


def draw_paths(
    world: World, first_interests: Floats, last_interests: Floats, lengths: Ints, rng: np.random.Generator
) -> Paths:
    """Draws the histories of n users, one step at a time, all users at once.

    Args:
        world: What users share.
        first_interests: Shape (n, T), rows sum to 1: interests at the first interaction.
        last_interests: Shape (n, T): interests at the last one; between them they change linearly.
        lengths: Shape (n,), in [2, I - 1].
        rng: Seeded source.

    Returns:
        The histories, and the scores from which each last item was drawn.
    """
    num_users, num_items = len(lengths), world.item_given_topic.shape[1]
    items = np.full((num_users, int(lengths.max())), -1, dtype=np.int64)
    unseen = np.ones((num_users, num_items))
    last_scores = np.zeros((num_users, num_items))
    for step in range(items.shape[1]):
        active = np.flatnonzero(lengths > step)
        progress = (step / (lengths[active] - 1))[:, None]
        interests = (1 - progress) * first_interests[active] + progress * last_interests[active]
        scores = next_scores(world, interests, items[active, max(0, step - 2) : step]) * unseen[active]
        cumulative = np.cumsum(scores, axis=1)
        points = rng.random(len(active)) * cumulative[:, -1]
        # `<=` passes over items of score 0, also where the drawn point is exactly 0.
        drawn = np.minimum((cumulative <= points[:, None]).sum(axis=1), num_items - 1)
        items[active, step] = drawn
        unseen[active, drawn] = 0.0
        finished = lengths[active] == step + 1
        last_scores[active[finished]] = scores[finished]
    return Paths(items, lengths, last_scores)


def next_scores(world: World, interests: Floats, recent: Ints) -> Floats:
    """Computes p(next) before items seen are excluded.

    Args:
        world: What users share.
        interests: Shape (n, T), rows sum to 1.
        recent: Shape (n, 0), (n, 1) or (n, 2): the last items, the very last one in the last column.

    Returns:
        Shape (n, I), rows sum to 1. What a missing earlier item would contribute goes to the interests.
    """
    shares = (LAST_SHARE, BEFORE_SHARE)[: recent.shape[1]]
    scores: Floats = (1 - sum(shares)) * (interests @ world.item_given_topic)
    rows = np.arange(len(scores))[:, None]
    for lag, share in enumerate(shares, start=1):
        # The followers of one circle are distinct, so that += meets each cell once.
        scores[rows, world.followers[world.circle[recent[:, -lag]]]] += share * world.follower_weights
    return scores


def _walk_chunk(world: World, region: Floats, mean_length: float, rng: np.random.Generator) -> Paths:
    """Draws interests and lengths of some users, then their histories."""
    alphas = INTEREST_CONCENTRATION * region + INTEREST_FLOOR
    first, last = _dirichlet_rows(alphas, rng), _dirichlet_rows(alphas, rng)
    # A log-normal of the wanted mean above the shortest length; the long tail is cut at four means.
    spread = 0.6
    center = np.log(mean_length - SHORTEST) - spread**2 / 2
    drawn = SHORTEST + rng.lognormal(center, spread, size=len(region))
    lengths = np.rint(np.minimum(drawn, 4 * mean_length - 1)).astype(np.int64)
    return draw_paths(world, first, last, lengths, rng)


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


def _timed(users: npt.NDArray[np.str_], catalog: ItemCatalog, paths: list[Paths], rng: np.random.Generator) -> Interactions:
    """Gives every interaction a time: users start across two years, gaps are exponential, none is 0."""
    lengths = np.concatenate([part.lengths for part in paths])
    rows = np.concatenate([part.items[part.items >= 0] for part in paths])
    owner = np.repeat(np.arange(len(lengths)), lengths)
    gaps = 60 + rng.exponential(MEAN_GAP_SECONDS, size=len(rows)).astype(np.int64)
    first = np.cumsum(lengths) - lengths
    gaps[first] = START_SECONDS + rng.integers(SPAN_SECONDS, size=len(lengths))
    total = np.cumsum(gaps)
    times = total - np.repeat(total[first] - gaps[first], lengths)
    frame = pl.DataFrame({"user": users[owner], "item": np.asarray(catalog.ids)[rows], "timestamp": times})
    return Interactions.validated(frame.sort("timestamp", "user"), source="synthetic")


def _names(prefix: str, count: int) -> tuple[str, ...]:
    """Ids of equal width, from 1."""
    width = len(str(count))
    return tuple(f"{prefix}{number:0{width}d}" for number in range(1, count + 1))


def _texts(world: World, rng: np.random.Generator) -> tuple[str, ...]:
    """A text an item: its maker, a thing of the first topic, what it is like and for, and the second topic."""
    names = tuple(TOPICS)
    choices = rng.random((len(world.topics), 4))
    return tuple(
        _text(_maker(int(circle)), names[first], names[second], row)
        for (first, second), circle, row in zip(world.topics, world.circle, choices, strict=True)
    )


def _maker(circle: int) -> str:
    """The name of a circle's maker."""
    series = circle // len(MAKERS)
    return MAKERS[circle % len(MAKERS)] + (f" {series + 1}" if series else "")


def _text(maker: str, first: str, second: str, choices: Floats) -> str:
    """One item's text from its maker, two topics and four uniform numbers."""
    things, qualities, uses = TOPICS[first]
    thing, quality, use = (
        words[int(choice * len(words))] for words, choice in zip((things, qualities, uses), choices[:3], strict=True)
    )
    model = 100 + int(choices[3] * 900)
    return f"{maker}: {quality} {thing} for {use}, {first} and {second}. {maker} model {model}."
