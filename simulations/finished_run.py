"""A finished run in Python: its numbers, its claims, its rounds, its recommender.

Lives here: what `run.json` holds, as values. Never here: a number that is not in the run's folder, or running one. It reads
the research record, so all but `recommender()` is NOT PRIVATE: exact metrics, losses and baselines of all users.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from shared import wording
from simulations.comparison.own import RELEASED, Estimate, read_own_metrics
from simulations.comparison.runs import finished_record
from simulations.recommendation import Recommender

PICTURE = "run.png"


@dataclass(frozen=True)
class BaselineRow:
    """A baseline beside a run. (private)

    Attributes:
        label: Its name for people.
        private: Whether it could be released as it is.
        metrics: Test metrics: mean with a 95 % interval over users, by name.
        difference: This run minus the baseline, paired over users, with interval and p-value, by name.
    """

    label: str
    private: bool
    metrics: Mapping[str, Estimate]
    difference: Mapping[str, Estimate]


@dataclass(frozen=True, eq=False, repr=False)
class Run:
    """A finished run.

    Attributes:
        folder: Where it lies; `report.html` there shows it.
        record: All of `run.json`. (private)
    """

    folder: Path
    record: Mapping[str, Any]
    _own: Mapping[str, Mapping[str, Estimate]] = field(default_factory=dict)

    @classmethod
    def open(cls, folder: str | Path) -> Run:
        """Opens a run that `tacit.simulate` or `tacit simulate` wrote.

        Raises:
            CheckpointError: If it is not finished, or cannot be read.
        """
        path = Path(folder)
        return cls(path, finished_record(path), read_own_metrics(path))

    @property
    def metrics(self) -> dict[str, Estimate]:
        """Test metrics of the released recommender: mean with a 95 % interval over users, by name; yours too. (private)"""
        return {**self.record["metrics"].get("test", {}), **self._own.get(RELEASED, {})}

    @property
    def claims(self) -> list[dict[str, Any]]:
        """The claims, one an adversary: who, epsilon, delta, whether it holds, and a statement in words. (public)"""
        return [dict(claim) for claim in self.record["privacy"]["claims"]]

    @property
    def history(self) -> pl.DataFrame:
        """The rounds, one a row, with validation metrics in columns of their own; empty without training. (private)"""
        rows = []
        for row in self.record["rounds"]:
            validation = {f"validation.{name}": value for name, value in (row["validation"] or {}).items()}
            rest = {name: value for name, value in row.items() if name not in ("validation", "failures")}
            rows.append({"round_number": row["round_number"], "training_loss": row["training_loss"], **validation, **rest})
        return pl.DataFrame(rows, infer_schema_length=None)

    @property
    def baselines(self) -> dict[str, BaselineRow]:
        """The baselines by name, yours among them. (private)"""
        return {
            row["key"]: BaselineRow(
                row["label"],
                row["private"],
                {**row["metrics"].get("test", {}), **self._own.get(row["key"], {})},
                row.get("difference", {}),
            )
            for row in self.record["baselines"]
        }

    def recommender(self) -> Recommender:
        """Opens what the run released; this alone carries the run's claim.

        Raises:
            CheckpointError: If its files do not belong together.
        """
        return Recommender.open(self.folder)

    def plot(self, path: str | Path | None = None) -> Path:
        """Draws the test NDCG beside the baselines, and the rounds where there are two. (private)

        Args:
            path: The PNG; by default `run.png` in the run's folder.

        Returns:
            Its path.
        """
        from simulations.run_picture import write_run_picture

        picture = self.folder / PICTURE if path is None else Path(path)
        models = {"this run": self.metrics, **{row.label: row.metrics for row in self.baselines.values()}}
        write_run_picture(picture, str(self.record["name"]), models, self.history)
        return picture

    def __repr__(self) -> str:
        data, privacy = self.record["data"], self.record["privacy"]
        name = next((name for name in self.metrics if name.startswith("ndcg@")), None)
        estimate = self.metrics[name] if name else {}
        quality = f"test {name} {estimate['mean']:.4f}" if estimate.get("mean") is not None else "no test metrics"
        if estimate.get("low") is not None:
            quality += f" [{estimate['low']:.4f}, {estimate['high']:.4f}]"
        return (
            f"Run({str(self.folder)!r}): {data['name']}, {data['users']:,} users, {data['items']:,} items, "
            f"{wording.rounds_text(len(self.record['rounds']))}; {quality}; {_claim(privacy)}"
        )


def _claim(privacy: Mapping[str, Any]) -> str:
    """The claim against the run's own adversary, or why there is none."""
    if not privacy["is_private"]:
        return "NOT PRIVATE"
    own = [claim for claim in privacy["claims"] if claim["adversary"] == privacy["adversary"]]
    if not own or not own[0]["protected"] or own[0]["failed_assumptions"]:
        return f"NOT PROTECTED against its {privacy['adversary']}, as was planned; see .claims"
    bound = wording.at_most(own[0]["epsilon"])
    return f"epsilon {bound}, delta {own[0]['delta']:g} against {own[0]['who']}"
