"""What of an evaluation can be added: sums and counts, from which means and intervals are made.

What lives here: `EvaluationSums`, which a client fills and a server adds, and the summary. What never does:
a per-user value that leaves the function which computed it. (With one user a client the sums *are* per-user
values: only secure aggregation or a silo of many users hides them.)

Why this way: everything a report says about quality is a function of these sums, so clients and batches
of any size and order can be added, in the clear or under secure aggregation, and the intervals come along
(see `bootstrap`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from shared.errors import ConfigError
from shared.metrics import beyond_accuracy, ranking
from shared.metrics.bootstrap import bootstrap_weights, percentile_interval, resample, two_sided_p_value

# Lower ends of the histogram's bins of ranks; the last bin is open.
RANK_EDGES: tuple[int, ...] = (1, 2, 4, 6, 11, 21, 51, 101, 201, 501, 1001, 2001, 5001, 10001)
# Differences of means below this are rounding errors of sums of numbers in [0, 1].
ROUNDING = 1e-12


def metric_names(k: int) -> tuple[str, ...]:
    """Names the per-user metrics in the order of `EvaluationSums.sums`, for lists of length k."""
    listed = ("hr", "ndcg", "mrr", "map", "precision", "recall", "f1")
    return (*(f"{name}@{k}" for name in listed), "auc")


@dataclass(frozen=True, eq=False)
class EvaluationSums:
    """Sums over users of everything a report says about recommendation quality; adds elementwise.

    Attributes:
        names: Per-user metric names, M of them, e.g. "ndcg@10". (public)
        num_users: Users with at least one target, >= 0.
        sums: Sum of each metric over users, shape (M,), float64.
        replicate_sums: The same under bootstrap weights, shape (R, M), float64.
        replicate_counts: Sum of the weights, shape (R,), float64, whole numbers.
        item_counts: How often each item was in a top-k list, shape (I,), int64.
        histogram: Users by the rank of their best ranked target, bins from `RANK_EDGES`, shape (H,), int64.
    """

    names: tuple[str, ...]
    num_users: int
    sums: NDArray[np.float64]
    replicate_sums: NDArray[np.float64]
    replicate_counts: NDArray[np.float64]
    item_counts: NDArray[np.int64]
    histogram: NDArray[np.int64]

    @classmethod
    def zero(cls, *, num_items: int, num_replicates: int, k: int = 10) -> EvaluationSums:
        """Gives the sums over no users: the neutral element of `+`."""
        names = metric_names(k)
        return cls(
            names=names,
            num_users=0,
            sums=np.zeros(len(names)),
            replicate_sums=np.zeros((num_replicates, len(names))),
            replicate_counts=np.zeros(num_replicates),
            item_counts=np.zeros(num_items, dtype=np.int64),
            histogram=np.zeros(len(RANK_EDGES), dtype=np.int64),
        )

    def __add__(self, other: EvaluationSums) -> EvaluationSums:
        """Adds the sums of two disjoint groups of users.

        Raises:
            ConfigError: If the two differ in metrics, catalog size or number of replicates.
        """
        for name in ("item_counts", "replicate_sums"):
            mine, theirs = getattr(self, name).shape, getattr(other, name).shape
            if mine != theirs:
                raise ConfigError(
                    f"Expected {name} of equal shape, got shape={mine} and shape={theirs}. "
                    "Evaluate all clients with the same catalog and the same number of replicates."
                )
        if self.names != other.names:
            raise ConfigError(
                f"Expected metric names to be equal, got names={self.names} and names={other.names}. "
                "Evaluate all clients with the same k."
            )
        sums = {f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)[1:]}
        return EvaluationSums(names=self.names, **sums)

    @classmethod
    def vector_size(cls, num_items: int, num_replicates: int, *, k: int = 10, counts_items: bool = True) -> int:
        """Length of the vector that `from_vector` reads, or of its beginning, up to the counts of items."""
        names = len(metric_names(k))
        return 1 + names + num_replicates * (names + 1) + (num_items + len(RANK_EDGES) if counts_items else 0)

    @staticmethod
    def vector_place(name: str, *, k: int = 10) -> int:
        """Where in a vector the sum of a metric stands; the number of users is at 0."""
        return 1 + metric_names(k).index(name)

    @classmethod
    def from_vector(cls, vector: NDArray[np.float64], num_items: int, num_replicates: int, *, k: int = 10) -> EvaluationSums:
        """Reads one client's sums (`evaluate_clients`), or a sum of such vectors; counts are rounded to whole numbers.

        Args:
            vector: Shape (1 + M + R * M + R + I + H,), float64.
            num_items: Items in the catalog, I. (public)
            num_replicates: Bootstrap replicates, R. (public)
            k: List length the metrics were computed with. (public)

        Returns:
            The sums.

        Raises:
            ConfigError: If the vector has another length than these sizes give.
        """
        empty = cls.zero(num_items=num_items, num_replicates=num_replicates, k=k)
        expected = cls.vector_size(num_items, num_replicates, k=k)
        if vector.shape != (expected,):
            raise ConfigError(
                f"Expected vector of shape ({expected},), got shape={vector.shape}. "
                "Use the catalog size, k and number of replicates that the sender used."
            )
        parts: dict[str, NDArray[np.float64]] = {}
        start = 0
        for field in fields(cls)[1:]:
            shape = np.shape(getattr(empty, field.name))
            stop = start + math.prod(shape)
            parts[field.name] = np.array(vector[start:stop], dtype=np.float64).reshape(shape)
            start = stop
        return cls(
            names=empty.names,
            num_users=round(float(parts["num_users"])),
            sums=parts["sums"],
            replicate_sums=parts["replicate_sums"],
            replicate_counts=parts["replicate_counts"],
            item_counts=np.rint(parts["item_counts"]).astype(np.int64),
            histogram=np.rint(parts["histogram"]).astype(np.int64),
        )


def evaluate_scores(
    scores: NDArray[np.floating],
    histories: Sequence[NDArray[np.integer]],
    targets: Sequence[NDArray[np.integer]],
    *,
    user_keys: NDArray[np.uint64],
    k: int = 10,
    num_replicates: int = 200,
    bootstrap_seed: int = 0,
    item_popularity: NDArray[np.number] | None = None,
) -> EvaluationSums:
    """Evaluates the scores of a batch of users by full ranking over the catalog.

    Users without a target are left out and not counted. Items of the history are no candidates unless
    they are targets. Ties are broken against the target (see `ranking`).

    Args:
        scores: Item scores, shape (B, I), float32 or float64, higher is better; not changed. (private)
        histories: B arrays of item rows that the scores were computed from. (private)
        targets: B arrays of item rows to be found; order and repetition do not matter. (private)
        user_keys: From `bootstrap.user_keys`, shape (B,), uint64. (private)
        k: List length, >= 1. (public)
        num_replicates: Bootstrap replicates R >= 0; 0 means no intervals. (public)
        bootstrap_seed: The same for all clients and all models that are to be compared. (public)
        item_popularity: The vector that `summarize` will get, shape (I,); only its length is used here, so
            that a wrong one fails with the first batch and not after the last. (public)

    Returns:
        The sums over the batch. A sum over very few users is as private as its users' data.

    Raises:
        ConfigError: If k < 1, num_replicates < 0, or the arguments differ in B or I.
        DataError: If a history or a target holds a row outside the catalog.
        TacitError: If a score is NaN.
    """
    if item_popularity is not None:
        _check_popularity(item_popularity, scores.shape[1])
    nobody, sums = evaluate_clients(
        scores,
        histories,
        targets,
        clients=np.zeros(len(scores), dtype=np.int64),
        user_keys=user_keys,
        k=k,
        num_replicates=num_replicates,
        bootstrap_seed=bootstrap_seed,
    )
    if not len(nobody):
        return EvaluationSums.zero(num_items=scores.shape[1], num_replicates=num_replicates, k=k)
    return EvaluationSums.from_vector(sums[0], scores.shape[1], num_replicates, k=k)


def evaluate_clients(
    scores: NDArray[np.floating],
    histories: Sequence[NDArray[np.integer]],
    targets: Sequence[NDArray[np.integer]],
    *,
    clients: NDArray[np.int64],
    user_keys: NDArray[np.uint64],
    k: int = 10,
    num_replicates: int = 200,
    bootstrap_seed: int = 0,
    counts_items: bool = True,
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Evaluates a batch whose users belong to several clients; see `evaluate_scores`.

    Args:
        scores: (B, I). (private)
        histories: B arrays. (private)
        targets: B arrays. (private)
        clients: (B,), whose each user is, in any order. (private)
        user_keys: (B,). (private)
        k: List length. (public)
        num_replicates: R. (public)
        bootstrap_seed: The same for all clients. (public)
        counts_items: Whether lists are counted item by item; without, a vector ends before these counts. (public)

    Returns:
        The clients that have a user with a target here, ascending, (C,), and the sums of each as a vector, (C, V) float64.

    Raises:
        ConfigError, DataError, TacitError: As `evaluate_scores`.
    """
    _check_arguments(scores, histories, targets, user_keys, k, num_replicates)
    kept = np.array([row for row, items in enumerate(targets) if len(items)], dtype=np.int64)
    # Users of one client one after the other, so that its sums are sums of neighbors.
    kept = kept[np.argsort(clients[kept], kind="stable")]
    present, first, place = np.unique(clients[kept], return_index=True, return_inverse=True)
    num_items = scores.shape[1]
    sums = np.zeros((len(present), EvaluationSums.vector_size(num_items, num_replicates, k=k, counts_items=counts_items)))
    if not len(kept):
        return present, sums
    target_keys = ranking.pair_keys([targets[row] for row in kept], num_items)
    candidates = ranking.mask_seen(scores, [histories[row] for row in kept], target_keys, rows=kept)
    ranks = ranking.rank_targets(candidates, target_keys)
    values = _metric_values(ranks, k)
    keys = user_keys[kept]
    drawn = {"num_replicates": num_replicates, "bootstrap_seed": bootstrap_seed}
    if len(present) == 1:
        replicates = [part.reshape(1, -1) for part in resample(values, keys, **drawn)]
    else:
        weights = bootstrap_weights(keys, **drawn).T
        each = [(weights[:, :, None] * values[:, None, :]).reshape(len(kept), -1), weights]
        replicates = [np.add.reduceat(part, first, axis=0) for part in each]
    users = np.diff(first, append=len(kept))[:, None]
    added = np.hstack([users, np.add.reduceat(values, first, axis=0), *replicates])
    sums[:, : added.shape[1]] = added
    if not counts_items:
        return present, sums
    # Few of a catalog's items are in a list, so these are counted where they are and not as one number an item and user.
    row, item = beyond_accuracy.recommended(candidates, k)
    np.add.at(sums, (place[row], added.shape[1] + item), 1.0)
    bins = np.searchsorted(RANK_EDGES, ranking.best_rank(ranks), side="right") - 1
    np.add.at(sums, (place, added.shape[1] + num_items + bins), 1.0)
    return present, sums


