"""Baselines and metrics of a caller: how they are called, and what is refused before a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray

from shared.config import RunConfig
from shared.errors import CheckpointError, ConfigError
from shared.metrics import summarize
from simulations.comparison import baselines
from simulations.comparison.own import Own, OwnMetrics, fitted_scorer, read_own_metrics
from simulations.comparison.own_model import verify_own_names

ITEMS = 12


class Counts:
    """Popularity, written as a caller would."""

    def fit(self, histories: list[NDArray[np.int64]], num_items: int) -> None:
        self.counts = np.bincount(np.concatenate(histories), minlength=num_items)

    def __call__(self, histories: list[NDArray[np.int64]]) -> NDArray[np.int64]:
        return np.tile(self.counts, (len(histories), 1))


def hits(lists: NDArray[np.int64], targets: list[NDArray[np.int64]]) -> NDArray[Any]:
    return np.array([np.isin(own, listed).any() for listed, own in zip(lists, targets, strict=True)])


def config(**changes: Any) -> RunConfig:
    return RunConfig.from_mapping({"evaluation.k": 3, "evaluation.bootstrap_replicates": 20, **changes})


def test_a_metric_written_by_hand_gives_the_hit_rate_and_its_interval(tiny_histories: pl.DataFrame) -> None:
    """Scores without ties, so that a list and a rank cannot differ."""
    rng = np.random.default_rng(3)
    table = rng.permutation(ITEMS).astype(np.float32)

    def score(known: Sequence[NDArray[np.integer]]) -> NDArray[np.float32]:
        return np.tile(table, (len(known), 1))

    own = OwnMetrics({"hits": hits}, config(), tiny_histories, num_items=ITEMS)
    own.measure("released", score)
    sums = baselines.evaluate_baseline(score, tiny_histories, which="test", k=3, num_replicates=20)
    expected = summarize(sums, item_popularity=np.ones(ITEMS))["hr@3"]
    assert own.measured["released"]["hits"] == pytest.approx(expected)


def test_lists_leave_out_the_history_and_end_with_minus_one_where_nothing_is_left() -> None:
    lists = pl.List(pl.Int32)
    histories = pl.DataFrame(
        {"user": ["u"], "train": [[0, 1]], "validation": [[2]], "test": [[1]]},
        schema={"user": pl.String, "train": lists, "validation": lists, "test": lists},
    )
    shown: list[list[int]] = []

    def look(listed: NDArray[np.int64], targets: list[NDArray[np.int64]]) -> NDArray[Any]:
        shown.extend(listed.tolist())
        assert [own.tolist() for own in targets] == [[1]]
        return np.zeros(len(listed))

    own = OwnMetrics({"look": look}, config(**{"evaluation.k": 4}), histories, num_items=4)
    shown.clear()
    own.measure("released", lambda known: np.array([[9.0, 1.0, 9.0, 2.0]], dtype=np.float32))
    assert shown == [[3, 1, -1, -1]]  # a target that the history holds can be recommended again
    assert own.measured["released"]["look"] == {"mean": 0.0, "low": None, "high": None}


def test_a_baseline_is_fitted_to_training_histories_alone_and_then_scores_as_it_is(tiny_histories: pl.DataFrame) -> None:
    scorer = fitted_scorer("counts", Counts(), tiny_histories, num_items=ITEMS)
    ours = baselines.fit_popularity(baselines.train_popularity(tiny_histories, num_items=ITEMS))
    known = baselines.row_arrays(tiny_histories["train"])
    np.testing.assert_array_equal(scorer(known), ours(known))


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (np.zeros((2, 3)), r"^Expected scores of the baseline 'mine' to be numbers of shape \(2, 12\), got shape=\(2, 3\)"),
        (np.full((2, ITEMS), "a"), r"to be numbers of shape \(2, 12\), got shape=\(2, 12\), type=<U1"),
        (np.full((2, ITEMS), np.nan), r"^Expected scores of the baseline 'mine' without NaN, got NaN 24 times"),
    ],
)
def test_scores_of_another_form_are_refused_before_a_run(answer: Any, message: str, tiny_histories: pl.DataFrame) -> None:
    with pytest.raises(ConfigError, match=message):
        fitted_scorer("mine", lambda histories: answer, tiny_histories, num_items=ITEMS)


def test_a_metric_of_another_form_or_with_a_name_of_ours_is_refused_before_a_run(tiny_histories: pl.DataFrame) -> None:
    with pytest.raises(
        ConfigError, match=r"^Expected values of the metric 'mean' to be numbers of shape \(2,\), got shape=\(\)"
    ):
        OwnMetrics({"mean": lambda lists, targets: np.array(0.5)}, config(), tiny_histories, num_items=ITEMS)
    for name in ("ndcg@3", "auc", "gini@3"):
        with pytest.raises(ConfigError, match=f"^Expected names of metrics that are free, got name='{name}'"):
            OwnMetrics({name: hits}, config(), tiny_histories, num_items=ITEMS)


def test_names_and_functions_are_looked_at_first() -> None:
    with pytest.raises(ConfigError, match=r"^Expected metrics to be a mapping of names to functions, got metrics=\[\]"):
        Own(metrics=[])  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"^Expected baselines\['mine'\] to be a function, got int\. Pass one\.$"):
        Own(baselines={"mine": 3})  # type: ignore[dict-item]
    with pytest.raises(ConfigError, match=r"^Expected names of metrics to be text, got name=''"):
        Own(metrics={"": hits})
    with pytest.raises(ConfigError, match=r"^Expected progress to be a function, got str"):
        Own(progress="print")  # type: ignore[arg-type]
    for name in ("popularity", "run_before", "released"):
        with pytest.raises(ConfigError, match=f"^Expected names of baselines that are free, got name='{name}'"):
            verify_own_names([name])


def test_a_run_without_metrics_of_a_caller_has_none_and_a_damaged_file_is_an_error(tmp_path: Path) -> None:
    assert read_own_metrics(tmp_path) == {}
    (tmp_path / "evaluation").mkdir()
    (tmp_path / "evaluation" / "own_metrics.json").write_text("{", encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"in evaluation/own_metrics.json, could not read them"):
        read_own_metrics(tmp_path)
