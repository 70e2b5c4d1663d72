"""The twin of a run: the same plan, clients and code, with canaries among the users; its recommender is never released.

Everything that it writes lies in a temporary folder, readable for its owner alone, that is removed; a process that is killed
leaves `tacit-audit-*` behind among the system's temporary files. Its ledger is its own: nobody's budget is charged for
it, because nothing of it leaves this machine but what the audit says, and that is about canaries and noise. One thing in it
follows from the real users, through the twin's own noise: which statistic was refined.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from client.store.population import Population, open_population, read_clients
from shared.config import RunConfig
from shared.errors import ConfigError
from shared.model.recommender import resident
from shared.privacy.calibration import plan_of
from shared.privacy.plan import PrivacyPlan
from shared.privacy.shapes import StatisticShapes
from shared.randomness import derive, replayable_source, secret_source
from shared.run_folder import POPULATION
from simulations.audits.canaries import Canaries, plant
from simulations.audits.witness import Witness

# Numbers of the canaries' vectors in one release, which are held at once: 300 MB.
_MOST_NUMBERS = 40_000_000


@dataclass(frozen=True, eq=False)
class Twin:
    """What is needed to run a twin.

    Attributes:
        config: Of the run.
        population: Its clients. (private)
        plan: Its plan.
        canaries: What is planted.
    """

    config: RunConfig
    population: Population
    plan: PrivacyPlan
    canaries: Canaries

    @classmethod
    def of(cls, run_dir: Path, config: RunConfig, *, canaries: int, population: Population | None = None) -> Twin:
        """Plants canaries beside a finished run's clients.

        Args:
            run_dir: The run's folder.
            config: Of the run.
            canaries: How many to plant; fewer where the head of the catalog, the clients or the memory leave no room.
            population: Clients in place of the run's own, where these are elsewhere.

        Raises:
            ConfigError: If this run cannot have a twin.
        """
        _check(config)
        own = run_dir / POPULATION
        population = population or open_population(own if own.exists() else Path(config.data.population))
        size = population.size
        plan = plan_of(config, num_users=size.users, num_clients=size.clients)
        recommender = resident(config, population.catalog)
        shapes = StatisticShapes.of(config, plan, recommender)
        planted = plant(
            _item_counts(population),
            wanted=min(canaries, _MOST_NUMBERS // max(shapes.num_transitions, shapes.num_items)),
            clients=population.num_clients,
            head=shapes.head,
            displace=plan.clips_whole_updates,
            rng=derive(config.run.seed, "canaries"),
            coins=replayable_source(config.run.seed, "coins") if plan.reproducible else secret_source(),
        )
        return cls(config, population, plan, planted)

    def run(self, say: Callable[[str], None] = lambda what: None) -> Witness:
        """Runs the whole federation, and returns what was seen of it."""
        from server.app import server_app
        from simulations.engines.cohort import node_ids_of, play
        from simulations.engines.twin import TwinGrid

        witness = Witness(self.canaries, self.plan, say=say)
        with tempfile.TemporaryDirectory(prefix="tacit-audit-") as folder:
            config = copied(self.config, self.population, Path(folder))
            grid = TwinGrid(
                num_nodes=self.population.num_clients,
                run_config=config.to_flat(),
                node_ids=node_ids_of(config.data.population) if config.mechanism.clients_take_turns else None,
                canaries=self.canaries,
                witness=witness,
                ledger=Path(config.privacy.ledger),
            )
            play(server_app(witness, sums_of=in_the_open), grid)
        return witness


def copied(config: RunConfig, population: Population, folder: Path) -> RunConfig:
    """The configuration of a copy of a run, which writes into a folder of its own and has a ledger of its own there."""
    return config.with_values(
        {
            "run.out": str(folder / "run"),
            "run.resume": False,
            "privacy.ledger": str(folder / "ledger.sqlite"),
            "data.population": str(population.folder),
        }
    )


def in_the_open(*_: object) -> None:
    """No secure sums: a copy of a run adds contributions up in one process. Masks leave the sum as it is."""


def _check(config: RunConfig) -> None:
    if config.privacy.unit != "user":
        raise ConfigError(
            f"Expected privacy.unit=user for an audit, got privacy.unit={config.privacy.unit}. Canaries are users."
        )


def _item_counts(population: Population) -> NDArray[np.int64]:
    """How often each item is in a training history. (private)"""
    histories = read_clients(population.folder, np.arange(population.num_clients), ["train"]).histories["train"]
    items = histories.explode(empty_as_null=False).to_numpy().astype(np.int64)
    return np.bincount(items[items >= 0], minlength=population.catalog.num_items)[: population.catalog.num_items]