def summarize(sums: EvaluationSums, *, item_popularity: NDArray[np.number]) -> dict[str, dict[str, float | None]]:
    """Turns sums into means with 95 % bootstrap intervals over users.

    Args:
        sums: Sums over all users.
        item_popularity: Training interactions of each item, or a private estimate, shape (I,).

    Returns:
        `{"ndcg@10": {"mean", "low", "high"}, ...}` for the per-user metrics and for item_coverage, gini,
        entropy (nats), average_popularity (interactions) and tail_share. A value that cannot be given
        is None: every mean without users, an interval with fewer than two users or without replicates,
        and the interval of everything that is no mean over users.

    Raises:
        ConfigError: If item_popularity is not of the catalog's length.
    """
    _check_popularity(item_popularity, len(sums.item_counts))
    summary: dict[str, dict[str, float | None]] = {}
    for column, name in enumerate(sums.names):
        mean = float(sums.sums[column] / sums.num_users) if sums.num_users else None
        low, high = percentile_interval(_replicate_means(sums, column)) if sums.num_users > 1 else (None, None)
        summary[name] = {"mean": mean, "low": low, "high": high}
    counts, suffix = sums.item_counts, sums.names[0].removeprefix("hr")
    catalog = {
        "item_coverage": beyond_accuracy.item_coverage(counts),
        "gini": beyond_accuracy.gini(counts),
        "entropy": beyond_accuracy.entropy(counts),
        "average_popularity": beyond_accuracy.average_popularity(counts, item_popularity),
        "tail_share": beyond_accuracy.tail_share(counts, item_popularity),
    }
    for name, value in catalog.items():
        summary[name + suffix] = {"mean": value if sums.num_users else None, "low": None, "high": None}
    return summary


