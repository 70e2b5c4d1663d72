"""Baselines and metrics that a caller of `tacit.simulate` brings, beside those of the project.

NOT PRIVATE: they see exact histories and held-out interactions of all users. Their numbers go into the research record of a
simulation and into `evaluation/own_metrics.json`, never into a release.

Lives here: how they are called, checked and summed up. Never here: a baseline or a metric of ours.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from shared.data.splitting import scoring_histories
from shared.errors import CheckpointError, ConfigError
from shared.files import write_json
from shared.metrics import EvaluationSums, summarize, user_keys, users_at_once
from shared.metrics.bootstrap import percentile_interval, resample
from shared.ranking import top_k
from simulations.comparison.baselines import Scorer, row_arrays
from simulations.rounds import FOLDER

if TYPE_CHECKING:
    from shared.config import RunConfig

# Histories (B arrays of catalog rows in time order) -> scores (B, I), higher is better. (private) An object with a method
# `fit(histories, num_items)` is fitted to the training histories first.
Baseline = Callable[[list[NDArray[np.int64]]], NDArray[Any]]
# Lists (B, k) of catalog rows, best first, -1 where fewer items are left; targets (B arrays of catalog rows) -> one number a
# user, (B,). (private)
Metric = Callable[[NDArray[np.int64], list[NDArray[np.int64]]], NDArray[Any]]
Estimate = dict[str, float | None]

OWN_METRICS: Final = "own_metrics.json"
# The released recommender, beside the keys of the baselines.
RELEASED: Final = "released"
_NONE_LEFT: Final = -1
_USERS_AT_ONCE: Final = 512
_USERS_TRIED: Final = 2


@dataclass(frozen=True, eq=False)
class Own:
    """Baselines, metrics and progress of a caller; NOT PRIVATE.

    Attributes:
        baselines: By name. (private: they see all histories)
        metrics: By name. (private: they see what was held out)
        progress: Called after each round with its number, exact loss and exact validation metrics. (private)
    """

    baselines: Mapping[str, Baseline] = field(default_factory=dict)
    metrics: Mapping[str, Metric] = field(default_factory=dict)
    progress: Callable[[dict[str, Any]], None] | None = None

    def __post_init__(self) -> None:
        """Refuses what could only fail after a long run.

        Raises:
            ConfigError: For a name that is no text, or something that cannot be called.
        """
        for what in ("baselines", "metrics"):
            held = getattr(self, what)
            if not isinstance(held, Mapping):
                raise ConfigError(
                    f"Expected {what} to be a mapping of names to functions, got {what}={held!r}. Name each one."
                )
            for name, function in held.items():
                if not isinstance(name, str) or not name.isprintable() or not name.strip():
                    raise ConfigError(f"Expected names of {what} to be text, got name={name!r}. Use letters.")
                if not callable(function):
                    raise ConfigError(
                        f"Expected {what}[{name!r}] to be a function, got {type(function).__name__}. Pass one."
                    )
        if self.progress is not None and not callable(self.progress):
            raise ConfigError(f"Expected progress to be a function, got {type(self.progress).__name__}. Pass one.")


def fitted_scorer(name: str, baseline: Baseline, histories: pl.DataFrame, *, num_items: int) -> Scorer:
    """Fits a caller's baseline where it has `fit`, tries it on a few users, and holds each answer against its form.

    Args:
        name: What it is called in an error.
        baseline: Of the caller.
        histories: The HISTORIES TABLE. (private)
        num_items: Items in the catalog, I. (public)

    Raises:
        ConfigError: If the scores are not numbers of shape (B, I).
    """
    fit = getattr(baseline, "fit", None)
    if callable(fit):
        fit([rows.astype(np.int64) for rows in row_arrays(histories["train"])], num_items)

    def score(known: Any) -> NDArray[np.float32]:
        scores = np.asarray(baseline([rows.astype(np.int64) for rows in known]))
        _require_numbers(f"scores of the baseline {name!r}", scores, (len(known), num_items))
        return scores.astype(np.float32)

    score(row_arrays(histories["train"].head(_USERS_TRIED)))
    return score


class OwnMetrics:
    """The metrics of a caller, measured on the test target of every user who has one; NOT PRIVATE.

    Args:
        metrics: By name.
        config: List length, replicates. (public)
        histories: The HISTORIES TABLE. (private)
        num_items: Items in the catalog, I. (public)

    Attributes:
        measured: Mean and interval of each metric, by recommender. (private)
    """

    def __init__(self, metrics: Mapping[str, Metric], config: RunConfig, histories: pl.DataFrame, *, num_items: int) -> None:
        """Tries each metric on a few users.

        Raises:
            ConfigError: If a metric has the name of one of ours, or its answer has another form.
        """
        self._metrics, self._settings, self._num_items = metrics, config.evaluation, num_items
        self._with_target = histories.filter(pl.col("test").list.len() > 0)
        self.measured: dict[str, dict[str, Estimate]] = {}
        ours = summarize(
            EvaluationSums.zero(num_items=1, num_replicates=0, k=config.evaluation.k), item_popularity=np.ones(1)
        )
        if taken := sorted(ours.keys() & metrics.keys()):
            raise ConfigError(f"Expected names of metrics that are free, got name={taken[0]!r}. It is ours; choose another.")
        self._values(self._with_target.head(_USERS_TRIED), lambda known: np.zeros((len(known), num_items), dtype=np.float32))

    def measure(self, key: str, scorer: Scorer) -> None:
        """Measures one recommender.

        Args:
            key: Of a baseline, or `RELEASED`.
            scorer: Its scores. (private)

        Raises:
            ConfigError: If a metric's answer is not one number a user.
        """
        if not self._metrics or self._with_target.is_empty():
            return
        at_once = users_at_once(self._num_items, _USERS_AT_ONCE)
        values = np.vstack([self._values(batch, scorer) for batch in self._with_target.iter_slices(at_once)])
        keys = user_keys(self._with_target["user"])
        replicates = self._settings.bootstrap_replicates
        sums, counts = resample(values, keys, num_replicates=replicates, bootstrap_seed=0)
        drawn = counts > 0
        means = sums[drawn] / counts[drawn, None]
        found: dict[str, Estimate] = {}
        for column, name in enumerate(self._metrics):
            low, high = percentile_interval(means[:, column]) if len(values) > 1 else (None, None)
            found[name] = {"mean": float(values[:, column].mean()), "low": low, "high": high}
        self.measured[key] = found

    def write(self, run_dir: Path) -> None:
        """Writes what was measured, where there is a metric."""
        if self._metrics:
            write_json(run_dir / FOLDER / OWN_METRICS, {"stamp": "NOT PRIVATE", "test": self.measured})

    def _values(self, batch: pl.DataFrame, scorer: Scorer) -> NDArray[np.float64]:
        """Each metric of each user, (B, metrics)."""
        if not self._metrics or batch.is_empty():
            return np.zeros((len(batch), len(self._metrics)))
        known, targets = row_arrays(scoring_histories(batch, "test")), row_arrays(batch["test"])
        lists = np.full((len(batch), self._settings.k), _NONE_LEFT, dtype=np.int64)
        for user, scores in enumerate(scorer(known)):
            # As in our metrics, a target that the history holds can be recommended again.
            rows = top_k(scores, np.setdiff1d(known[user], targets[user]), k=self._settings.k)
            lists[user, : len(rows)] = rows
        columns = []
        for name, metric in self._metrics.items():
            values = np.asarray(metric(lists.copy(), [rows.astype(np.int64) for rows in targets]))
            _require_numbers(f"values of the metric {name!r}", values, (len(batch),))
            columns.append(values.astype(np.float64))
        return np.stack(columns, axis=1)


def read_own_metrics(run_dir: Path) -> dict[str, dict[str, Estimate]]:
    """What a caller's metrics said of each recommender of a run; nothing where there were none. (private)

    Raises:
        CheckpointError: If the file is damaged.
    """
    path = run_dir / FOLDER / OWN_METRICS
    if not path.exists():
        return {}
    try:
        measured: dict[str, dict[str, Estimate]] = json.loads(path.read_text(encoding="utf-8"))["test"]
        return measured
    except (OSError, ValueError, KeyError, TypeError):
        raise CheckpointError(f"Expected the caller's metrics in {FOLDER}/{OWN_METRICS}, could not read them.") from None


def _require_numbers(what: str, found: NDArray[Any], shape: tuple[int, ...]) -> None:
    if found.shape != shape or found.dtype.kind not in "fiub":
        raise ConfigError(f"Expected {what} to be numbers of shape {shape}, got shape={found.shape}, type={found.dtype}.")
    if found.dtype.kind == "f" and np.isnan(found).any():
        raise ConfigError(f"Expected {what} without NaN, got NaN {int(np.isnan(found).sum())} times.")
