"""How well one user's hidden items are ranked: one function a metric, one formula, one citation.

What lives here: the ranks of target items under a score matrix, and the per-user metrics that follow
from those ranks. What never does: means over users (`sums.py`) and anything about the whole catalog
(`beyond_accuracy.py`). Why this way: every metric here is a function of the ranks alone, so the scores
are read once, whatever the number of metrics, and a user with several targets needs no special case.

The scores are looked at a block of items at a time, and beside them nothing is as large as they are; whoever makes
them takes fewer users at once where the catalog is larger (`users_at_once`). Making them in blocks of items too
would need no matrix at all. But ranks need the target's score first, in all its digits, so that each block would be
made twice, and for a million items making scores takes many times as long as all that is done with them here.

Three conventions hold for all of them.

* Full ranking. The candidates of a user are all items of the catalog except those of the history; a
  target stays a candidate even when the history holds it (repeated consumption).
* Ties are broken against the model: a target stands behind every other candidate of the same score.
  A model that scores everything alike gets the worst rank, not the best, and no random number is
  needed. Targets that tie with each other take successive ranks. The AUC alone counts a tie as half,
  as its definition has it, so that a constant model has an AUC of 1/2.
* `@k` means the first k places of the ranking. Precision divides by k, recall by the number of
  targets, average precision and the ideal gain by the smaller of the two.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shared.errors import DataError, TacitError

# Scores that are compared at once: 8 MB as float32, whatever the batch and the catalog.
BLOCK = 2**21
# What the scores of the users of one batch may take.
_SCORES_BYTES = 2**27


def users_at_once(num_items: int, most: int) -> int:
    """How many users are to be scored at once: `most`, fewer where their float32 scores would take more than 128 MB."""
    return max(1, min(most, _SCORES_BYTES // (4 * max(num_items, 1))))


@dataclass(frozen=True, eq=False)
class Candidates:
    """The candidates of a batch of B users: scores, and the (user, item) pairs to exclude.

    Attributes:
        scores: (S, I), floating; not changed. (private)
        rows: The row of each user, (B,) int64. (private)
        users: Whose each item that is no candidate is, (P,) int64. (private)
        items: Which, (P,) int64, ascending. (private)
    """

    scores: NDArray[np.floating]
    rows: NDArray[np.int64]
    users: NDArray[np.int64]
    items: NDArray[np.int64]

    def __len__(self) -> int:
        """B."""
        return len(self.rows)

    @property
    def num_items(self) -> int:
        """I."""
        num_items: int = self.scores.shape[1]
        return num_items

    def counts(self) -> NDArray[np.int64]:
        """Candidates of each user, (B,)."""
        return self.num_items - np.bincount(self.users, minlength=len(self))

    def of(self, users: NDArray[np.int64], items: NDArray[np.int64]) -> NDArray[np.floating]:
        """The scores of some pairs, which must be candidates."""
        return self.scores[self.rows[users], items]

    def blocks(self) -> Iterator[tuple[slice, NDArray[np.floating]]]:
        """All items, as many at a time as `BLOCK` allows.

        Yields:
            Which, and a copy of their scores, (B, items), with NaN in place of every item that is no candidate. NaN,
            because no comparison with it holds: such an item is never counted above, beside or below another, while
            a score of minus infinity stays an ordinary, very low score.
        """
        for block in item_blocks(len(self), self.num_items):
            # Plain indexing of both axes copies neighbors together.
            found = self.scores[:, block][self.rows]
            inside = slice(*np.searchsorted(self.items, (block.start, block.stop)))
            found[self.users[inside], self.items[inside] - block.start] = np.nan
            yield block, found


def item_blocks(num_users: int, num_items: int) -> Iterator[slice]:
    """Slices of the items whose scores for so many users are at most `BLOCK`."""
    width = max(1, BLOCK // max(num_users, 1))
    return (slice(start, min(start + width, num_items)) for start in range(0, num_items, width))


@dataclass(frozen=True, eq=False)
class TargetRanks:
    """The ranks of all targets of a batch of B users, T targets in total, flat.

    Targets are ordered by user and, within a user, from the best rank to the worst.

    Attributes:
        users: Row of the batch each target belongs to, shape (T,), int64, ascending. (private)
        ranks: Place of each target in its user's ranking, shape (T,), int64, 1 is best. (private)
        positions: 1 for the best ranked target of a user, 2 for the next, ..., shape (T,), int64. (private)
        pairs_won: Non-target candidates ranked below the target, ties as half, shape (T,), float64. (private)
        num_targets: Targets of each user, shape (B,), int64, >= 0. (private)
        num_negatives: Candidates of each user that are no targets, shape (B,), int64, >= 0. (private)
    """

    users: NDArray[np.int64]
    ranks: NDArray[np.int64]
    positions: NDArray[np.int64]
    pairs_won: NDArray[np.float64]
    num_targets: NDArray[np.int64]
    num_negatives: NDArray[np.int64]

    def total(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """Adds one weight a target up for each user, (T,) -> (B,), float64."""
        totals = np.bincount(self.users, weights=weights, minlength=len(self.num_targets))
        return totals.astype(np.float64)


def pair_keys(lists: Sequence[NDArray[np.integer]], num_items: int) -> NDArray[np.int64]:
    """Writes lists of item rows as one sorted array of distinct keys `user * num_items + item`.

    Args:
        lists: B arrays of item rows, any length, 0 included, each row in [0, num_items). (private)
        num_items: Items in the catalog, I. (public)

    Returns:
        The distinct keys, shape (P,), int64, ascending: by user, then by item.

    Raises:
        DataError: If a row lies outside the catalog.
    """
    if not lists:
        return np.empty(0, dtype=np.int64)
    lengths = np.fromiter((len(items) for items in lists), dtype=np.int64, count=len(lists))
    items = np.concatenate(lists).astype(np.int64)
    outside = int(np.count_nonzero((items < 0) | (items >= num_items)))
    if outside:
        raise DataError(
            f"Expected item rows in [0, {num_items}), found {outside} violations. "
            "Score with the catalog the histories were built with."
        )
    return np.unique(np.repeat(np.arange(len(lists)), lengths) * num_items + items)


def mask_seen(
    scores: NDArray[np.floating],
    histories: Sequence[NDArray[np.integer]],
    target_keys: NDArray[np.int64],
    *,
    rows: NDArray[np.int64] | None = None,
) -> Candidates:
    """Tells which items are candidates: all but those of the history that are no targets.

    Args:
        scores: Item scores, shape (S, I), floating, no unit, higher is better. (private)
        histories: B arrays of item rows already seen. (private)
        target_keys: Keys of the targets, as `pair_keys` writes them, shape (T,). (private)
        rows: The row of each user in `scores`, shape (B,); by default one after the other. (private)

    Returns:
        The candidates; `scores` is not copied.

    Raises:
        TacitError: If a score is NaN: no rank can be given, and the best one would be a lie.
        DataError: If a history holds a row outside the catalog.
    """
    num_users, num_items = len(histories), scores.shape[1]
    rows = np.arange(num_users) if rows is None else rows
    unknown = np.zeros(num_users, dtype=np.bool_)
    for block in item_blocks(len(scores), num_items):
        unknown |= np.isnan(scores[:, block].max(axis=1))[rows]  # of a row with NaN the maximum is NaN
    if unknown.any():
        raise TacitError(
            f"Expected item scores without NaN, got NaN for {int(unknown.sum())} of {num_users} users of a batch. "
            "The model has diverged; use a lower learning rate."
        )
    seen = np.setdiff1d(pair_keys(histories, num_items), target_keys, assume_unique=True)
    users, items = np.divmod(seen, num_items)
    order = np.argsort(items, kind="stable")
    return Candidates(scores, rows, users[order], items[order])


def rank_targets(candidates: Candidates, target_keys: NDArray[np.int64]) -> TargetRanks:
    """Finds the rank of every target among its user's candidates, ties against the target.

    Args:
        candidates: Of B users. (private)
        target_keys: Distinct keys of the targets, ascending, shape (T,), int64. (private)

    Returns:
        The ranks. rank = (non-targets with at least the target's score) + (place among own targets).
    """
    users, items = np.divmod(target_keys, candidates.num_items)
    scores = candidates.of(users, items)
    order = np.lexsort((items, -scores, users))
    users, items, scores = users[order], items[order], scores[order]
    at_least, above = _count_negatives(candidates, users, items, scores)
    num_targets = np.bincount(users, minlength=len(candidates))
    num_negatives = candidates.counts() - num_targets
    first = np.cumsum(num_targets) - num_targets
    positions = np.arange(len(users)) - first[users] + 1
    return TargetRanks(
        users=users,
        ranks=at_least + positions,
        positions=positions,
        pairs_won=num_negatives[users] - 0.5 * (at_least + above),
        num_targets=num_targets,
        num_negatives=num_negatives,
    )


def _count_negatives(
    candidates: Candidates, users: NDArray[np.int64], items: NDArray[np.int64], scores: NDArray[np.floating]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """How many candidates that are no targets score at least as high as each target, and how many higher; (T,) each."""
    at_least, above = np.zeros((2, len(users)), dtype=np.int64)
    for block, negatives in candidates.blocks():
        inside = (items >= block.start) & (items < block.stop)
        negatives[users[inside], items[inside] - block.start] = np.nan
        for start in range(0, len(users), len(candidates)):  # a copy as large as the block, however many targets there are
            some = slice(start, start + len(candidates))
            others, own = negatives[users[some]], scores[some, None]
            at_least[some] += np.count_nonzero(others >= own, axis=1)
            above[some] += np.count_nonzero(others > own, axis=1)
    return at_least, above


def best_rank(ranks: TargetRanks) -> NDArray[np.int64]:
    """Gives the rank of each user's best ranked target, shape (B,), int64; 0 for a user without one."""
    best = np.zeros(len(ranks.num_targets), dtype=np.int64)
    first = ranks.positions == 1
    best[ranks.users[first]] = ranks.ranks[first]
    return best


def hit_rate(ranks: TargetRanks, k: int) -> NDArray[np.float64]:
    """Tells whether any target is among the first k: HR@k = [min rank <= k], shape (B,), in {0, 1}.

    Source:
        Deshpande and Karypis 2004, "Item-Based Top-N Recommendation Algorithms", section 6.2.
    """
    return (_hits(ranks, k) > 0).astype(np.float64)


def ndcg(ranks: TargetRanks, k: int) -> NDArray[np.float64]:
    """Discounts hits by the logarithm of their rank, shape (B,), in [0, 1].

    NDCG@k = sum over targets with rank <= k of 1 / log2(rank + 1), divided by the same sum for the
    ideal ranking, sum for j = 1 .. min(k, number of targets) of 1 / log2(j + 1).

    Source:
        Jaervelin and Kekaelaeinen 2002, "Cumulated Gain-Based Evaluation of IR Techniques", section 2,
        with the logarithm of Burges et al. 2005 and binary gains.
    """
    gains = ranks.total((ranks.ranks <= k) / np.log2(ranks.ranks + 1.0))
    ideal = ranks.total((ranks.positions <= k) / np.log2(ranks.positions + 1.0))
    return _divide(gains, ideal)


def reciprocal_rank(ranks: TargetRanks, k: int) -> NDArray[np.float64]:
    """Gives 1 / rank of the first hit, 0 if there is none among the first k: MRR@k, shape (B,), in [0, 1].

    Source:
        Voorhees 1999, "The TREC-8 Question Answering Track Report", section 3, cut at k.
    """
    return ranks.total(((ranks.positions == 1) & (ranks.ranks <= k)) / ranks.ranks)


def average_precision(ranks: TargetRanks, k: int) -> NDArray[np.float64]:
    """Averages the precision at the rank of each hit: AP@k, shape (B,), in [0, 1].

    AP@k = sum over targets with rank <= k of (hits up to rank) / rank, divided by
    min(number of targets, k). The denominator is that of RecBole's `MAP`; scikit-learn's
    `average_precision_score` is the case k = number of candidates.

    Source:
        Buckley and Voorhees 2000, "Evaluating Evaluation Measure Stability", section 2, cut at k.
    """
    # A target's position among its user's targets is the number of hits up to its rank.
    precisions = ranks.total((ranks.ranks <= k) * ranks.positions / ranks.ranks)
    return _divide(precisions, np.minimum(ranks.num_targets, k))


def precision(ranks: TargetRanks, k: int) -> NDArray[np.float64]:
    """Gives hits / k, also where fewer than k candidates exist: precision@k, shape (B,), in [0, 1].

    Source:
        Herlocker et al. 2004, "Evaluating Collaborative Filtering Recommender Systems", section 4.2.2.
    """
    return _hits(ranks, k) / k


def recall(ranks: TargetRanks, k: int) -> NDArray[np.float64]:
    """Gives hits / number of targets: recall@k, shape (B,), in [0, 1].

    Source:
        Herlocker et al. 2004, "Evaluating Collaborative Filtering Recommender Systems", section 4.2.2.
    """
    return _divide(_hits(ranks, k), ranks.num_targets)


def f1(ranks: TargetRanks, k: int) -> NDArray[np.float64]:
    """Gives the harmonic mean of a user's precision@k and recall@k, shape (B,), in [0, 1].

    F1@k = 2 P R / (P + R) = 2 hits / (k + number of targets), 0 without a hit. It is taken for each
    user and then averaged; the F1 of the averages is another number.

    Source:
        van Rijsbergen 1979, "Information Retrieval", chapter 7, with beta = 1.
    """
    return 2 * _hits(ranks, k) / (k + ranks.num_targets)


def auc(ranks: TargetRanks) -> NDArray[np.float64]:
    """Gives the chance that a target is scored above a non-target, ties as half, shape (B,), in [0, 1].

    AUC = (pairs won + pairs tied / 2) / (targets * non-targets), over all candidates of the user.
    The mean over users weighs every user alike (RecBole's GAUC weighs by the number of targets). A
    user whose candidates are all targets has no pair and gets 1/2: nothing was told apart.

    Source:
        Hanley and McNeil 1982, "The Meaning and Use of the Area under a ROC Curve", section 3; per
        user as in Rendle et al. 2009, "BPR", section 4.1.
    """
    pairs = ranks.num_targets * ranks.num_negatives
    return np.where(pairs > 0, _divide(ranks.total(ranks.pairs_won), pairs), 0.5)


def _hits(ranks: TargetRanks, k: int) -> NDArray[np.float64]:
    """Counts the targets among the first k places for each user, shape (B,), float64."""
    return ranks.total((ranks.ranks <= k).astype(np.float64))


def _divide(numerator: NDArray[np.float64], denominator: NDArray[np.number]) -> NDArray[np.float64]:
    """Divides elementwise, (B,) by (B,); 0 / 0 is 0, which only a user without targets meets."""
    quotient = np.zeros(len(numerator))
    np.divide(numerator, denominator, out=quotient, where=denominator > 0)
    return quotient
