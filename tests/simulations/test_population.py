import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.store.population import open_population, read_clients
from shared.data.catalog import ItemCatalog
from shared.data.splitting import HISTORIES_SCHEMA
from shared.errors import ConfigError, DataError
from simulations import population
from simulations.assignment import dominant_tastes, item_tastes
from simulations.population import PopulationSummary, write_population

NUM_ITEMS = 40
WORDS = ("western", "opera", "manual", "poem")
CATALOG = ItemCatalog(
    tuple(f"i{row}" for row in range(NUM_ITEMS)),
    tuple(f"text {row} {WORDS[row * 4 // NUM_ITEMS]}" for row in range(NUM_ITEMS)),
)


def histories(num_users: int, *, groups: int = 1) -> pl.DataFrame:
    """Users of group g interact with the g-th part of the catalog only."""
    rng = np.random.default_rng(0)
    part = NUM_ITEMS // groups
    rows = [
        {
            "user": f"u{user:05d}",
            "train": (user % groups * part + rng.permutation(part)[: 4 + user % 3]).tolist(),
            "validation": [user % NUM_ITEMS] if user % 5 else [],
            "test": [0],
        }
        for user in range(num_users)
    ]
    return pl.DataFrame(rows, schema=HISTORIES_SCHEMA)


def attributes(num_users: int, values: list[str]) -> pl.DataFrame:
    users = [f"u{user:05d}" for user in range(num_users)]
    return pl.DataFrame({"user": users[::-1], "region": [values[u % len(values)] for u in range(num_users)][::-1]})


def stored(summary: PopulationSummary) -> list[pl.DataFrame]:
    return [read_clients(summary.folder, [k]).histories for k in range(summary.num_clients)]


def assert_partition(summary: PopulationSummary, table: pl.DataFrame) -> None:
    """Every user in exactly one client, with the history unchanged."""
    parts = stored(summary)
    assert [part.height for part in parts] == summary.users_per_client.tolist()
    assert pl.concat(parts).sort("user").equals(table)


@pytest.mark.parametrize(
    "options",
    [
        {"clients": 0},
        {"clients": 1},
        {"clients": 7},
        {"clients": 90},
        {"clients": 7, "sizes": "power-law"},
        {"clients": 90, "sizes": "power-law"},
        {"clients": 7, "dirichlet_alpha": 0.05},
        {"clients": 45, "sizes": "power-law", "dirichlet_alpha": 0.5},
        {"clients": 0, "sizes": "attribute", "attribute": "region"},
        {"clients": 2, "sizes": "attribute", "attribute": "region"},
        {"clients": 20, "sizes": "attribute", "attribute": "region"},
    ],
)
def test_every_user_is_in_exactly_one_client(tmp_path: Path, options: dict[str, object]) -> None:
    table = histories(90, groups=4)
    users = attributes(90, ["north", "south", "south", "east"])
    summary = write_population(table, CATALOG, users, tmp_path / "p", seed=3, **options)  # type: ignore[arg-type]
    assert_partition(summary, table)
    assert summary.num_clients == options["clients"] or options["clients"] == 0


def test_one_user_a_client_is_one_row_each_also_when_parts_hold_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(population, "USERS_PER_PART", 1024)
    table = histories(2500)
    summary = write_population(table, CATALOG, None, tmp_path / "p")
    assert summary.num_clients == summary.num_users == 2500
    assert len(list((tmp_path / "p" / "clients").iterdir())) == 3
    for k in (0, 1023, 1024, 2047, 2048, 2499):
        assert read_clients(tmp_path / "p", [k]).histories.equals(table.slice(k, 1))


def test_each_of_a_few_silos_has_its_own_part_and_many_share_one(tmp_path: Path) -> None:
    for clients, parts in ((1, 1), (7, 7), (128, 128), (129, 1)):
        folder = tmp_path / str(clients)
        write_population(histories(150), CATALOG, None, folder, clients=clients)
        assert len(list((folder / "clients").iterdir())) == parts


@pytest.mark.parametrize(
    ("sizes", "shares"), [("equal", np.full(8, 1 / 8)), ("power-law", np.array([1 / rank for rank in range(8, 0, -1)]))]
)
def test_sizes_are_those_of_independent_draws_and_follow_the_seed(tmp_path: Path, sizes: Any, shares: np.ndarray) -> None:
    """Null: each user's client is a draw from the shares. n = 4,000; false-alarm rate below 1e-6; a tenth off is seen."""
    table = histories(4000)
    first, again, other = (
        write_population(table, CATALOG, None, tmp_path / str(n), clients=8, sizes=sizes, seed=seed)
        for n, seed in enumerate((1, 1, 2))
    )
    expected = 4000 * shares / shares.sum()

    def is_expected(counts: np.ndarray) -> bool:
        return float(((np.sort(counts) - expected) ** 2 / expected).sum()) < 45.0

    assert is_expected(first.users_per_client) and is_expected(other.users_per_client)
    assert not is_expected(expected * np.linspace(0.8, 1.2, 8))
    parts = [[file.read_bytes() for file in sorted((made.folder / "clients").iterdir())] for made in (first, again, other)]
    assert parts[0] == parts[1] != parts[2]


