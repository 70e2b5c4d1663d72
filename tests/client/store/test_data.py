"""Clients answer from any `ClientData`: a table in memory gives what a population folder gives, bit by bit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from flwr.app import Message
from numpy.typing import NDArray

from client.answering import answers
from client.app import app
from client.batch import ClientBatch
from client.ledger.ledger import Ledger
from client.store.data import ClientRows
from client.store.population import read_clients
from shared.config import RunConfig
from shared.data.catalog import ItemCatalog
from shared.model.recommender import resident
from shared.model.state import RecommenderState
from shared.privacy.calibration import plan_of
from shared.protocol.messages import ContributionReply, ReleaseInstruction, TrainInstruction
from simulations.engines.local_grid import InProcessGrid
from tests import running


@dataclass(frozen=True, eq=False)
class TableInMemory:
    """Histories of one node, which knows of no other client and of no population folder."""

    histories: pl.DataFrame
    ledger_file: Path
    data_name: str = "data"
    shaped_by_all: tuple[str, ...] = ()

    def account(self, client_index: int) -> str:
        return f"client-{client_index}"

    def rows(self, client_indices: NDArray[np.int64], columns: Sequence[str]) -> ClientRows:
        assert len(client_indices) == 1
        return ClientRows(self.histories.select(columns), np.zeros(len(self.histories), dtype=np.int64))


@pytest.mark.parametrize("kind", ["train", "query.popularity", "query.metrics"])
def test_a_node_answers_from_its_own_data_without_a_population_folder(
    kind: str, tmp_path: Path, tiny_config: RunConfig, tiny_histories: pl.DataFrame, tiny_catalog: ItemCatalog
) -> None:
    config = running.population(tmp_path, tiny_config, tiny_histories, tiny_catalog)
    folder, partition = tmp_path / "population", 1
    in_folder = ClientBatch.of_population(config, folder, np.array([partition]))
    own = TableInMemory(read_clients(folder, [partition]).histories, tmp_path / "own.sqlite")
    plan = plan_of(config, num_users=len(tiny_histories), num_clients=config.federation.clients)
    elsewhere = replace(in_folder, config=config.with_values({"data.population": ""}), data=own)
    prior = np.full(tiny_catalog.num_items, -2.0, dtype=np.float32)
    state = RecommenderState(prior, resident(config, tiny_catalog).initial_adapter.copy()).to_vector()
    task = {
        "train": TrainInstruction("digest", 1, plan, plan.l2_clip_norm, state),
        "query.popularity": ReleaseInstruction("digest", plan, "popularity", 0, np.zeros(0, dtype=np.float32)),
        "query.metrics": ReleaseInstruction("digest", plan, "test", 1, state),
    }[kind]
    InProcessGrid(app, num_nodes=1, run_config=config.to_flat())  # Flower makes messages within a run alone
    message = Message(task.to_record(), dst_node_id=2, message_type=kind, group_id="1")
    found = []
    for batch in (in_folder, elsewhere):
        ((_, reply),) = answers(batch, message)
        assert isinstance(reply, ContributionReply)
        found.append(np.asarray(reply.values))
    assert found[0].tobytes() == found[1].tobytes()
    ledger = Ledger(own.ledger_file)
    assert {entry["state"] for entry in ledger.export()["events"]} == {"sent"}
    ledger.close()
