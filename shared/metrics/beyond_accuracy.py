"""What the recommendations do to the catalog as a whole, from how often each item was recommended.

What lives here: the count of items in top-k lists, and coverage, concentration and popularity of what
was recommended. What never does: anything about a single user; all of these are functions of a sum over
users, so a federation can compute them from sums without seeing one list. Why this way: the price is that
they have no bootstrap interval, because replicates of the counts would be R x I numbers a client.

Ties at the end of a list go to the lower catalog row, so that the lists are the same on every machine.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from shared.metrics.ranking import Candidates

# Share of the catalog called the long tail: all but the most popular fifth.
TAIL_FRACTION = 0.8


def recommended(candidates: Candidates, k: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Which items are in each user's top-k list.

    Args:
        candidates: Of B users. (private)
        k: List length, >= 1; a user with fewer candidates gets them all. (public)

    Returns:
        Users and items, one pair a place; by user, then by item.
    """
    shape = (len(candidates), min(k, candidates.num_items))
    scores = np.full(shape, np.nan, dtype=candidates.scores.dtype)
    items = np.zeros(shape, dtype=np.int64)
    for block, found in candidates.blocks():
        # After the first block few items are better than the last of any list. That is NaN where a list is not full yet,
        # and then no comparison holds.
        better = np.flatnonzero(~(found <= scores.min(axis=1, keepdims=True)).all(axis=0))
        if not better.size:
            continue
        # Listed items stand before the block's, as they do in the catalog, so that ties go to the lower row.
        joined = np.hstack([scores, found[:, better]])
        user, column = np.nonzero(_first(joined, shape[1]))
        place = np.arange(len(user)) - np.searchsorted(user, user)
        new = better[np.maximum(column - shape[1], 0)] + block.start
        listed = np.where(column < shape[1], items[user, np.minimum(column, shape[1] - 1)], new)
        scores[:] = np.nan
        scores[user, place], items[user, place] = joined[user, column], listed
    users, places = np.nonzero(~np.isnan(scores))
    return users, items[users, places]


def _first(candidates: NDArray[np.floating], length: int) -> NDArray[np.bool_]:
    """The highest `length` of each row, NaN left out, ties to the first; (B, I) -> (B, I)."""
    if candidates.size == 0:
        return np.zeros(candidates.shape, dtype=np.bool_)
    # NaN is sorted last, so this is NaN where a user has fewer candidates than places.
    last = -np.partition(-candidates, length - 1, axis=1)[:, length - 1]
    last = np.where(np.isnan(last), -np.inf, last)[:, None]
    listed: NDArray[np.bool_] = candidates >= last
    crowded = np.flatnonzero(np.count_nonzero(listed, axis=1) > length)
    if crowded.size:
        above = candidates[crowded] > last[crowded]
        tied = listed[crowded] & ~above
        room = length - np.count_nonzero(above, axis=1)
        listed[crowded] = above | (tied & (np.cumsum(tied, axis=1) <= room[:, None]))
    return listed


def item_coverage(item_counts: NDArray[np.int64]) -> float:
    """Gives the share of the catalog that is recommended to anybody, in [0, 1].

    Args:
        item_counts: How often each item was in a top-k list, shape (I,), int64, >= 0.

    Source:
        Ge et al. 2010, "Beyond Accuracy: Evaluating Recommender Systems by Coverage and Serendipity",
        section 3.1 (catalog coverage).
    """
    return float(np.count_nonzero(item_counts) / max(len(item_counts), 1))


def gini(item_counts: NDArray[np.int64]) -> float:
    """Measures how unequally places are spread over items: 0 all alike, 1 - 1/I all to one item.

    G = sum over i = 1 .. I of (2 i - I - 1) x_i / (I sum x), x ascending, never recommended items
    included as zeros. 0 when nothing was recommended.

    Args:
        item_counts: How often each item was in a top-k list, shape (I,), int64, >= 0.

    Source:
        Gini 1912 in the form of Sun et al. 2020, "Are We Evaluating Rigorously?", and of RecBole's
        `GiniIndex`.
    """
    total = int(item_counts.sum())
    if total == 0:
        return 0.0
    size = len(item_counts)
    factors = 2 * np.arange(1, size + 1) - size - 1
    return float((factors * np.sort(item_counts)).sum() / (size * total))


def entropy(item_counts: NDArray[np.int64]) -> float:
    """Gives the Shannon entropy of the recommended items in nats, in [0, ln I].

    H = - sum over items of p ln p, with p = x / sum x and 0 ln 0 = 0. RecBole's `ShannonEntropy` is
    this number divided by the number of distinct recommended items, which is no entropy.

    Args:
        item_counts: How often each item was in a top-k list, shape (I,), int64, >= 0.

    Source:
        Shannon 1948, "A Mathematical Theory of Communication", section 6.
    """
    recommended = item_counts[item_counts > 0]
    shares = recommended / max(int(recommended.sum()), 1)
    return float(abs((shares * np.log(shares)).sum()))


def average_popularity(item_counts: NDArray[np.int64], item_popularity: NDArray[np.number]) -> float:
    """Gives the mean training popularity of a recommended item, unit: interactions. 0 when there is none.

    Args:
        item_counts: How often each item was in a top-k list, shape (I,), int64, >= 0.
        item_popularity: Training interactions of each item, or a private estimate, shape (I,).

    Source:
        Yin et al. 2012, "Challenging the Long Tail Recommendation", section 5; RecBole's
        `AveragePopularity` is the same number where all lists have k items.
    """
    return float((item_counts * item_popularity).sum() / max(int(item_counts.sum()), 1))


def tail_share(
    item_counts: NDArray[np.int64],
    item_popularity: NDArray[np.number],
    *,
    tail_fraction: float = TAIL_FRACTION,
) -> float:
    """Gives the share of recommendations that go to the long tail, in [0, 1].

    The tail is the least popular `tail_fraction` of the catalog, cold items included, at least one item,
    ties to the lower row. RecBole's `TailPercentage` uses 0.1 and leaves cold items out, which is close to
    zero for every model; all but the top fifth is the definition of the work on popularity bias.

    Args:
        item_counts: How often each item was in a top-k list, shape (I,), int64, >= 0.
        item_popularity: Training interactions of each item, or a private estimate, shape (I,).
        tail_fraction: Share of the catalog that counts as tail, in (0, 1]. (public)

    Source:
        Abdollahpouri et al. 2019, "Managing Popularity Bias in Recommender Systems with Personalized
        Re-ranking", section 4 (average percentage of long tail items).
    """
    size = max(int(len(item_counts) * tail_fraction), 1)
    tail = np.argsort(item_popularity, kind="stable")[:size]
    return float(item_counts[tail].sum() / max(int(item_counts.sum()), 1))
