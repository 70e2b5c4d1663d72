"""The budget is reserved before any history is read: what cannot be written down is not computed."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from client.app import app
from client.ledger.ledger import Binding, Ledger
from client.store.population import _read_part, open_population
from shared.config import RunConfig
from shared.data.catalog import ItemCatalog
from shared.privacy.calibration import plan_of
from shared.protocol.messages import ReleaseInstruction, TrainInstruction
from simulations.engines.local_grid import InProcessGrid
from tests import running


@pytest.mark.parametrize("purpose", ["train", "query.popularity"])
def test_the_budget_is_reserved_before_any_history_is_read(
    purpose: str,
    tmp_path: Path,
    tiny_config: RunConfig,
    tiny_histories: pl.DataFrame,
    tiny_catalog: ItemCatalog,
) -> None:
    """With a ledger that opens but takes nothing more, and no histories, the ledger has to be what fails."""
    config = running.population(tmp_path, tiny_config, tiny_histories, tiny_catalog)
    folder = Path(config.data.population)
    plan = plan_of(config, num_users=len(tiny_histories), num_clients=3)
    name = open_population(folder).data_name
    Ledger(folder / "ledger.sqlite", binding=Binding(name, plan.unit, plan.relation, plan.delta)).close()
    with sqlite3.connect(folder / "ledger.sqlite") as connection:
        connection.execute("CREATE TRIGGER full BEFORE INSERT ON events BEGIN SELECT RAISE(ABORT, 'no space'); END")
    connection.close()
    shutil.rmtree(folder / "clients")
    _read_part.cache_clear()

    grid = InProcessGrid(app, num_nodes=3, run_config=config.to_flat())
    state = np.zeros(20, dtype=np.float32)
    instruction = {
        "train": TrainInstruction("digest", 1, plan, plan.l2_clip_norm, state),
        "query.popularity": ReleaseInstruction("digest", plan, "popularity", 0, np.zeros(0, dtype=np.float32)),
    }[purpose]
    node = min(grid.get_node_ids())
    message = grid.create_message(instruction.to_record(), purpose, dst_node_id=node, group_id="1")
    (reply,) = grid.send_and_receive([message])
    assert "no space" in reply.error.reason
    assert "No data was read" in reply.error.reason
