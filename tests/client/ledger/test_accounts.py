"""Names of accounts: a user's own follows from the user alone, whoever comes or goes."""

from __future__ import annotations

import json
import re
from itertools import permutations
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from client.batch import ClientBatch
from client.ledger.accounts import Accounts, account_of_user
from client.ledger.ledger import Ledger
from client.store.population import open_population
from shared.config import RunConfig
from shared.data.catalog import ItemCatalog
from shared.errors import ConfigError, DataError, PrivacyError
from shared.privacy.events import Event
from simulations.population import write_population
from tests.ledgers import BINDING, reserve

CATALOG = ItemCatalog(ids=("a", "b", "c"), texts=("w1", "w2", "w3"))


def _histories(users: list[str]) -> pl.DataFrame:
    kept = pl.List(pl.Int32)
    rows = {
        "user": sorted(users),
        "train": [[0, 1]] * len(users),
        "validation": [[2]] * len(users),
        "test": [[0]] * len(users),
    }
    return pl.DataFrame(rows, schema={"user": pl.String, "train": kept, "validation": kept, "test": kept})


def _owners(folder: Path) -> list[str]:
    population = open_population(folder)
    batch = ClientBatch.of_population(RunConfig(), folder, np.arange(population.num_clients))
    return [batch.account(index) for index in range(len(batch))]


def test_a_users_account_is_the_same_whoever_comes_or_goes(tmp_path: Path) -> None:
    before, after = ["bo", "di", "eve"], ["al", "bo", "cy", "eve", "zoe"]
    found = []
    for name, users in (("before", before), ("after", after)):
        write_population(_histories(users), CATALOG, None, tmp_path / name)
        found.append(dict(zip(sorted(users), _owners(tmp_path / name), strict=True)))
    assert found[0]["bo"] == found[1]["bo"] == account_of_user("bo")
    assert found[0]["eve"] == found[1]["eve"]
    assert len({*found[0].values(), *found[1].values()}) == 6
    assert all(len(name) == 21 and "bo" not in name and "eve" not in name for name in found[1].values())


def test_a_silo_is_named_by_its_number_and_one_of_an_attributes_value_by_that(tmp_path: Path) -> None:
    users = ["al", "bo", "cy", "di"]
    write_population(_histories(users), CATALOG, None, tmp_path / "silos", clients=2)
    assert _owners(tmp_path / "silos") == ["client-0", "client-1"]
    found = []
    for name, shops in (("before", ["east", "west", "east", "west"]), ("after", ["east", "north", "east", "west"])):
        attributes = pl.DataFrame({"user": users, "shop": shops})
        write_population(_histories(users), CATALOG, attributes, tmp_path / name, sizes="attribute", attribute="shop")
        found.append(_owners(tmp_path / name))
    assert found[1][0] == found[0][0]
    assert found[1][2] == found[0][1]
    assert all(re.fullmatch("value-[0-9a-f]{8}-[0-9a-f]{16}", name) for name in found[1])
    assert {name[:14] for name in found[0]} == {name[:14] for name in found[1]}


def test_the_same_value_of_another_attribute_has_another_account(tmp_path: Path) -> None:
    users = ["al", "bo"]
    found = []
    for attribute in ("shop", "town"):
        attributes = pl.DataFrame({"user": users, attribute: ["east", "west"]})
        folder = tmp_path / attribute
        write_population(_histories(users), CATALOG, attributes, folder, sizes="attribute", attribute=attribute)
        found.append(_owners(folder))
    (first, *_), (second, *_) = found
    assert first[:14] != second[:14]
    assert first[15:] != second[15:]


def test_a_run_on_silos_of_another_attribute_does_not_continue_one(tmp_path: Path) -> None:
    """Nor does one on as many silos by number."""
    users = ["al", "bo"]
    attributes = pl.DataFrame({"user": users, "shop": ["east", "west"], "town": ["east", "west"]})
    write_population(_histories(users), CATALOG, attributes, tmp_path / "p", sizes="attribute", attribute="shop")
    before = open_population(tmp_path / "p")
    for number, other in enumerate(({"attribute": "town"}, {"attribute": "shop", "clients": 2})):
        with pytest.raises(ConfigError, match="Expected the clients of the run that is continued, got another kind"):
            write_population(
                _histories(users), CATALOG, attributes, tmp_path / f"{number}", sizes="attribute", before=before, **other
            )
    write_population(
        _histories(users), CATALOG, attributes, tmp_path / "same", sizes="attribute", attribute="shop", before=before
    )
    assert _owners(tmp_path / "same") == _owners(tmp_path / "p")


@pytest.mark.parametrize("kind", ["client", "value", "value-0", "value-0123456g", "group", "user-"])
def test_accounts_that_another_version_named_are_refused(tmp_path: Path, kind: str) -> None:
    """Silos by value were once named like silos by number."""
    write_population(_histories(["al", "bo"]), CATALOG, None, tmp_path / "p")
    path = tmp_path / "p" / "population.json"
    description = json.loads(path.read_text())
    description["accounts"]["of"] = kind
    path.write_text(json.dumps(description))
    with pytest.raises(DataError, match=r"Expected accounts in population\.json as this version names them, got others\."):
        open_population(tmp_path / "p")


def test_two_users_of_one_account_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("client.ledger.accounts.keyed_hash", lambda ids, **_: np.zeros(len(ids), dtype=np.uint64))
    with pytest.raises(DataError, match="Expected users with distinct accounts in the ledger, found two alike"):
        write_population(_histories(["al", "bo"]), CATALOG, None, tmp_path / "p")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"x" * 16, None])
def test_damaged_accounts_are_refused(tmp_path: Path, content: bytes | None) -> None:
    """Another account would be charged."""
    write_population(_histories(["al", "bo"]), CATALOG, None, tmp_path / "p")
    path = tmp_path / "p" / "accounts.bin"
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(DataError, match=r"accounts\.bin is (damaged|missing)"):
        open_population(tmp_path / "p")


def test_the_description_holds_no_account(tmp_path: Path) -> None:
    write_population(_histories(["al", "bo"]), CATALOG, None, tmp_path / "p")
    description = json.loads((tmp_path / "p" / "population.json").read_text())
    assert description["accounts"]["of"] == "user"
    assert account_of_user("al").removeprefix("user-") not in json.dumps(description)


SHOPS, TOWNS = (Accounts.of_values(name, pl.Series(["east", "west"])) for name in ("shop", "town"))


@pytest.mark.parametrize(
    ("first", "second"), list(permutations(["client-3", account_of_user("al"), SHOPS.name(0), TOWNS.name(0)], 2))
)
def test_a_ledger_of_one_kind_takes_no_accounts_of_another(tmp_path: Path, first: str, second: str) -> None:
    """What a user spent in a silo is not in another kind of account, which would begin empty."""
    ledger = Ledger(tmp_path / "ledger.sqlite", binding=BINDING)
    reserve(ledger, Event(3.0), owner=first)
    with pytest.raises(PrivacyError, match="Expected a ledger whose accounts are of the same kind, of users, of silos by"):
        reserve(ledger, Event(3.0), owner=second)
    reserve(ledger, Event(3.0), owner=first)
    assert ledger.owners() == [first]


def test_a_ledger_takes_all_values_of_an_attribute_and_their_groups(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.sqlite", binding=BINDING)
    reserve(ledger, Event(3.0), owner=SHOPS.name(0))
    reserve(ledger, Event(3.0), owner=f"{SHOPS.name(1)}/group-0-of-2")
    assert ledger.kinds() == {SHOPS.kind}
