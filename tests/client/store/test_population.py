import json
import shutil
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.store.population import DATA_NAME, open_population, read_clients
from shared.data.catalog import ItemCatalog
from shared.data.splitting import HISTORIES_SCHEMA
from shared.errors import ConfigError, DataError
from shared.privacy.population import PublicSize
from simulations import population
from simulations.benchmarks.population_read import in_own_process, random_histories
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
        read_clients(folder, [partition_id])
    return str(caught.value)


def change(folder: Path, **fields: object) -> None:
    path = folder / "population.json"
    description = {**json.loads(path.read_text()), **fields}
    path.write_text(json.dumps({name: value for name, value in description.items() if value is not None}))


def test_a_client_gets_its_own_rows(folder: Path) -> None:
    each = [read_clients(folder, [k]).histories for k in range(3)]
    assert pl.concat(each).equals(HISTORIES)
    assert each[0].schema == HISTORIES_SCHEMA
    assert [histories.height for histories in each] == [1, 1, 1]


def test_repeated_opens_share_catalog_and_description(folder: Path) -> None:
    assert open_population(folder) is open_population(str(folder))


def test_a_replaced_population_is_read_anew(folder: Path) -> None:
    before = open_population(folder), read_clients(folder, [0]).histories.height
    shutil.rmtree(folder)
    write_population(HISTORIES.head(2), CATALOG, None, folder, clients=1)
    after = open_population(folder), read_clients(folder, [0]).histories.height
    assert (before[1], after[1]) == (1, 2)
    assert before[0].parts != after[0].parts


@pytest.mark.parametrize("partition_id", [-1, 3])
def test_a_partition_out_of_range_is_refused(folder: Path, partition_id: int) -> None:
    message = f"Expected partition_id in [0, num_clients), got partition_id={partition_id}, num_clients=3."
    for partitions in ([partition_id], [0, partition_id, 1]):
        with pytest.raises(ConfigError) as caught:
            read_clients(folder, partitions)
        assert str(caught.value).startswith(message)


def test_a_missing_folder_is_told(tmp_path: Path) -> None:
    assert refusal(tmp_path / "none") == (
        "No population in none/: population.json is missing. Write one with `tacit data partition`."
    )


def test_a_missing_catalog_or_part_is_told(folder: Path) -> None:
    copy = folder.with_name("copy")
    shutil.copytree(folder, copy)
    (copy / "clients" / "part-00001.bin").unlink()
    assert read_clients(copy, [0]).histories.height == 1
    assert "part-00001.bin is missing or unreadable. Write the population again." in refusal(copy, 1)
    (folder / "catalog.parquet").unlink()
    assert refusal(folder).startswith("No item catalog at")


DAMAGED = "part-00000.bin is damaged: its checksum differs. Write the population again."


def test_a_changed_bit_anywhere_in_a_part_is_told(folder: Path) -> None:
    path = folder / "clients" / "part-00000.bin"
    whole = path.read_bytes()
    for position in range(len(whole)):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << position % 8
        path.write_bytes(damaged)
        assert refusal(folder) == DAMAGED
    path.write_bytes(whole)
    assert read_clients(folder, [0]).histories.equals(HISTORIES.head(1))


def test_a_part_cut_off_anywhere_or_grown_is_told(folder: Path) -> None:
    path = folder / "clients" / "part-00000.bin"
    whole = path.read_bytes()
    for wrong in (*(whole[:length] for length in range(len(whole))), whole + b"\0", whole + whole):
        path.write_bytes(wrong)
        assert refusal(folder) == DAMAGED


def test_a_cohort_is_refused_for_one_damaged_part_and_read_without_it(folder: Path) -> None:
    path = folder / "clients" / "part-00001.bin"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match=r"^part-00001.bin is damaged: its checksum differs. Write the population again.$"):
        read_clients(folder, [0, 1, 2])
    assert read_clients(folder, [2, 0]).histories.equals(HISTORIES[[2, 0]])


def test_a_part_is_verified_once_a_process(folder: Path) -> None:
    """Only what is already mapped can be read after the files are gone."""
    read_clients(folder, [0, 1])
    shutil.rmtree(folder / "clients")
    assert read_clients(folder, [1, 0]).histories.equals(HISTORIES[[1, 0]])
    assert "part-00002.bin is missing or unreadable." in refusal(folder, 2)


def test_another_catalog_is_told(folder: Path) -> None:
    ItemCatalog(("a", "b", "d"), ("A", "B", "D")).save(folder / "catalog.parquet")
    assert "is not the one the population was written with" in refusal(folder)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"schema": "tacit-population-1"},
            "Expected schema tacit-population-4 in population.json, got schema='tacit-population-1'. "
            "Write the population again with this version.",
        ),
        ({"num_clients": None}, "population.json lacks a field."),
        ({"population": None}, "population.json lacks a field."),
        ({"clients": "few"}, "population.json lacks a field."),
        ({"shaped_by_all": None}, "population.json lacks a field."),
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