def test_clients_by_attribute_hold_one_value_each_when_there_are_enough(tmp_path: Path) -> None:
    table = histories(90)
    users = attributes(90, ["north", "south", "south", "east"])
    region = dict(users.iter_rows())
    for clients in (0, 3, 11):
        summary = write_population(
            table, CATALOG, users, tmp_path / str(clients), clients=clients, sizes="attribute", attribute="region"
        )
        assert summary.num_clients == (clients or 3)
        assert all(len({region[user] for user in part["user"]}) == 1 for part in stored(summary))
        assert max(summary.users_per_client) <= {0: 45, 3: 45, 11: 22}[clients]


def test_fewer_clients_than_values_keep_each_value_together(tmp_path: Path) -> None:
    users = attributes(90, ["a", "b", "c", "d", "d"])
    region = dict(users.iter_rows())
    summary = write_population(
        histories(90), CATALOG, users, tmp_path / "p", clients=2, sizes="attribute", attribute="region"
    )
    homes = [{region[user] for user in part["user"]} for part in stored(summary)]
    assert homes[0] | homes[1] == set("abcd") and not homes[0] & homes[1]
    assert sorted(summary.users_per_client) == [36, 54]  # a with c, b with d


def test_users_without_a_value_share_a_client(tmp_path: Path) -> None:
    users = attributes(90, ["a", "b"]).head(60)
    summary = write_population(histories(90), CATALOG, users, tmp_path / "p", sizes="attribute", attribute="region")
    assert sorted(summary.users_per_client) == [30, 30, 30]


def label_share(summary: PopulationSummary) -> float:
    """Mean over users of the share of the user's own group in the user's client."""
    total = 0.0
    for part in stored(summary):
        group = np.array([int(user[1:]) % 4 for user in part["user"]])
        total += sum(np.bincount(group, minlength=4) ** 2) / len(group)
    return total / summary.num_users


def test_small_dirichlet_alpha_gathers_users_of_one_taste(tmp_path: Path) -> None:
    table = histories(400, groups=4)
    even, weak, strong = (
        label_share(write_population(table, CATALOG, None, tmp_path / str(alpha), clients=8, dirichlet_alpha=alpha, seed=5))
        for alpha in (0.0, 1000.0, 0.05)
    )
    assert even < 0.35 and weak < 0.35 and strong > 0.6


def test_tastes_are_the_same_every_time_where_two_kinds_of_text_weigh_the_same() -> None:
    """Singular values are equal then, and an iterative solver begins anew by chance: one time in eight it found nothing."""
    catalog = ItemCatalog(tuple("abcdef"), ("red", "red", "red", "blue", "blue", "blue"))
    found = {tuple(item_tastes(catalog, seed=0).tolist()) for _ in range(50)}
    (tastes,) = found
    assert tastes[:3] == 3 * (tastes[0],) and tastes[3:] == 3 * (tastes[3],) and tastes[0] != tastes[3]


def test_dominant_tastes_find_groups_whose_items_share_no_word() -> None:
    table = histories(200, groups=4)
    labels = dominant_tastes(table["train"], item_tastes(CATALOG, seed=0))
    for first in range(4):
        own = set(labels[first::4].tolist())
        others = {label for group in range(4) if group != first for label in labels[group::4].tolist()}
        assert not own & others


OF_ONE_USER = (
    {"clients": 5},
    {"clients": 5, "sizes": "power-law"},
    {"clients": 5, "dirichlet_alpha": 0.2},
    {"clients": 2, "sizes": "attribute", "attribute": "region"},
    {"clients": 11, "sizes": "attribute", "attribute": "region"},
)


@settings(max_examples=10)
@given(left_out=st.integers(0, 59), seed=st.integers(0, 99))
@pytest.mark.parametrize("options", OF_ONE_USER)
def test_guarantee_no_user_moves_another_to_another_client(left_out: int, seed: int, options: dict[str, Any]) -> None:
    table, users = histories(60, groups=4), attributes(60, ["north", "south", "south", "east"])
    changed = table.with_columns(
        pl.Series("train", [[0] if row == left_out else own for row, own in enumerate(table["train"].to_list())])
    )
    homes = []
    for other in (table, table.filter(pl.Series(np.arange(60) != left_out)), changed.cast(dict(table.schema))):
        with tempfile.TemporaryDirectory() as parent:
            summary = write_population(other, CATALOG, users, Path(parent, "p"), seed=seed, **options)
            assert summary.num_clients == options["clients"]
            homes.append({user: k for k, part in enumerate(stored(summary)) for user in part["user"]})
    name = f"u{left_out:05d}"
    for home in homes:
        home.pop(name, None)
    assert homes[0] == homes[1] == homes[2]