def difference(a: EvaluationSums, b: EvaluationSums, name: str) -> dict[str, float | None]:
    """Compares two models on the same users: mean(a) - mean(b), its interval, and a two-sided p-value.

    The users of a replicate are the same for both models, so what makes a user easy or hard for both cancels.

    Args:
        a: Sums of the first model.
        b: Sums of the second, over the same users with the same seed and number of replicates.
        name: A per-user metric, e.g. "ndcg@10".

    Returns:
        `{"mean", "low", "high", "p_value"}`, no unit; None where `summarize` gives None.

    Raises:
        ConfigError: If the metric is unknown or the two were not resampled alike.
    """
    if a.names != b.names or name not in a.names:
        raise ConfigError(f"Expected a metric that both models have, got name={name!r}. Use one of {', '.join(a.names)}.")
    if a.num_users != b.num_users or not np.array_equal(a.replicate_counts, b.replicate_counts):
        raise ConfigError(
            "Expected both models to be evaluated on the same users and resampled alike, got "
            f"num_users={a.num_users} and num_users={b.num_users}, or other replicates. "
            "Use the same users, bootstrap_seed and num_replicates."
        )
    if a.num_users == 0:
        return dict.fromkeys(("mean", "low", "high", "p_value"))
    column = a.names.index(name)
    mean = float((a.sums[column] - b.sums[column]) / a.num_users)
    replicates = _replicate_means(a, column) - _replicate_means(b, column)
    # The order of a sum must not decide a sign: what only rounding tells apart is equal.
    replicates[np.abs(replicates) < ROUNDING] = 0.0
    if a.num_users < 2 or len(replicates) == 0:
        return {"mean": mean, "low": None, "high": None, "p_value": None}
    low, high = percentile_interval(replicates)
    return {"mean": mean, "low": low, "high": high, "p_value": two_sided_p_value(replicates)}


