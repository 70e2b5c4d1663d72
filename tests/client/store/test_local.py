"""A node's own data give what a simulation makes of the same interactions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.ledger.accounts import account_of_user
from client.store.interactions import InteractionStore
from client.store.local import LocalData, unknown_items
from client.store.population import open_population, read_clients
from shared.config import RunConfig
from shared.data.catalog import ItemCatalog
from shared.data.interactions import Interactions
from shared.data.splitting import HISTORIES_SCHEMA
from shared.errors import ConfigError, DataError, StoreUnavailable
from simulations.population import write_population
from simulations.preparing import split_of

Row = tuple[str, str, int]
SECRET = bytes(range(64))
CATALOG = ItemCatalog(tuple("abcdef"), tuple("ABCDEF"))
START = 1_600_000_000
ME = np.zeros(1, dtype=np.int64)
COLUMNS = HISTORIES_SCHEMA.names()
SCHEMA = {"user": pl.String(), "item": pl.String(), "timestamp": pl.Int64()}
CUT_OFFS = f"{START + 4},{START + 7}"
# Times from a small range, so that ties are the rule; x and y are in no catalog.
ROWS = st.lists(
    st.tuples(st.sampled_from("uvw"), st.sampled_from([*CATALOG.ids, "x", "y"]), st.integers(START, START + 10)),
    min_size=1,
    max_size=40,
    unique=True,
)


def configuration(**values: object) -> RunConfig:
    return RunConfig.from_mapping({key.replace("__", "."): value for key, value in values.items()})


def store_of(folder: Path, rows: list[Row], *, secret: bytes | None = None) -> InteractionStore:
    store = InteractionStore(folder / "interactions.sqlite", secret=secret)
    store.create()
    if rows:
        with store.adding() as add:
            add(pl.DataFrame(rows, schema=SCHEMA, orient="row"))
    return store


def simulated(folder: Path, rows: list[Row], config: RunConfig, before: Path | None = None) -> Path:
    """The population that `tacit simulate` makes of the interactions whose items are in the catalog."""
    known = pl.DataFrame([row for row in rows if row[1] in CATALOG.ids], schema=SCHEMA, orient="row")

    class Dataset:
        interactions = Interactions.validated(known, source="rows")
        catalog = CATALOG

    table = split_of(config, Dataset(), private=False).histories  # type: ignore[arg-type]
    population = open_population(before) if before is not None else None
    return write_population(
        table, CATALOG, None, folder, clients=config.federation.clients, data_name="data", before=population
    ).folder


@pytest.mark.parametrize("split", ["leave-last-out", "global-temporal", "quantiles"])
@pytest.mark.parametrize("secret", [None, SECRET], ids=["clear", "encrypted"])
@given(rows=ROWS, data=st.data())
@settings(max_examples=12)
def test_the_rows_are_those_that_a_simulation_makes_of_the_same_interactions(
    split: str, secret: bytes | None, rows: list[Row], data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    cut_offs = CUT_OFFS if split == "global-temporal" else ""
    method = "leave-last-out" if split == "leave-last-out" else "global-temporal"
    config = configuration(data__split=method, data__cut_offs=cut_offs, federation__clients=1, run__seed=3)
    folder = tmp_path_factory.mktemp("node")
    shuffled = data.draw(st.permutations(rows))
    own = LocalData(store_of(folder, shuffled, secret=secret), CATALOG, config).rows(ME, COLUMNS)
    assert own.histories.schema == HISTORIES_SCHEMA
    try:
        expected = read_clients(simulated(folder / "population", rows, config), ME)
    except DataError:  # a simulation needs a target to measure anything; a node answers with what it has
        assert own.histories.select(pl.concat_list("validation", "test").list.len().sum()).item() == 0
        return
    assert own.histories.equals(expected.histories)
    assert own.client.tolist() == expected.client.tolist()
    assert own.counted is expected.counted is None


def test_unknown_items_are_counted_and_left_out(tmp_path: Path) -> None:
    rows = [("u", "a", 1), ("u", "x", 2), ("u", "b", 3), ("u", "x", 4), ("u", "c", 5), ("v", "y", 1)]
    store = store_of(tmp_path, rows)
    local = LocalData(store, CATALOG, configuration(federation__clients=1))
    assert local.rows(ME, COLUMNS).histories.rows() == [("u", [0], [1], [2])]
    assert unknown_items(store.contents(), CATALOG) == 3
    larger = ItemCatalog((*CATALOG.ids, "x"), (*CATALOG.texts, "X"))
    assert LocalData(store, larger, configuration(federation__clients=1)).rows(ME, ["train"]).histories.rows() == [
        ([0, 6, 1],)
    ]
    assert unknown_items(store.contents(), larger) == 1


@pytest.mark.parametrize("rows", [[], [("u", "x", 1)], [("u", "a", 1)], [("u", "a", 1), ("u", "b", 2)]])
@pytest.mark.parametrize("method", ["leave-last-out", "global-temporal"])
def test_a_node_with_little_or_nothing_answers_with_what_it_has(tmp_path: Path, rows: list[Row], method: str) -> None:
    config = configuration(data__split=method, data__cut_offs="100,200" * (method == "global-temporal"))
    found = LocalData(store_of(tmp_path, rows), CATALOG, config).rows(ME, COLUMNS)
    known = [CATALOG.row_of[item] for _, item, _ in rows if item in CATALOG.row_of]
    assert found.histories.schema == HISTORIES_SCHEMA
    assert found.histories.rows() == ([("u", known, [], [])] if known else [])
    assert len(found.client) == len(found.histories) and found.counted is None


def test_new_interactions_are_in_the_next_rows(tmp_path: Path) -> None:
    store = store_of(tmp_path, [("u", "a", 1), ("u", "b", 2), ("u", "c", 3)])
    local = LocalData(store, CATALOG, configuration())
    before = local.rows(ME, ["train", "test"]).histories.rows()
    with store.adding() as add:
        add(pl.DataFrame([("u", "d", 4)], schema=SCHEMA, orient="row"))
    assert (before, local.rows(ME, ["train", "test"]).histories.rows()) == ([([0], [2])], [([0, 1], [3])])
    store.forget("u")
    assert local.rows(ME, ["train"]).histories.is_empty()


def test_there_is_one_client_which_may_be_asked_for_again_or_not_at_all(tmp_path: Path) -> None:
    local = LocalData(store_of(tmp_path, [("u", "a", 1), ("v", "a", 1)]), CATALOG, configuration())
    assert local.rows(np.array([0, 0]), ["user"]).client.tolist() == [0, 0, 1, 1]
    assert local.rows(np.array([], dtype=np.int64), ["user"]).histories.is_empty()
    for use in (lambda: local.rows(np.array([0, 1]), ["user"]), lambda: local.account(1)):
        with pytest.raises(ConfigError, match=r"Expected partition_id=0 on a node with data of its own, got partition_id=1"):
            use()


def test_accounts_are_those_of_a_simulation(tmp_path: Path) -> None:
    rows = [("somebody", "a", START + time) for time in range(4)]
    store = store_of(tmp_path, rows)
    silo, apart = configuration(federation__clients=1), configuration(federation__clients=0)
    for config, name in ((silo, "client-0"), (apart, account_of_user("somebody"))):
        folder = simulated(tmp_path / name, rows, config)
        assert LocalData(store, CATALOG, config).account(0) == open_population(folder).account(0) == name


@pytest.mark.parametrize(("users", "found"), [([], "nobody"), (["u", "v"], "2")])
def test_a_client_that_is_one_user_needs_one(tmp_path: Path, users: list[str], found: str) -> None:
    local = LocalData(store_of(tmp_path, [(user, "a", 1) for user in users]), CATALOG, configuration(federation__clients=0))
    with pytest.raises(DataError, match=rf"^Expected interactions of one user .*found those of {found}\. Use a node"):
        local.account(0)


def test_one_user_s_quantiles_are_told_and_declared_cut_offs_are_none(tmp_path: Path) -> None:
    store = store_of(tmp_path, [])
    for config, expected in (
        (configuration(), ()),
        (configuration(data__split="global-temporal", data__cut_offs="1,2"), ()),
        (configuration(data__split="global-temporal"), ("data.split=global-temporal without data.cut_offs",)),
    ):
        assert LocalData(store, CATALOG, config).shaped_by_all == expected


def test_what_an_earlier_run_counted_is_what_a_simulation_says_of_grown_data(tmp_path: Path) -> None:
    begun = [(user, item, START + 10 * place) for user in "uv" for place, item in enumerate("abcde")]
    since = [("u", "f", START + 60), ("u", "a", START + 70), ("w", "a", START), ("w", "b", START + 1), ("w", "c", START + 2)]
    config = configuration(federation__clients=1)
    store = store_of(tmp_path, begun)
    LocalData(store, CATALOG, config).mark_counted("first")
    with store.adding() as add:
        add(pl.DataFrame(since, schema=SCHEMA, orient="row"))
    going_on = LocalData(store, CATALOG, config.with_values({"run.continues": "first"})).rows(ME, COLUMNS)
    first = simulated(tmp_path / "first", begun, config)
    expected = read_clients(simulated(tmp_path / "second", begun + since, config, before=first), ME)
    assert going_on.histories.equals(expected.histories)
    assert going_on.counted is not None and expected.counted is not None
    assert going_on.counted.tolist() == expected.counted.tolist() == [3, 3, 0]
    anew = LocalData(store, CATALOG, config)
    assert anew.rows(ME, COLUMNS).counted is None
    other = LocalData(store, CATALOG, config.with_values({"run.continues": "unheard of"}))
    assert other.rows(ME, COLUMNS).counted is None


def test_opening_checks_the_file_and_the_key(tmp_path: Path) -> None:
    path = tmp_path / "interactions.sqlite"
    with pytest.raises(StoreUnavailable, match="There is no database"):
        LocalData.open(path, CATALOG, configuration())
    store_of(tmp_path, [("u", "a", 1)], secret=SECRET)
    with pytest.raises(StoreUnavailable, match="found one encrypted"):
        LocalData.open(path, CATALOG, configuration())
    local = LocalData.open(path, CATALOG, configuration(), key=SECRET, data_name="shop-17")
    assert local.rows(ME, ["train"]).histories.rows() == [([0],)]
    assert (local.data_name, local.ledger_file) == ("shop-17", tmp_path / "ledger.sqlite")
