"""How often an audit is wrong: many audits of correct runs and of runs with a planted bug; minutes, hence a soak test."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import client.contribution
from shared.audit.judgment import results_of
from shared.privacy.statement import statement_of
from simulations.audits.audit import evidence_of
from simulations.audits.twin import Twin
from simulations.preparing import dataset_of, split_of
from tests import running

CORRECT, BROKEN, CANARIES = 100, 20, 300
Change = Callable[[Any, float], tuple[Any, float]]


@pytest.fixture(scope="module")
def verdict(tmp_path_factory: pytest.TempPathFactory, tiny_bert: str) -> Callable[[], str]:
    """Audits the same run on 150 users in three silos once more, with noise and coins of its own."""
    folder = tmp_path_factory.mktemp("power")
    data = running.write_interactions(folder / "data.csv", users=150, items=40)
    own = {"federation__rounds": 0, "statistics__releases": "pairs,transitions,blending", "evaluation__k": 3}
    config = running.settings(data, tiny_bert, **own)
    dataset = dataset_of(config)
    config = running.population(folder, config, split_of(config, dataset, private=True).histories, dataset.catalog)

    def once() -> str:
        twin = Twin.of(Path(config.run.out), config, canaries=CANARIES)
        statement = statement_of(twin.plan, twin.plan.events(), config=config)
        return results_of(statement, evidence_of(statement, twin.run(), twin.canaries)).verdict

    return once


@pytest.mark.soak
def test_correct_runs_seldom_fail_and_planted_bugs_nearly_always_do(
    verdict: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Null: a correct run, 100 audits at 5 %: P[Bin(100, .05) > 12] = 0.1 %.

    Power: each bug is found in at least 19 of 20 audits.
    """
    assert [verdict() for _ in range(CORRECT)].count("failed") <= 12
    noised = client.contribution.noised
    bugs: dict[str, Change] = {
        "half the noise": lambda rows, stddev: (rows, stddev / 2),
        "four fifths of the noise": lambda rows, stddev: (rows, 0.8 * stddev),
        "users counted twice": lambda rows, stddev: (2 * rows, stddev),
    }
    for bug, change in bugs.items():

        def changed(rows: Any, *, stddev: float, sources: Any, change: Change = change) -> Any:
            rows, stddev = change(rows, stddev)
            return noised(rows, stddev=stddev, sources=sources)

        monkeypatch.setattr(client.contribution, "noised", changed)
        found = [verdict() for _ in range(BROKEN)].count("failed")
        assert found >= BROKEN - 1, f"{bug}: {found} of {BROKEN}"