def test_a_silo_may_be_empty_and_stays(tmp_path: Path) -> None:
    summary = write_population(histories(9), CATALOG, None, tmp_path / "p", clients=9)
    assert summary.num_clients == 9 and min(summary.users_per_client) == 0
    many = write_population(histories(200), CATALOG, None, tmp_path / "many", clients=200)
    assert_partition(many, histories(200))
    assert min(many.users_per_client) == 0


def test_two_populations_that_differ_by_one_user_have_equal_public_constants(tmp_path: Path) -> None:
    for clients, public in ((0, [110, 110]), (4, [110, 4])):
        for users in (110, 111):
            folder = tmp_path / f"{clients}-{users}"
            write_population(histories(users), CATALOG, None, folder, clients=clients)
            description = json.loads((folder / "population.json").read_text())
            assert [description["population"], description["clients"]] == public
    write_population(histories(110), CATALOG, None, tmp_path / "p", declared=150)
    description = json.loads((tmp_path / "p" / "population.json").read_text())
    assert [description[name] for name in ("population", "clients", "num_users", "num_clients")] == [150, 150, 110, 110]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"clients": 91},
            "Expected clients <= number of users, got clients=91, users=90. Use at most 90, or 0",
        ),
        ({"clients": -1}, "Expected clients >= 0, got clients=-1."),
        ({"sizes": "big"}, "Expected sizes in {equal, power-law, attribute}, got sizes='big'."),
        (
            {"sizes": "attribute"},
            "Expected attribute to name a column with sizes='attribute', got attribute=''.",
        ),
        (
            {"sizes": "attribute", "attribute": "age"},
            "Expected federation.attribute to be one of: region, got federation.attribute='age'.",
        ),
        (
            {"clients": 3, "dirichlet_alpha": -1.0},
            "Expected dirichlet_alpha >= 0 and finite, got dirichlet_alpha=-1.0.",
        ),
        ({"clients": 3, "dirichlet_alpha": float("nan")}, "Expected dirichlet_alpha >= 0 and finite"),
        ({"dirichlet_alpha": 1.0}, "Expected silos of equal or power-law sizes with dirichlet_alpha > 0"),
    ],
)
def test_wrong_settings_are_refused_and_nothing_is_written(tmp_path: Path, options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        write_population(histories(90), CATALOG, attributes(90, ["a"]), tmp_path / "p", **options)  # type: ignore[arg-type]
    assert str(caught.value).startswith(message)
    assert list(tmp_path.iterdir()) == []


def test_an_empty_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="Expected at least one user to make clients of, found 0"):
        write_population(histories(3).clear(), CATALOG, None, tmp_path / "p")


def test_a_population_replaces_nothing_that_is_there(tmp_path: Path) -> None:
    """Clients may be at work on a population, and its ledger counts what they spent."""
    folder = tmp_path / "p"
    write_population(histories(9), CATALOG, None, folder)
    (folder / "ledger.sqlite").write_text("spent")
    with pytest.raises(ConfigError, match="Expected an empty or new folder for the population, got"):
        write_population(histories(12), CATALOG, None, folder, clients=2)
    assert read_clients(folder, [8]).histories.height == 1
    assert (folder / "ledger.sqlite").read_text() == "spent"
    assert [path.name for path in tmp_path.iterdir()] == ["p"]


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    broken = histories(9).with_columns(pl.lit("x").alias("train"))
    with pytest.raises(pl.exceptions.PolarsError, match="list"):
        write_population(broken, CATALOG, None, tmp_path / "p")
    assert list(tmp_path.iterdir()) == []


def test_the_description_is_json_with_the_numbers_that_servers_need(tmp_path: Path) -> None:
    write_population(histories(9), CATALOG, None, tmp_path / "p", clients=2, data_name="movies")
    description = json.loads((tmp_path / "p" / "population.json").read_text())
    assert description["schema"] == "tacit-population-4"
    assert (description["num_clients"], description["num_users"]) == (2, 9)
    assert description["catalog_digest"] == CATALOG.digest
    assert description["data_name"] == open_population(tmp_path / "p").data_name == "movies"
    assert "digest" not in description  # of the histories: it would tell neighboring data sets apart
    assert ItemCatalog.load(tmp_path / "p" / "catalog.parquet") == CATALOG
