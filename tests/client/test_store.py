import json
import shutil
from pathlib import Path

import polars as pl
import pytest

from client.store import ClientStore, open_population
from shared.catalog import ItemCatalog
from shared.errors import ConfigError, DataError
from shared.splitting import HISTORIES_SCHEMA
from simulations.population import write_population

CATALOG = ItemCatalog(("a", "b", "c"), ("A", "B", "C"))
HISTORIES = pl.DataFrame(
    {
        "user": ["u", "v", "w"],
        "train": [[0], [1, 2], [2]],
        "validation": [[1], [0], []],
        "test": [[2], [], []],
    },
    schema=HISTORIES_SCHEMA,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_population(HISTORIES, CATALOG, None, tmp_path / "population").folder


def refusal(folder: Path | str, partition_id: int = 0) -> str:
    with pytest.raises(DataError, match=r"Write|No item catalog") as caught:
        ClientStore.open(folder, partition_id)
    return str(caught.value)


def change(folder: Path, **fields: object) -> None:
    path = folder / "population.json"
    description = {**json.loads(path.read_text()), **fields}
    path.write_text(json.dumps({name: value for name, value in description.items() if value is not None}))


def test_a_store_holds_its_own_rows_and_the_catalog(folder: Path) -> None:
    stores = [ClientStore.open(folder, k) for k in range(3)]
    assert pl.concat([store.histories for store in stores]).equals(HISTORIES)
    assert stores[0].histories.schema == HISTORIES_SCHEMA
    assert [store.num_users for store in stores] == [1, 1, 1]
    assert stores[0].catalog == CATALOG
    assert (stores[0].population.num_clients, stores[0].population.num_users) == (3, 3)


def test_repeated_opens_share_catalog_and_description(folder: Path) -> None:
    assert ClientStore.open(folder, 0).catalog is ClientStore.open(str(folder), 2).catalog


def test_a_replaced_population_is_read_anew(folder: Path) -> None:
    before = ClientStore.open(folder, 0)
    write_population(HISTORIES.head(2), CATALOG, None, folder, clients=1)
    after = ClientStore.open(folder, 0)
    assert (before.num_users, after.num_users) == (1, 2)
    assert before.population.digest != after.population.digest


@pytest.mark.parametrize("partition_id", [-1, 3])
def test_a_partition_out_of_range_is_refused(folder: Path, partition_id: int) -> None:
    message = f"Expected partition_id in [0, num_clients), got partition_id={partition_id}, num_clients=3."
    with pytest.raises(ConfigError) as caught:
        ClientStore.open(folder, partition_id)
    assert str(caught.value).startswith(message)


def test_a_missing_folder_is_told(tmp_path: Path) -> None:
    assert refusal(tmp_path / "none") == (
        "No population in none/: population.json is missing. Write one with `tacit data partition`."
    )


def test_a_missing_catalog_or_part_is_told(folder: Path) -> None:
    copy = folder.with_name("copy")
    shutil.copytree(folder, copy)
    (copy / "clients" / "part-00001.parquet").unlink()
    assert ClientStore.open(copy, 0).num_users == 1
    assert "part-00001.parquet is missing or unreadable. Write the population again." in refusal(copy, 1)
    (folder / "catalog.parquet").unlink()
    assert refusal(folder).startswith("No item catalog at")


def test_a_changed_byte_of_a_part_is_told(folder: Path) -> None:
    path = folder / "clients" / "part-00000.parquet"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert refusal(folder).endswith("part-00000.parquet is damaged: its checksum differs. Write the population again.")


def test_another_catalog_is_told(folder: Path) -> None:
    ItemCatalog(("a", "b", "d"), ("A", "B", "D")).save(folder / "catalog.parquet")
    assert "is not the one the population was written with" in refusal(folder)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"schema": "tacit-population-0"}, "Expected schema tacit-population-1 in"),
        ({"num_clients": None}, "population.json lacks a field."),
        ({"num_users": "many"}, "population.json lacks a field."),
        ({"parts": []}, "lists no part for partition 0."),
        ({"parts": [{"file": "x"}]}, "population.json lacks a field."),
    ],
)
def test_a_wrong_description_is_told(folder: Path, fields: dict[str, object], message: str) -> None:
    change(folder, **fields)
    assert message in refusal(folder)


@pytest.mark.parametrize("text", ["{", "[]", ""])
def test_a_description_that_is_no_json_object_is_told(folder: Path, text: str) -> None:
    (folder / "population.json").write_text(text)
    assert "population.json is damaged or unreadable. Write the population again." in refusal(folder)


def test_a_partition_without_rows_is_told(folder: Path) -> None:
    change(folder, num_clients=4)
    assert refusal(folder, 3).startswith("No users of partition 3 in part-00002.parquet.")


def test_opening_a_population_gives_its_sizes(folder: Path) -> None:
    population = open_population(folder)
    assert (population.num_clients, population.num_users, len(population.digest)) == (3, 3, 64)