def _metric_values(ranks: ranking.TargetRanks, k: int) -> NDArray[np.float64]:
    """Computes every per-user metric, columns in the order of `metric_names`, shape (B, M), float64."""
    return np.stack(
        [
            ranking.hit_rate(ranks, k),
            ranking.ndcg(ranks, k),
            ranking.reciprocal_rank(ranks, k),
            ranking.average_precision(ranks, k),
            ranking.precision(ranks, k),
            ranking.recall(ranks, k),
            ranking.f1(ranks, k),
            ranking.auc(ranks),
        ],
        axis=1,
    )


def _replicate_means(sums: EvaluationSums, column: int) -> NDArray[np.float64]:
    """Gives the mean of one metric in every replicate that drew any user, shape (<= R,), float64."""
    drawn = sums.replicate_counts > 0
    means: NDArray[np.float64] = sums.replicate_sums[drawn, column] / sums.replicate_counts[drawn]
    return means


def _check_popularity(item_popularity: NDArray[np.number], num_items: int) -> None:
    """Refuses a popularity vector that does not fit the catalog."""
    if item_popularity.shape != (num_items,):
        raise ConfigError(
            f"Expected item_popularity of shape ({num_items},), got shape={item_popularity.shape}. "
            "Count popularity over the catalog that is scored."
        )


def _check_arguments(
    scores: NDArray[np.floating],
    histories: Sequence[NDArray[np.integer]],
    targets: Sequence[NDArray[np.integer]],
    keys: NDArray[np.uint64],
    k: int,
    num_replicates: int,
) -> None:
    """Refuses arguments of `evaluate_clients` that do not fit each other."""
    if k < 1:
        raise ConfigError(f"Expected k >= 1, got k={k}. Use the length of the list that is shown.")
    if num_replicates < 0:
        raise ConfigError(f"Expected num_replicates >= 0, got num_replicates={num_replicates}. Use 200.")
    if scores.ndim != 2 or not np.issubdtype(scores.dtype, np.floating):
        raise ConfigError(
            f"Expected scores of shape (B, I) and a floating dtype, got shape={scores.shape}, "
            f"dtype={scores.dtype}. Give one row of item scores a user."
        )
    sizes = (len(scores), len(histories), len(targets), len(keys))
    if len(set(sizes)) != 1:
        raise ConfigError(
            "Expected one row of scores, history, list of targets and key for each user, "
            f"got lengths={sizes}. Build all four from the same users."
        )
