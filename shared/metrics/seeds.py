"""Several runs of one recommender that differ in their seed: means and paired comparisons over users and seeds.

What lives here: what an interval says that counts both chances, which users there are and which noise was drawn. What never
does: a per-user value; everything comes from sums. Why this way: user u counts equally often in replicate b of every run, so
a replicate that takes the same users in every seed, and draws the seeds again, is a bootstrap of both.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from shared.errors import ConfigError
from shared.metrics.bootstrap import percentile_interval, two_sided_p_value
from shared.metrics.sums import ROUNDING, EvaluationSums
from shared.randomness import derive

Floats = NDArray[np.float64]
Estimate = dict[str, float | None]


def mean_over_seeds(runs: Sequence[EvaluationSums], name: str) -> Estimate:
    """Mean of a metric over runs, with its 95 % bootstrap interval over users and seeds.

    With one run the interval is over users alone.

    Args:
        runs: S >= 1 runs, one a seed, resampled alike. (private)
        name: A per-user metric, e.g. "ndcg@10".

    Returns:
        `{"mean", "low", "high"}`; an end is None without replicates or with fewer than two users, all without users.

    Raises:
        ConfigError: If the metric is unknown or there is no run.
    """
    _check(runs, runs, name)
    means, replicates = _means(runs, name)
    return _estimate(float(means.mean()), _over_seeds(replicates))


def comparison_over_seeds(
    runs: Sequence[EvaluationSums], others: Sequence[EvaluationSums], name: str
) -> dict[str, Estimate]:
    """How a recommender compares with another one, paired over users and seeds.

    Args:
        runs: S runs of the one, one a seed. (private)
        others: S runs of the other, in the same order of seeds, over the same users. (private)
        name: A per-user metric, e.g. "ndcg@10".

    Returns:
        `difference`: mean(runs) - mean(others) as `{"mean", "low", "high", "p_value"}` with a two-sided p-value; `ratio`:
        mean(runs) / mean(others) as `{"mean", "low", "high"}`. None where it cannot be given, as a ratio to 0.

    Raises:
        ConfigError: If the metric is unknown, or the runs differ in number, users or replicates.

    Source:
        Efron and Tibshirani 1993, "An Introduction to the Bootstrap", section 8.3 (resampling in two stages).
    """
    _check(runs, others, name)
    for run, other in zip(runs, others, strict=True):
        if run.num_users != other.num_users or not np.array_equal(run.replicate_counts, other.replicate_counts):
            raise ConfigError(
                "Expected both recommenders to be evaluated on the same users and resampled alike, got "
                f"num_users={run.num_users} and num_users={other.num_users}, or other replicates. Repeat the runs."
            )
    (own, own_replicates), (means, replicates) = _means(runs, name), _means(others, name)
    ours, theirs = _over_seeds(own_replicates), _over_seeds(replicates)
    differences = ours - theirs
    # The order of a sum must not decide a sign: what only rounding tells apart is equal.
    differences[np.abs(differences) < ROUNDING] = 0.0
    difference = _estimate(float(own.mean() - means.mean()), differences)
    testable = difference["low"] is not None
    compared = theirs > 0
    ratio = float(own.mean() / means.mean()) if means.mean() > 0 else None
    return {
        "difference": {**difference, "p_value": two_sided_p_value(differences) if testable else None},
        "ratio": _estimate(ratio, ours[compared] / theirs[compared] if compared.all() else ours[:0]),
    }


def _check(runs: Sequence[EvaluationSums], others: Sequence[EvaluationSums], name: str) -> None:
    if not runs or len(runs) != len(others):
        raise ConfigError(
            f"Expected as many runs of both recommenders, at least one, got runs={len(runs)}, others={len(others)}. Give "
            "one run a seed of each."
        )
    for sums in (*runs, *others):
        if name not in sums.names:
            raise ConfigError(
                f"Expected a metric that all runs have, got name={name!r}. Use one of {', '.join(sums.names)}."
            )
        if len(sums.replicate_counts) != len(runs[0].replicate_counts):
            raise ConfigError(
                "Expected runs with equally many bootstrap replicates, got "
                f"{len(sums.replicate_counts)} and {len(runs[0].replicate_counts)}. Repeat them with the same number."
            )


def _means(runs: Sequence[EvaluationSums], name: str) -> tuple[Floats, Floats]:
    """Mean of each run, (S,), and of each replicate of it, (S, R); no replicates where they would say nothing."""
    column = runs[0].names.index(name)
    means = np.array([run.sums[column] / run.num_users if run.num_users else np.nan for run in runs])
    if any(run.num_users < 2 for run in runs):
        return means, np.zeros((len(runs), 0))
    counts = np.stack([run.replicate_counts for run in runs])
    drawn = (counts > 0).all(axis=0)
    sums = np.stack([run.replicate_sums[:, column] for run in runs])
    return means, sums[:, drawn] / counts[:, drawn]


def _over_seeds(replicates: Floats) -> Floats:
    """The mean over seeds that are drawn again for each replicate; equal draws for every recommender of as many runs.

    Args:
        replicates: (S, R).

    Returns:
        (R,).
    """
    seeds, number = replicates.shape
    drawn = derive(0, "seeds of a replicate").integers(0, seeds, size=(seeds, number))
    over: Floats = np.take_along_axis(replicates, drawn, axis=0).mean(axis=0)
    return over


def _estimate(mean: float | None, replicates: Floats) -> Estimate:
    if mean is None or not np.isfinite(mean):
        return dict.fromkeys(("mean", "low", "high"))
    low, high = percentile_interval(replicates)
    return {"mean": mean, "low": low, "high": high}
