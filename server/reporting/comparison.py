"""The models of a run record side by side, and how good the run is among them, in words.

Lives here: which rows the comparison has, and whether the run is better than the free baseline. The page and the terminal
both use it. Never here: HTML, terminal colors, or a metric computed from data.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from server.reporting.reading import entries, section
from shared.wording import finite, metric_text, p_value_text, percent_text

OWN_LABEL = "this run"
"""The label of the recommender that the run trained, beside its baselines."""

_METRIC_LABELS = {
    "hr": "HR",
    "ndcg": "NDCG",
    "mrr": "MRR",
    "map": "MAP",
    "f1": "F1",
    "auc": "AUC",
}


def metric_label(name: str) -> str:
    """Writes a metric's name as papers do.

    Args:
        name: For example `ndcg@10` or `item_coverage@10`.

    Returns:
        For example `NDCG@10` or `Item coverage@10`.
    """
    stem, at, cutoff = name.partition("@")
    plain = stem.replace("_", " ")
    return _METRIC_LABELS.get(stem, plain[:1].upper() + plain[1:]) + at + cutoff


def metric_name(record: Mapping[str, Any], stem: str) -> str:
    """Finds the name under which the record holds a metric, whatever its cut-off.

    Args:
        record: A run record.
        stem: `hr` or `ndcg`.

    Returns:
        For example `ndcg@10`, which is also the answer when the record holds no such metric.
    """
    names = [name for split in ("test", "validation") for name in section(record, "metrics", split)]
    names += [name for row in entries(record, "rounds") for name in section(row, "validation")]
    return next((name for name in names if name.startswith(stem + "@")), f"{stem}@10")


@dataclass(frozen=True)
class ModelRow:
    """One row of the model comparison: the run's own recommender, or a baseline.

    Attributes:
        key: What the baseline is called in a configuration; empty for the run's own recommender.
        label: What a person reads.
        own: Whether this is the run's own recommender.
        private: Whether the model was trained under the run's privacy unit.
        metrics: `{"validation": {name: {mean, low, high}}, "test": {...}}`, of which parts may be missing.
        difference: `{name: {mean, low, high, p_value}}`, own minus baseline on the test split.
        seconds: What the model took, where recorded.
    """

    key: str
    label: str
    own: bool
    private: bool
    metrics: dict[str, Any]
    difference: dict[str, Any]
    seconds: float | None

    def estimate(self, split: str, name: str) -> dict[str, Any]:
        """Returns `{mean, low, high}` of a metric on a split, empty where it was not measured."""
        return section(self.metrics, split, name)

    def mean(self, split: str, name: str) -> float | None:
        """Returns the mean of a metric on a split, None where it was not measured."""
        return finite(self.estimate(split, name).get("mean"))


def model_rows(record: Mapping[str, Any]) -> list[ModelRow]:
    """Lists the models of the record: the run's own first, then the baselines in the record's order.

    Args:
        record: A run record.

    Returns:
        At least one row.
    """
    timings = section(record, "timings")
    own = ModelRow(
        key="",
        label=OWN_LABEL,
        own=True,
        private=section(record, "privacy").get("is_private") is True,
        metrics=section(record, "metrics"),
        difference={},
        # A run without training took what its statistics took.
        seconds=finite(timings.get("training_seconds", timings.get("statistics_seconds"))),
    )
    rows = [
        ModelRow(
            key=str(baseline.get("key", "")),
            label=str(baseline.get("label") or baseline.get("key") or "unnamed"),
            own=False,
            private=baseline.get("private") is True,
            metrics=section(baseline, "metrics"),
            difference=section(baseline, "difference"),
            seconds=finite(baseline.get("seconds")),
        )
        for baseline in entries(record, "baselines")
    ]
    return [own, *rows]


def best_value(rows: Sequence[ModelRow], split: str, name: str) -> float | None:
    """Finds the largest mean of a column, for emphasis.

    Args:
        rows: The comparison.
        split: `validation` or `test`.
        name: A metric of which more is better.

    Returns:
        The largest mean, or None where fewer than two rows hold one.
    """
    means = [mean for row in rows if (mean := row.mean(split, name)) is not None]
    return max(means) if len(means) > 1 else None


@dataclass(frozen=True)
class Verdict:
    """How the run compares with the free baseline, text similarity plus popularity.

    Attributes:
        outcome: `better` or `worse` if the 95 % interval of the difference excludes zero, else `level`.
        baseline: The baseline.
        difference: `{mean, low, high, p_value}`, own minus baseline.
    """

    outcome: Literal["better", "worse", "level"]
    baseline: ModelRow
    difference: dict[str, Any]

    @property
    def words(self) -> str:
        """The outcome as the middle of a sentence."""
        return {
            "better": "better than",
            "worse": "worse than",
            "level": "not distinguishable from",
        }[self.outcome]


def verdict(record: Mapping[str, Any]) -> Verdict | None:
    """Compares the run with the free baseline by the recorded interval of their difference.

    Args:
        record: A run record.

    Returns:
        The verdict, or None where the record holds no text baseline or no difference to it.
    """
    name = metric_name(record, "ndcg")
    for row in model_rows(record):
        difference = section(row.difference, name)
        if row.own or not row.key.startswith("text") or finite(difference.get("mean")) is None:
            continue
        low, high = finite(difference.get("low")), finite(difference.get("high"))
        if low is not None and low > 0:
            return Verdict("better", row, difference)
        if high is not None and high < 0:
            return Verdict("worse", row, difference)
        return Verdict("level", row, difference)
    return None


def ceiling_share(record: Mapping[str, Any], name: str) -> float | None:
    """Returns the share of the best achievable score that the run reached on the test split.

    Args:
        record: A run record.
        name: A metric.

    Returns:
        The share, or None where the ceiling is not known or not positive.
    """
    best = finite(section(record, "data", "ceiling").get(name))
    own = model_rows(record)[0].mean("test", name)
    return None if best is None or best <= 0 or own is None else own / best


def quality_sentence(record: Mapping[str, Any]) -> str:
    """Writes how good the recommendations are, against the free baseline and the best achievable score.

    Args:
        record: A run record. (private: exact metrics)

    Returns:
        One sentence.
    """
    name = metric_name(record, "ndcg")
    own, compared = model_rows(record)[0], verdict(record)
    mean = own.mean("test", name)
    if mean is None:
        return "The recommendations were not evaluated on the test split."
    sentence = f"Test {metric_label(name)} is {mean:.4f}"
    if compared is not None:
        p_value = p_value_text(compared.difference.get("p_value"))
        inside = ", ".join(filter(None, [metric_text(compared.baseline.mean("test", name)), p_value]))
        sentence += f", {compared.words} the free baseline {compared.baseline.label} ({inside})"
    share = ceiling_share(record, name)
    if share is not None:
        sentence += f", and {percent_text(share, 0)} of the best achievable"
    return sentence + "."
