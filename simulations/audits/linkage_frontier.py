"""Linkage at every epsilon of the frontier: is a planted pair recovered where less, or more, is promised than in the run?

A twin of the run for each epsilon, with statistics alone and without rounds, because two items of one user show in these.
What is learned from the canaries, and guessed, is as in `linkage.py`; so is why none of it is part of the signed audit.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from client.store.population import Population
from shared.config import RunConfig
from shared.privacy.statement import statement_of
from simulations.audits.linkage import linkage
from simulations.audits.twin import Twin

EPSILONS: Final = ("1", "2", "8", "inf")
# Statistics in which two items of one user show.
_OF_PAIRS = ("pairs", "transitions")


def linkage_frontier(
    run_dir: Path, config: RunConfig, *, canaries: int, population: Population | None = None
) -> list[dict[str, Any]]:
    """What parts of the recommender give two items of a canary away, at each epsilon.

    Args:
        run_dir: The run's folder. (private)
        config: Of the run.
        canaries: How many to plant at each.
        population: As of `Twin.of`.

    Returns:
        What `linkage` finds, and the `epsilon` that was asked for, null for infinity; nothing where the run releases no
        statistic of pairs.
    """
    released = [name.strip() for name in config.statistics.releases.split(",")]
    if not set(_OF_PAIRS).intersection(released):
        return []
    found = []
    for epsilon in EPSILONS:
        # What an earlier run released does not change with the epsilon, so these continue none.
        own = config.with_values({"privacy.epsilon": epsilon, "federation.rounds": 0, "run.continues": ""})
        twin = Twin.of(run_dir, own, canaries=canaries, population=population)
        statement = statement_of(twin.plan, twin.plan.events(), config=own)
        held = linkage(statement, twin.run().linked, twin.canaries.included)
        found.append({"epsilon": own.privacy.epsilon if own.is_private else None, **held})
    return found
