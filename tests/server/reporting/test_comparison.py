"""The models of a run side by side: whether the run is better than the free baseline, and how metrics are called."""

import json
from pathlib import Path
from typing import Any

import pytest

from server.reporting import comparison

RECORD_FILE = Path(__file__).with_name("record.json")


@pytest.fixture
def record() -> dict[str, Any]:
    return json.loads(RECORD_FILE.read_text(encoding="utf-8"))


@pytest.mark.parametrize(("name", "label"), [("ndcg@10", "NDCG@10"), ("item_coverage@5", "Item coverage@5"), ("auc", "AUC")])
def test_a_metric_is_called_as_in_papers(name: str, label: str) -> None:
    assert comparison.metric_label(name) == label


@pytest.mark.parametrize(
    ("low", "high", "outcome"), [(0.001, 0.02, "better"), (-0.02, -0.001, "worse"), (-0.01, 0.01, "level")]
)
def test_verdict_follows_the_interval_of_the_difference(
    record: dict[str, Any], low: float, high: float, outcome: str
) -> None:
    record["baselines"][1]["difference"]["ndcg@10"] = {"mean": (low + high) / 2, "low": low, "high": high}
    found = comparison.verdict(record)
    assert found is not None
    assert found.outcome == outcome
    assert found.baseline.key == "text_similarity"


def test_verdict_without_the_free_baseline_is_none(record: dict[str, Any]) -> None:
    record["baselines"] = [row for row in record["baselines"] if row["key"] != "text_similarity"]
    assert comparison.verdict(record) is None
    assert comparison.quality_sentence(record) == "Test NDCG@10 is 0.0629, and 49 % of the best achievable."


def test_best_value_needs_two_models(record: dict[str, Any]) -> None:
    rows = comparison.model_rows(record)
    assert comparison.best_value(rows, "test", "ndcg@10") == 0.105
    assert comparison.best_value(rows[:1], "test", "ndcg@10") is None
