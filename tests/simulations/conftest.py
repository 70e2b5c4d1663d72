"""One finished private run on thirty users, shared by the tests that look at what a run leaves behind."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from shared.config import RunConfig, parse_assignments
from simulations.simulate import simulate
from tests import running


@dataclass(frozen=True)
class FinishedRun:
    """A run's folder (not to be changed), its record and the file it was made from."""

    folder: Path
    record: dict[str, Any]
    data: Path


def settings(data: Path, backbone: str, **changes: object) -> RunConfig:
    """The configuration of a run of a second."""
    assignments = running.flags(backbone, data__path=data, **changes)[1::2]
    return RunConfig.from_mapping(parse_assignments(assignments))


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory, tiny_bert: str) -> FinishedRun:
    folder = tmp_path_factory.mktemp("finished")
    data = running.write_interactions(folder / "interactions.csv")
    config = settings(data, tiny_bert, evaluation__baselines="popularity,text_similarity")
    record = simulate(config, folder / "run", quiet=True)
    return FinishedRun(folder / "run", record, data)