def test_a_client_may_hold_no_user(folder: Path) -> None:
    change(folder, num_clients=4)
    assert read_clients(folder, [3]).histories.equals(HISTORIES.clear())
    rows = read_clients(folder, [2, 3, 0])
    assert rows.histories["user"].to_list() == ["w", "u"] and rows.client.tolist() == [0, 2]
    assert read_clients(folder, [3], ["train"]).histories.schema == {"train": HISTORIES_SCHEMA["train"]}


def test_opening_a_population_gives_its_sizes(folder: Path) -> None:
    population = open_population(folder)
    assert (population.num_clients, population.num_users, population.data_name) == (3, 3, DATA_NAME)
    assert (population.size, population.shaped_by_all) == (PublicSize(3, 3), ())
    assert population.catalog == CATALOG


history = st.lists(st.integers(0, 2**31 - 1), max_size=6)


@settings(max_examples=60)
@given(data=st.data(), sizes=st.lists(st.integers(1, 5), min_size=1, max_size=12))
def test_a_cohort_is_the_rows_of_its_clients_in_the_order_asked_for(data: st.DataObject, sizes: list[int]) -> None:
    """Against filtering a plain table, whether clients have their own parts or share them, however many users in one."""
    users = data.draw(st.lists(st.text(max_size=20), min_size=sum(sizes), max_size=sum(sizes), unique=True))
    home = np.repeat(np.arange(len(sizes)), sizes)
    rows = [(user, data.draw(history), data.draw(history), data.draw(history)) for user in users]
    table = pl.DataFrame(rows, schema=HISTORIES_SCHEMA, orient="row")
    homes = pl.DataFrame({"user": users, "home": [f"{client:02d}" for client in home]})
    partitions = data.draw(st.lists(st.integers(0, len(sizes) - 1), max_size=20))
    columns = data.draw(st.lists(st.sampled_from(HISTORIES_SCHEMA.names()), unique=True, min_size=1))
    with tempfile.TemporaryDirectory() as parent, pytest.MonkeyPatch.context() as patch:
        patch.setattr(population, "OWN_FILE_CLIENTS", data.draw(st.sampled_from([0, 128])))
        patch.setattr(population, "USERS_PER_PART", data.draw(st.integers(1, 20)))
        write_population(table, CATALOG, homes, Path(parent, "p"), sizes="attribute", attribute="home")
        rows_read = read_clients(Path(parent, "p"), partitions)
        some = read_clients(Path(parent, "p"), np.array(partitions, dtype=np.int64), columns)
        alone = [read_clients(Path(parent, "p"), [client]).histories for client in partitions]
    expected = [sorted(row for row, of in zip(rows, home, strict=True) if of == client) for client in partitions]
    assert rows_read.histories.schema == HISTORIES_SCHEMA
    assert rows_read.histories.rows() == [row for of_client in expected for row in of_client]
    assert rows_read.client.dtype == np.int64
    assert rows_read.client.tolist() == [position for position, of_client in enumerate(expected) for _ in of_client]
    assert some.histories.equals(rows_read.histories.select(columns))
    assert some.client.tolist() == rows_read.client.tolist()
    assert [store.rows() for store in alone] == expected


def test_two_processes_read_one_population_and_each_sees_it_replaced(folder: Path) -> None:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as other:
        here, there = read_clients(folder, [2, 0]), other.submit(read_clients, folder, [2, 0]).result(timeout=300)
        assert here.histories.equals(there.histories) and here.histories.equals(HISTORIES[[2, 0]])
        shutil.rmtree(folder)
        write_population(HISTORIES[:2], CATALOG, None, folder)
        after = other.submit(read_clients, folder, [1, 0]).result(timeout=300)
        assert after.histories.equals(HISTORIES[[1, 0]]) and after.client.tolist() == [0, 1]
        with pytest.raises(ConfigError, match=r"got partition_id=2, num_clients=2."):
            other.submit(read_clients, folder, [2, 0]).result(timeout=300)
    assert here.histories.equals(HISTORIES[[2, 0]])


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/status")
def test_what_a_process_keeps_grows_with_the_cohort_and_not_with_the_population(tmp_path: Path) -> None:
    """Parts of 37 MB; a hundred cohorts of a hundred clients leave some 3 MiB, allocators included, however many users."""
    catalog = ItemCatalog(tuple(f"i{row}" for row in range(2000)), ("text",) * 2000)
    write_population(random_histories(300_000), catalog, None, tmp_path / "p")
    assert sum(path.stat().st_size for path in (tmp_path / "p" / "clients").iterdir()) > 35_000_000
    _, kept = in_own_process(tmp_path / "p", 100)
    assert kept < 12
