"""Metrics: from item scores to sums that can be added over clients, and from sums to means with intervals.

What lives here: `ranking.py` (per-user metrics), `beyond_accuracy.py` (the catalog as a whole),
`bootstrap.py` (how certain a mean is), `sums.py` (what is added, sent and summarized) and `seeds.py` (the same
over several runs). What never does:
models, data files, Flower. Why this way: a client may send sums and counts but never a per-user value, so
a metric is defined by what of it can be added.
"""

from shared.metrics.beyond_accuracy import (
    average_popularity,
    entropy,
    gini,
    item_coverage,
    tail_share,
)
from shared.metrics.bootstrap import user_keys
from shared.metrics.ranking import users_at_once
from shared.metrics.seeds import comparison_over_seeds, mean_over_seeds
from shared.metrics.sums import (
    RANK_EDGES,
    EvaluationSums,
    difference,
    evaluate_clients,
    evaluate_scores,
    metric_names,
    summarize,
)

__all__ = [
    "RANK_EDGES",
    "EvaluationSums",
    "average_popularity",
    "comparison_over_seeds",
    "difference",
    "entropy",
    "evaluate_clients",
    "evaluate_scores",
    "gini",
    "item_coverage",
    "mean_over_seeds",
    "metric_names",
    "summarize",
    "tail_share",
    "user_keys",
    "users_at_once",
]
