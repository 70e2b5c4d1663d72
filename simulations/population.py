"""Interactions -> simulated clients, written as a folder that real clients open by partition id.

Here lives the writing of the folder whose layout `client/store/population.py` describes; which user belongs to which client
is decided in `assignment.py`. Here never live training or sampling: once written, a population is data, and the same client
code reads it under `tacit simulate`, `flwr run .` and on Ray.

Two kinds of federation. **One user a client**: partition k is the k-th user. **Silos**: every client
holds several users, in equal or power-law numbers, or those who share an attribute; label skew is added
by a Dirichlet draw, after which silos differ in what their users like.

Every user belongs to exactly one client, so that (user, silo) is (user), the unit of the privacy claim.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import methodcaller
from pathlib import Path
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from client.ledger.accounts import Accounts
from client.store.population import (
    ACCOUNTS_FILE,
    CATALOG_FILE,
    CLIENTS_FOLDER,
    DATA_NAME,
    POPULATION_FILE,
    POPULATION_SCHEMA,
    Population,
)
from shared.data.catalog import ItemCatalog
from shared.data.splitting import HISTORIES_SCHEMA, HISTORY_COLUMNS
from shared.errors import ConfigError, DataError
from shared.files import write_atomically, write_json
from shared.folder_claim import claimed, contents, publish
from shared.privacy.population import PublicSize
from simulations.assignment import by_attribute, by_taste, in_shares, values_of_silos
from simulations.growing import continued

Ints = npt.NDArray[np.int64]
Sizes = Literal["equal", "power-law", "attribute"]

SIZES: Final = ("equal", "power-law", "attribute")
PARTITION_COLUMN: Final = "partition"
COUNTED_COLUMN: Final = "counted"
OWN_FILE_CLIENTS: Final = 128
USERS_PER_PART: Final = 65_536


@dataclass(frozen=True)
class PopulationSummary:
    """What was written.

    Attributes:
        folder: Where.
        num_clients: Number of partitions.
        num_users: Users in all of them.
        users_per_client: Shape (num_clients,), int64. (private in a real federation)
    """

    folder: Path
    num_clients: int
    num_users: int
    users_per_client: Ints


def write_population(
    histories: pl.DataFrame,
    catalog: ItemCatalog,
    user_attributes: pl.DataFrame | None,
    folder: str | Path,
    *,
    clients: int = 0,
    sizes: Sizes = "equal",
    attribute: str = "",
    dirichlet_alpha: float = 0.0,
    seed: int = 0,
    declared: int = 0,
    shaped_by_all: Sequence[str] = (),
    data_name: str = DATA_NAME,
    before: Population | None = None,
) -> PopulationSummary:
    """Assigns users to clients and writes the population folder, whole or not at all.

    Args:
        histories: A HISTORIES TABLE. (private)
        catalog: The items its rows mean. (public)
        user_attributes: Column `user` and attributes; needed for sizes="attribute". (private)
        folder: Where to write: a new or empty folder. Nothing that is there is ever replaced.
        clients: Number of silos, at most the number of users; 0 means one user a client (and with
            sizes="attribute" one client a value).
        sizes: `equal` or `power-law` (proportional to 1/rank), both in expectation; `attribute`: clients hold users of one
            attribute value, or of several where there are fewer clients than values.
        attribute: Name of the column for sizes="attribute".
        dirichlet_alpha: 0 for no skew. Otherwise label skew: a user's label is the taste of most of the user's training
            items, and each label's users are spread over clients by a Dirichlet draw. Small alpha, strong skew.
        seed: Makes the assignment. Any integer >= 0.
        declared: Users, as a public constant; 0 takes their number rounded. (public)
        shaped_by_all: Settings by which one user's data decided what another's training histories are. (public)
        data_name: What the owner calls the data: ledgers are bound to it, and later data of the same users keep it.
        before: The population of the run that a run on this one continues. Its users stay the clients, or in the silos, that
            they were, whatever the settings say, so that what they spent is in their accounts; and what their training
            histories held then is noted as counted. (private)

    Returns:
        The summary.

    Raises:
        ConfigError: If there are more clients than users, a setting is unknown or contradicts another,
            or the folder holds something, or another process writes in it.
        DataError: If the table holds no user, or does not go on from the population before.
    """
    if histories.is_empty():
        raise DataError("Expected at least one user to make clients of, found 0.")
    _check_settings(histories.height, clients, sizes, attribute, dirichlet_alpha)
    users = histories["user"]
    if sizes == "attribute":
        assignment = by_attribute(users, user_attributes, attribute, clients=clients, seed=seed)
        num_clients = clients or int(assignment.max()) + 1
    elif clients == 0:
        assignment, num_clients = np.arange(histories.height), histories.height
    else:
        num_clients = clients
        if dirichlet_alpha > 0:
            assignment = by_taste(
                users, histories["train"], catalog, clients=clients, sizes=sizes, alpha=dirichlet_alpha, seed=seed
            )
        else:
            assignment = in_shares(users, clients=clients, sizes=sizes, seed=seed)
    apart = clients == 0 and sizes != "attribute"
    size = PublicSize.of(histories.height, histories.height if apart else num_clients, declared=declared)
    declared_facts = {
        "population": size.users,
        "clients": size.clients,
        "shaped_by_all": list(shaped_by_all),
        "data_name": data_name,
    }
    accounts = Accounts("client")
    if apart:
        accounts = Accounts.of_users(users)
    elif clients == 0:
        accounts = Accounts.of_values(attribute, values_of_silos(users, user_attributes, attribute))
    counted = np.zeros(histories.height, dtype=np.int64)
    if before is not None:
        homes, counted = continued(histories, catalog, before, accounts, num_clients=num_clients)
        assignment = np.where(homes >= 0, homes, assignment)
    users_per_client = np.bincount(assignment, minlength=num_clients)
    with claimed(Path(folder), _refuse_used):
        table = histories.with_columns(pl.Series(COUNTED_COLUMN, counted))
        return _write(table, catalog, assignment, users_per_client, accounts, declared_facts, Path(folder))


def _check_settings(num_users: int, clients: int, sizes: str, attribute: str, dirichlet_alpha: float) -> None:
    """Refuses settings that are out of range or contradict one another."""
    if sizes not in SIZES:
        raise ConfigError(f"Expected sizes in {{{', '.join(SIZES)}}}, got sizes={sizes!r}. Choose one.")
    if clients < 0:
        raise ConfigError(f"Expected clients >= 0, got clients={clients}. Use 0 for one user a client.")
    if clients > num_users:
        raise ConfigError(
            f"Expected clients <= number of users, got clients={clients}, users={num_users}. "
            f"Use at most {num_users}, or 0 for one user a client."
        )
    if not 0 <= dirichlet_alpha < float("inf"):
        raise ConfigError(
            f"Expected dirichlet_alpha >= 0 and finite, got dirichlet_alpha={dirichlet_alpha}. Use 0 for no skew."
        )
    if sizes == "attribute" and not attribute:
        raise ConfigError("Expected attribute to name a column with sizes='attribute', got attribute=''.")
    if dirichlet_alpha > 0 and (sizes == "attribute" or clients == 0):
        raise ConfigError(
            f"Expected silos of equal or power-law sizes with dirichlet_alpha > 0, got sizes={sizes!r}, "
            f"clients={clients}. Use dirichlet_alpha=0, or give a number of clients."
        )


def _write(
    histories: pl.DataFrame,
    catalog: ItemCatalog,
    assignment: Ints,
    users_per_client: Ints,
    accounts: Accounts,
    declared_facts: Mapping[str, object],
    folder: Path,
) -> PopulationSummary:
    """Writes everything into a temporary folder beside the target, then renames it."""
    table = histories.select(
        pl.Series(PARTITION_COLUMN, assignment, dtype=pl.Int32), *HISTORIES_SCHEMA.names(), COUNTED_COLUMN
    ).sort(PARTITION_COLUMN, "user")
    folder = folder.absolute()
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        (temporary / CLIENTS_FOLDER).mkdir()
        parts = _write_parts(table, users_per_client, temporary / CLIENTS_FOLDER)
        catalog.save(temporary / CATALOG_FILE)
        named = accounts.to_bytes()
        if named:
            write_atomically(temporary / ACCOUNTS_FILE, methodcaller("write", named))
        description: dict[str, object] = {
            "schema": POPULATION_SCHEMA,
            **declared_facts,
            "num_clients": len(users_per_client),
            "num_users": table.height,
            "catalog_digest": catalog.digest,
            "accounts": {"of": accounts.kind, "sha256": hashlib.sha256(named).hexdigest() if named else None},
            "parts": parts,
        }
        write_json(temporary / POPULATION_FILE, description)
        temporary.chmod(0o755)
        publish(temporary, folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return PopulationSummary(folder, len(users_per_client), table.height, users_per_client)


def _write_parts(table: pl.DataFrame, users_per_client: Ints, folder: Path) -> list[Mapping[str, object]]:
    """Writes the parts; a part holds whole partitions."""
    ends = np.cumsum(users_per_client)
    starts = ends - users_per_client
    clients = len(users_per_client)
    part_of = np.arange(clients) if clients <= OWN_FILE_CLIENTS else starts // USERS_PER_PART
    firsts = np.flatnonzero(np.diff(part_of, prepend=-1))
    parts: list[Mapping[str, object]] = []
    for number, (first, after) in enumerate(zip(firsts, [*firsts[1:], clients], strict=True)):
        data = _encoded(table.slice(int(starts[first]), int(ends[after - 1] - starts[first])))
        name = f"part-{number:05d}.bin"
        write_atomically(folder / name, methodcaller("write", data))
        checksum = hashlib.sha256(data).hexdigest()
        parts.append({"file": name, "sha256": checksum, "first_partition": int(first)})
    return parts


def _encoded(table: pl.DataFrame) -> bytes:
    """The flat arrays that `client/store/population.py` describes."""
    text = "".join(table["user"].to_list()).encode("utf-32-le")
    lengths = [table["user"].str.len_chars(), *(table[name].list.len() for name in HISTORY_COLUMNS)]
    items = [table[name].explode(empty_as_null=False).to_numpy().astype("<i4") for name in HISTORY_COLUMNS]
    bounds = np.cumsum(np.concatenate([[0], *lengths]))
    head = np.concatenate([[table.height], table[PARTITION_COLUMN], table[COUNTED_COLUMN], bounds]).astype("<i8")
    return b"".join([head.tobytes(), text, *(column.tobytes() for column in items)])


def _refuse_used(folder: Path) -> None:
    """Refuses to replace anything: clients may be at work on a population that is there."""
    if contents(folder) or (folder.exists() and not folder.is_dir()):
        raise ConfigError(f"Expected an empty or new folder for the population, got {folder}. Name another one.")
