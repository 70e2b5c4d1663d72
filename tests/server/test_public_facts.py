"""What a server reads of a population folder: public constants, the catalog, and for how many nodes to wait."""

from __future__ import annotations

import shutil
from pathlib import Path

import polars as pl
import pytest

from server.public_facts import public_facts
from shared.data.catalog import ItemCatalog
from shared.data.splitting import HISTORIES_SCHEMA
from shared.errors import DataError
from shared.privacy.population import PublicSize
from simulations.population import write_population

CATALOG = ItemCatalog(("a", "b"), ("A", "B"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    histories = pl.DataFrame(
        {"user": ["u", "v", "w"], "train": [[0], [1], [0, 1]], "validation": [[]] * 3, "test": [[]] * 3},
        schema=HISTORIES_SCHEMA,
    )
    return write_population(histories, CATALOG, None, tmp_path / "population").folder


def test_a_server_needs_no_file_of_a_client(folder: Path) -> None:
    shutil.rmtree(folder / "clients")
    (folder / "accounts.bin").unlink()
    facts, num_nodes = public_facts(folder)
    assert (facts.size, facts.catalog, num_nodes) == (PublicSize(3, 3), CATALOG, 3)


@pytest.mark.parametrize("content", [None, "{", "{}", '{"population": "many", "clients": 1, "num_clients": 1}'])
def test_a_folder_that_is_no_population_is_told(folder: Path, content: str | None) -> None:
    path = folder / "population.json"
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(DataError, match=r"^Expected a population in population/, could not read population\.json \(\w+\)\."):
        public_facts(folder)
