"""Membership inference on windows: can a recommender be asked whether a few interactions of a history were used?

The adversary knows the window: some interactions in a row of one user, at fixed boundaries. A copy of the run leaves out the
windows of half of the users by fair coins, and nothing else; the adversary has the copy's recommender and scores each window
by how likely the recommender finds its items one after the other, or, with shadow runs, by a likelihood ratio, as for users
(`membership_inference.py`). A claim for whole histories covers every window of them.

The copies were made from real users under noise of their own, in nobody's ledger: a research record, stamped NOT PRIVATE,
and no part of the signed audit.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl

from client.store.population import Population
from shared.config import RunConfig
from shared.files import write_json
from shared.privacy.statement import Statement
from shared.randomness import derive
from simulations.audits.membership_inference import (
    FEWEST,
    STAMP,
    Coins,
    Floats,
    attacked,
    copys_recommender,
    log_likelihoods,
)
from simulations.engines.held_out import WithoutWindows

WINDOWS: Final = "audit-windows.json"
# Interactions of a window; a user has more than these.
LENGTH = 5


def write_windows(
    run_dir: Path, config: RunConfig, population: Population, statement: Statement, *, shadow_runs: int = 0
) -> dict[str, Any]:
    """Runs the copies, attacks one of them, and writes what came of it.

    Args:
        run_dir: The run's folder. (private)
        config: Of the run.
        population: Its clients. (private)
        statement: What is claimed. (public)
        shadow_runs: Copies of the adversary's own, an even number.
    """
    windows = windows_of(population, seed=config.run.seed)

    def scored(own: Coins) -> Floats:
        left_out = windows.filter(pl.Series(~own)).select("user", "start", "stop")
        recommender = copys_recommender(config, population, partial(WithoutWindows, windows=left_out))
        return log_likelihoods(recommender, windows["window"])

    held: dict[str, Any] = {
        "stamp": STAMP,
        "windows": len(windows),
        "length": LENGTH,
        "shadow_runs": shadow_runs,
        **attacked(
            scored,
            config,
            statement,
            coins="windows",
            candidates=len(windows),
            shadow_runs=shadow_runs,
            too_few=f"Fewer than {FEWEST} windows would be in, or out: users need more than {LENGTH} interactions.",
        ),
    }
    write_json(run_dir / WINDOWS, held)
    return held


def windows_of(population: Population, *, seed: int) -> pl.DataFrame:
    """One window of each user with more interactions than it has.

    Args:
        population: The clients. (private)
        seed: Which window it is.

    Returns:
        Columns `user`, `start`, `stop` (positions in the training history, multiples of LENGTH) and `window`, its items.
    """
    rows = population.rows(np.arange(population.num_clients), ["user", "train"]).histories
    people = rows.filter(pl.col("train").list.len() > LENGTH).unique("user", keep="first", maintain_order=True)
    whole = people["train"].list.len().to_numpy() // LENGTH
    start = LENGTH * np.floor(derive(seed, "windows").random(len(people)) * whole).astype(np.int64)
    placed = people.with_columns(start=pl.Series(start), stop=pl.Series(start + LENGTH))
    return placed.select("user", "start", "stop", window=pl.col("train").list.slice("start", LENGTH))
