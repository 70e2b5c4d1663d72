"""Made-up users in place of those of a deployment, whom its server never sees, and what the run's nodes say of themselves.

The folder of a deployment's run holds settings, catalog and releases, and nobody's interactions. What an audit tests does
not need them: canaries, who are made up anyway, are told from each other by noise and coins alone. Noise, bounds and sums
are those of the run's own code and plan. Attacks on real users are not made.

What never lives here: canaries (`canaries.py`), the comparison of logs (`reconciliation.py`).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl

from client.store.population import Population, open_population
from server.home import ServerHome
from server.provisioning.departures import departures
from shared.audit.document import Departure, Skipped
from shared.data.splitting import HISTORIES_SCHEMA
from shared.randomness import derive
from shared.run_file import IN_BUNDLE, KIND, RunFile
from shared.run_folder import load_catalog
from shared.signing import read_signed
from simulations.population import write_population

# Items of a made-up user: as of real ones, few of many, and some items much more often than others.
_ITEMS = 20


def of_deployment(run_dir: Path) -> RunFile | None:
    """The run file of a deployment's run; None in the folder of a simulation.

    Raises:
        ConfigError: If it is damaged.
    """
    path = run_dir / IN_BUNDLE
    if not path.is_file():
        return None
    signer = read_signed(path, KIND, signer=None).signer
    return RunFile.read(path.read_bytes(), server=signer, where=path.name)


def stand_ins(run: RunFile, run_dir: Path, folder: Path) -> Population:
    """Writes as many made-up users as the run's file declares.

    Args:
        run: The run's file.
        run_dir: The run's folder, with its catalog.
        folder: Where to write; a new folder.

    Raises:
        DataError: If the catalog is missing or damaged.
    """
    catalog, devices = load_catalog(run_dir), run.config.federation.clients == 0
    rng, users = derive(run.config.run.seed, "stand-ins"), run.size.clients if devices else run.size.users
    often = rng.permutation(catalog.num_items)
    items = often[(catalog.num_items * rng.random((users, _ITEMS + 2)) ** 2).astype(np.int64)]
    histories = pl.DataFrame(
        {
            "user": [f"stand-in-{number}" for number in range(users)],
            "train": items[:, 2:].tolist(),
            "validation": items[:, :1].tolist(),
            "test": items[:, 1:2].tolist(),
        },
        schema=HISTORIES_SCHEMA,
    )
    silos = 0 if devices else run.size.clients
    write_population(histories, catalog, None, folder, clients=silos, seed=run.config.run.seed, declared=run.size.users)
    return open_population(folder)


def not_on_nodes() -> Iterator[Skipped]:
    """What only those could try who have the nodes' data and ledgers."""
    yield Skipped(
        attack="attacks that read real users",
        reason="The server of a deployment has nobody's interactions: canaries stand among made-up users. Noise, bounds, "
        "sums and guesses are those of the run's code and plan; attributes, and membership of users and windows, are not "
        "guessed.",
    )
    yield Skipped(
        attack="whether ledgers were charged",
        reason="The ledgers are on the nodes, where their owners read them. `tacit audit reconcile` compares the nodes' "
        "logs with the server's.",
    )


def departures_from(run: RunFile, run_dir: Path) -> tuple[Departure, ...]:
    """What nodes that took part in the run and left the federation have signed.

    Args:
        run: The run's file.
        run_dir: The run's folder, in its server's home.

    Raises:
        ConfigError: If a statement is damaged.
    """
    found = []
    for statement in departures(ServerHome(run_dir.resolve().parent.parent)):
        contributed = sum(one.contributions for one in statement.runs if one.run == run.digest)
        if contributed:
            left_at, head = statement.left_at, statement.log_head
            found.append(Departure(left_at=left_at, contributions=contributed, epsilon=statement.epsilon, log_head=head))
    return tuple(sorted(found, key=lambda one: (one.left_at, one.log_head)))
