"""What a frontier says: one row a run, one summary an epsilon, and the limits without privacy.

Lives here: reading finished runs and composing `frontier.json`. Never here: running one, or a picture. Every number comes
from the exact metrics of the runs' research records, so the result is NOT PRIVATE, whatever the epsilons of the runs.
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from server.reporting.reading import section
from shared.errors import CheckpointError, ConfigError
from shared.files import finite
from shared.metrics import EvaluationSums, comparison_over_seeds, mean_over_seeds
from shared.versions import versions
from simulations.record import read_record

if TYPE_CHECKING:
    from shared.config import RunConfig
    from simulations.frontier_run import FrontierRun

SCHEMA = "tacit-frontier-1"
STAMP = (
    "NOT PRIVATE: this page shows exact metrics computed from all users, and each of its runs released something about the "
    "same users. The epsilon of a run is its own; all of them together cost more."
)


@dataclass(frozen=True, eq=False)
class Measured:
    """A finished run and what was measured of it.

    Attributes:
        run: Which run of the frontier.
        folder: Where it is.
        record: Its `run.json`. (private)
        test: Sums over users on the test target. (private)
    """

    run: FrontierRun
    folder: Path
    record: Mapping[str, Any]
    test: EvaluationSums

    @classmethod
    def of(cls, run: FrontierRun, folder: Path) -> Measured:
        """Reads a finished run."""
        record = read_record(folder)
        return cls(run, folder, record, read_test_sums(folder, record))

    @property
    def seconds(self) -> float:
        """Without what its baselines took."""
        timings = self.record["timings"]
        return float(timings["total_seconds"] - timings.get("baselines_seconds", 0.0))

    def means(self) -> dict[str, float | None]:
        """HR and NDCG on the test target."""
        return {name: self.record["metrics"]["test"][name]["mean"] for name in headline_names(self.test)}


def compose(base: RunConfig, runs: Sequence[tuple[FrontierRun, Path]], out: Path) -> dict[str, Any]:
    """Composes the content of `frontier.json`.

    Args:
        base: What all runs have in common. (public)
        runs: Finished runs with their folders: of each epsilon and seed the run and its free baseline.
        out: The folder of the frontier, which paths are relative to.

    Raises:
        ConfigError: If the data changed between the runs.
        CheckpointError: If a run cannot be read.
    """
    measured = [Measured.of(run, folder) for run, folder in runs]
    _require_same_data(measured)
    own = {(one.run.epsilon, one.run.seed): one for one in measured if not one.run.free}
    free = {(one.run.epsilon, one.run.seed): one for one in measured if one.run.free}
    epsilons = sorted({epsilon for epsilon, _ in own})
    seeds = sorted({seed for _, seed in own})
    first = measured[0]
    summaries = [
        _summary(epsilon, [own[epsilon, seed] for seed in seeds], [free[epsilon, seed] for seed in seeds])
        for epsilon in epsilons
    ]
    data = first.record["data"]
    return {
        "schema": SCHEMA,
        "stamp": STAMP,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "data": data["name"],
        "users": data["users"],
        "items": data["items"],
        "interactions": data["interactions"],
        "clients": data["clients"],
        "split": data["split"],
        "k": base.evaluation.k,
        "metrics": list(headline_names(first.test)),
        "epsilons": [epsilon_value(epsilon) for epsilon in epsilons],
        "seeds": seeds,
        "unit": first.record["privacy"]["unit"],
        "runs": [_row(own[key], free[key], out) for key in sorted(own)],
        "summary": summaries,
        "limits": _limits(own, epsilons, seeds),
        "settings": _changed_settings(base),
        "versions": versions(),
    }


def read_test_sums(folder: Path, record: Mapping[str, Any]) -> EvaluationSums:
    """The sums of a run on the test target. (private)

    Raises:
        CheckpointError: If they are absent or not of that run.
    """
    try:
        settings, num_items = record["config"]["evaluation"], record["data"]["items"]
        vector = np.load(folder / "evaluation" / "test.npy")
        return EvaluationSums.from_vector(vector, num_items, settings["bootstrap_replicates"], k=settings["k"])
    except (OSError, ValueError, KeyError, TypeError, ConfigError):
        raise CheckpointError(
            f"Expected exact metrics of a finished run in {folder.name}/evaluation/, could not read them. Repeat the run."
        ) from None


def headline_names(sums: EvaluationSums) -> tuple[str, str]:
    """HR and NDCG with their list length."""
    hr, ndcg = (next(name for name in sums.names if name.startswith(stem + "@")) for stem in ("hr", "ndcg"))
    return hr, ndcg


def epsilon_value(epsilon: float) -> float | str:
    """An epsilon as JSON holds it: a number, or "inf"."""
    return epsilon if math.isfinite(epsilon) else "inf"


def released(record: Mapping[str, Any]) -> str:
    """Which candidate a run released: untrained, statistics or trained.

    Where no comparison chose one, it is the one with all that the run learned.
    """
    if selection := section(record, "selection"):
        return str(selection["chosen"])
    config = record["config"]
    if config["federation"]["rounds"]:
        return "trained"
    names = {name.strip() for name in config["statistics"]["releases"].split(",")}
    return "statistics" if names & {"pairs", "transitions"} else "untrained"


def _row(own: Measured, free: Measured, out: Path) -> dict[str, Any]:
    """One run beside its free baseline; each metric nested, and flat as `test.ndcg@10`."""
    test, baseline = own.means(), free.means()
    return {
        "epsilon": epsilon_value(own.run.epsilon),
        "seed": own.run.seed,
        "test": test,
        "free_baseline": baseline,
        **{f"test.{name}": value for name, value in test.items()},
        **{f"free_baseline.{name}": value for name, value in baseline.items()},
        "chosen": released(own.record),
        "stopped": own.record.get("stopped"),
        "rounds": own.record["config"]["federation"]["rounds"],
        "epsilon_upper": own.record["privacy"]["epsilon"],
        "delta": own.record["privacy"]["delta"],
        "seconds": own.seconds,
        "free_baseline_seconds": free.seconds,
        "folder": own.folder.relative_to(out).as_posix(),
        "free_baseline_folder": free.folder.relative_to(out).as_posix(),
    }


def _summary(epsilon: float, own: Sequence[Measured], free: Sequence[Measured]) -> dict[str, Any]:
    """Means of one epsilon with 95 % intervals over users and seeds, and the paired comparison with the free baseline."""
    runs, others = [one.test for one in own], [one.test for one in free]
    names = headline_names(runs[0])
    compared = {name: comparison_over_seeds(runs, others, name) for name in names}
    chosen = [released(one.record) for one in own]
    return {
        "epsilon": epsilon_value(epsilon),
        "test": {name: mean_over_seeds(runs, name) for name in names},
        "free_baseline": {name: mean_over_seeds(others, name) for name in names},
        "ratio": {name: compared[name]["ratio"] for name in names},
        "difference": {name: compared[name]["difference"] for name in names},
        "chosen": {name: chosen.count(name) for name in dict.fromkeys(chosen)},
    }


def _limits(own: Mapping[tuple[float, int], Measured], epsilons: Sequence[float], seeds: Sequence[int]) -> dict[str, Any]:
    """What can be had without privacy: item-kNN, and the same run at epsilon inf where it is among the runs."""
    limits: dict[str, Any] = {}
    rows = [row for one in own.values() for row in one.record["baselines"] if row["key"] == "item_knn"]
    names = headline_names(next(iter(own.values())).test)
    if rows:
        # A bootstrap over users of one run; what seeds change of it are ties in time alone.
        means = {name: [row["metrics"]["test"][name] for row in rows] for name in names}
        limits["item_knn"] = {
            name: {end: _mean([one[end] for one in found]) for end in ("mean", "low", "high")}
            for name, found in means.items()
        }
    if math.inf in epsilons:
        unbounded = [own[math.inf, seed].test for seed in seeds]
        limits["no_privacy"] = {name: mean_over_seeds(unbounded, name) for name in names}
    return limits


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if len(known) == len(values) else None


def _changed_settings(base: RunConfig) -> dict[str, Any]:
    """Settings that are not the defaults, without those that differ among the runs."""
    from shared.config import keys

    defaults, own = keys(), {"privacy.epsilon", "run.seed", "run.out", "evaluation.baselines"}
    changed = {key: value for key, value in base.to_flat().items() if value != defaults[key] and key not in own}
    return dict(finite(changed))


def _require_same_data(measured: Sequence[Measured]) -> None:
    """Runs are paired by users, so all of a seed must have read the same data; the embedded data depend on the seed."""
    digests: dict[int, set[str]] = {}
    for one in measured:
        digests.setdefault(one.run.seed, set()).add(one.record["data"]["digest"])
    if any(len(found) > 1 for found in digests.values()):
        raise ConfigError(
            "Expected all runs of a frontier on the same data, found others: the file changed between them. Choose another "
            "--out, or restore the file."
        )
