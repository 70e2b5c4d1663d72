"""Small federations for tests: a file of interactions, the command line in this process, a population.

What lives here: arranging. What never does: an assertion, or a number that a test compares with.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from flwr.serverapp import ServerApp
from numpy.typing import NDArray

from shared.config import RunConfig, parse_assignments
from shared.data.catalog import ItemCatalog
from simulations.engines.local_grid import InProcessGrid, serve
from simulations.population import write_population
from simulations.preparing import dataset_of, split_of

ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class FinishedRun:
    """A run's folder (not to be changed), its record and the file it was made from."""

    folder: Path
    record: dict[str, Any]
    data: Path


def write_interactions(path: Path, *, users: int = 30, items: int = 15, seed: int = 0) -> Path:
    """A CSV file of users with 5 to 9 interactions at real times; texts are of the tiny tokenizer's words."""
    rng = np.random.default_rng(seed)
    lines = ["user,item,timestamp,item_title"]
    for user in range(users):
        time = 1_500_000_000 + int(rng.integers(0, 10**6))
        for item in rng.choice(items, size=int(rng.integers(5, 10)), replace=False):
            time += int(rng.integers(60, 90_000))
            lines.append(f"person-{user},thing-{item},{time},w{item} w{2 * item} w{item + 1}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def flags(backbone: str, **settings: object) -> list[str]:
    """Arguments of `tacit simulate` for a run of a second; `section__key=value` changes one, and None leaves it out."""
    values = {
        "data.public_catalog": True,
        "model.backbone": backbone,
        "model.max_history_length": 12,
        "adapter.rank": 2,
        "adapter.output_rank": 2,
        "adapter.head_rank": 2,
        "training.local_steps": 2,
        "training.sampling_rate": 0.5,
        "training.physical_batch_size": 16,
        "federation.rounds": 2,
        "federation.clients": 3,
        "statistics.releases": "none",
        "evaluation.bootstrap_replicates": 20,
        "evaluation.k": 5,
        "evaluation.baselines": "none",
        **{key.replace("__", "."): value for key, value in settings.items()},
    }
    return [part for key, value in values.items() if value is not None for part in ("--set", f"{key}={value}")]


@dataclass(frozen=True)
class Outcome:
    """What a command did."""

    status: int
    stdout: str
    stderr: str

    @property
    def json(self) -> Any:
        """What was printed, all of it, as JSON."""
        return json.loads(self.stdout)


def settings(data: Path, backbone: str, **changes: object) -> RunConfig:
    """The configuration of a run of a second."""
    return RunConfig.from_mapping(parse_assignments(flags(backbone, data__path=data, **changes)[1::2]))


def run_tacit(capsys: pytest.CaptureFixture[str], *arguments: object) -> Outcome:
    """Runs a command in this process."""
    from simulations import cli

    capsys.readouterr()
    before = sys.argv
    sys.argv = ["tacit", *(str(argument) for argument in arguments)]
    status = 0
    try:
        cli.run()
    except SystemExit as error:
        status = int(error.code or 0)
    finally:
        sys.argv = before
    captured = capsys.readouterr()
    return Outcome(status, captured.out, captured.err)


def command(*arguments: object) -> list[str]:
    """The same as a command of its own process."""
    return [sys.executable, str(ROOT / "tacit.py"), *(str(argument) for argument in arguments)]


def population(folder: Path, config: RunConfig, histories: pl.DataFrame, catalog: ItemCatalog, **changes: Any) -> RunConfig:
    """Writes a population and returns the configuration of a run on it, in `folder / "run"`."""
    config = config.with_values(changes)
    clients = config.federation.clients
    if not (folder / "population").exists():  # a resumed run goes on with its own, and with the ledger in it
        write_population(histories, catalog, None, folder / "population", clients=clients, seed=config.run.seed)
    return config.with_values({"data.population": str(folder / "population"), "run.out": str(folder / "run")})


def exact_pairs(folder: Path, backbone: str) -> RunConfig:
    """A run of 150 users in silos without privacy and without rounds: its exact pairs tell who was in."""
    data = write_interactions(folder / "data.csv", users=150, items=40)
    config = settings(data, backbone, privacy__epsilon="inf", federation__rounds=0, statistics__releases="pairs,transitions")
    dataset = dataset_of(config)
    return population(folder, config, split_of(config, dataset, private=False).histories, dataset.catalog)


def run_in_process(
    server_app: ServerApp, client_app: Any, *, num_nodes: int, run_config: Mapping[str, bool | int | float | str]
) -> InProcessGrid:
    """Runs a federation one client after the other, through its `ClientApp`; returns the grid that was used."""
    grid = InProcessGrid(client_app, num_nodes=num_nodes, run_config=run_config)
    serve(server_app, grid)
    return grid


def released_prior(run: Path) -> NDArray[np.float32]:
    """The log prior of a finished run."""
    from safetensors.numpy import load_file

    return load_file(run / "adapter" / "prior.safetensors")["log_prior"]


def release_events(run: Path) -> dict[str, list[Any]]:
    """The events of each release beside training, from a finished run's manifest."""
    found: dict[str, list[Any]] = json.loads((run / "adapter" / "manifest.json").read_text("utf-8"))["release_events"]
    return found
