"""A new private statistic is a kind, and a class on each side: a whole private run makes, accounts and uses it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import client.statistics.question
import server.statistics.updates
import shared.privacy.releases
from client.batch import ClientBatch
from client.statistics.statistic import Asked
from client.store.data import ClientRows
from server.statistics.statistic import Basis, Learned, Total
from shared.privacy.releases import KINDS, ReleaseKind
from simulations.simulate import simulate
from tests import running

# The configuration's part; a statistic of the product would have a setting of its own.
LATEST = ReleaseKind(
    "latest",
    "pairs_noise_multiplier",
    size=lambda shapes: shapes.num_items,
    holds="which item each of its users used last",
)


class LatestOfClients:
    """Which item each user used last."""

    name = "latest"

    def vectors(self, asked: Asked, batch: ClientBatch, rows: ClientRows) -> NDArray[np.float64]:
        units, clients = batch.units(rows, asked.task.plan)
        total = np.zeros((len(batch), asked.recommender.num_items))
        for history, client_index in zip(units.to_list(), clients.tolist(), strict=True):
            if history:
                total[client_index, history[-1]] += 1.0
        return total


class LatestOnServer:
    """Puts the item that was used last most often before all others."""

    name = "latest"

    def learn(self, total: Total, learned: Learned, basis: Basis) -> Learned:
        prior = learned.log_prior.copy()
        prior[int(np.argmax(total.values))] = 7.0
        return replace(learned, log_prior=prior)


@pytest.mark.parametrize("clients", [0, 3])
def test_a_new_statistic_takes_a_kind_and_one_class_a_side(
    clients: int, tmp_path: Path, tiny_bert: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared.privacy.releases, "KINDS", (*KINDS[:3], LATEST, *KINDS[3:]))
    sides: list[tuple[Any, Any]] = [
        (client.statistics.question, LatestOfClients()),
        (server.statistics.updates, LatestOnServer),
    ]
    for module, own in sides:
        monkeypatch.setattr(module, "STATISTICS", (*module.STATISTICS, own))
    data = running.write_interactions(tmp_path / "interactions.csv")
    changes: dict[str, Any] = {"federation__rounds": 0, "federation__clients": clients, "statistics__releases": "latest"}
    record = simulate(running.settings(data, tiny_bert, **changes), tmp_path / "run", quiet=True)
    released = running.released_prior(tmp_path / "run")
    assert released.max() == 7.0
    assert (released == 7.0).sum() == 1
    # It is accounted: prior, the new statistic and the metrics share epsilon 8.
    assert record["privacy"]["epsilon"] == pytest.approx(8.0, abs=0.01)
    events = sum(len(one) for one in running.release_events(tmp_path / "run").values())
    assert set(running.release_events(tmp_path / "run")) == {"popularity", "latest", "metrics"}
    assert events == 3
