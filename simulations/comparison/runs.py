"""`tacit compare`: several finished runs on the same data in one table, each tested against the first.

Lives here: which runs may stand in one table, and the numbers of a row. Never here: how it looks. Runs are paired over
users, so that what makes a user easy or hard for both cancels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from shared.errors import CheckpointError, ConfigError
from shared.metrics import EvaluationSums, difference
from simulations.frontier_results import headline_names, read_test_sums, released
from simulations.record import read_record

COMPARISON_SCHEMA = "tacit-comparison-1"
STAMP = "NOT PRIVATE: exact metrics computed from all users."


def compare_runs(run_dirs: Sequence[Path]) -> dict[str, Any]:
    """Compares finished runs with the first of them.

    Args:
        run_dirs: Folders that `tacit simulate` wrote, at least two.

    Returns:
        `{"schema", "stamp", "data", "users", "metrics", "runs": [...]}`; a run has `name`, `epsilon` (the accounted bound;
        None where it is not private), `test` with mean and interval of each metric, and `difference` to the first with
        interval and p-value, None for the first itself. (private)

    Raises:
        ConfigError: If there are fewer than two, or they differ in data, split, seed, list length or replicates.
        CheckpointError: If one is not finished, or cannot be read.
    """
    if len(run_dirs) < 2:
        raise ConfigError(f"Expected at least 2 runs to compare, got runs={len(run_dirs)}. Name more folders.")
    records = [finished_record(folder) for folder in run_dirs]
    sums = [read_test_sums(folder, record) for folder, record in zip(run_dirs, records, strict=True)]
    for folder, record in zip(run_dirs[1:], records[1:], strict=True):
        _require_same(folder, record, run_dirs[0], records[0])
    names = headline_names(sums[0])
    data = records[0]["data"]
    return {
        "schema": COMPARISON_SCHEMA,
        "stamp": STAMP,
        "data": data["name"],
        "users": data["users"],
        "metrics": list(names),
        "runs": [
            _row(folder, record, own, sums[0], names) for folder, record, own in zip(run_dirs, records, sums, strict=True)
        ],
    }


def finished_record(folder: Path) -> dict[str, Any]:
    """The record of a complete run. (private: exact metrics)

    Raises:
        CheckpointError: If it is not finished, or cannot be read.
    """
    try:
        record = read_record(folder)
    except CheckpointError as error:
        raise CheckpointError(f"Expected a finished run in {folder}/. {error}") from None
    if record["status"] != "complete":
        raise CheckpointError(
            f"Expected a finished run in {folder}/, got status={record['status']}. Continue it with: tacit simulate "
            f"--resume {folder}"
        )
    return record


def _require_same(folder: Path, record: Mapping[str, Any], first_folder: Path, first: Mapping[str, Any]) -> None:
    """Only runs on the same users and lists can be compared."""
    facts = [
        {
            "data": one["data"]["digest"],
            "split": one["data"]["split"],
            "cut-offs": one["config"]["data"]["cut_offs"],
            "cold items": one["config"]["evaluation"]["cold_items"],
            "seed": one["config"]["run"]["seed"],
            "list length": one["config"]["evaluation"]["k"],
            "bootstrap replicates": one["config"]["evaluation"]["bootstrap_replicates"],
        }
        for one in (first, record)
    ]
    other = [name for name in facts[0] if facts[0][name] != facts[1][name]]
    if other:
        raise ConfigError(
            f"Expected the run in {folder}/ to have the {' and '.join(other)} of the run in {first_folder}/, got others. "
            "Only runs on the same users and lists can be compared."
        )


def _row(
    folder: Path, record: Mapping[str, Any], own: EvaluationSums, first: EvaluationSums, names: Sequence[str]
) -> dict[str, Any]:
    privacy = record["privacy"]
    return {
        "name": folder.resolve().name,
        "folder": str(folder),
        "is_private": privacy["is_private"],
        "epsilon": privacy["epsilon"] if privacy["is_private"] else None,
        "delta": privacy["delta"] if privacy["is_private"] else None,
        "chosen": released(record),
        "test": {name: record["metrics"]["test"][name] for name in names},
        "difference": None if own is first else {name: difference(own, first, name) for name in names},
    }
