"""Interactions -> simulated clients, written as a folder that real clients open by partition id.

Here lives the decision which user belongs to which client, and the writing of the folder whose layout
`client/store.py` describes. Here never live training or sampling: once written, a population is data,
and the same client code reads it under `tacit simulate`, `flwr run .` and on Ray.

Two kinds of federation. **One user a client**: partition k is the k-th user. **Silos**: every client
holds several users, in equal or power-law numbers, or those who share an attribute; label skew is added
by a Dirichlet draw, after which silos differ in what their users like.

Every user belongs to exactly one client, so that (user, silo) is (user), the unit of the privacy claim.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from operator import methodcaller
from pathlib import Path
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from client.store import (
    CATALOG_FILE,
    CLIENTS_FOLDER,
    POPULATION_FILE,
    POPULATION_SCHEMA,
)
from shared.catalog import ItemCatalog
from shared.errors import ConfigError, DataError
from shared.files import write_atomically, write_json
from shared.splitting import HISTORIES_SCHEMA, HISTORY_COLUMNS

Ints = npt.NDArray[np.int64]
Sizes = Literal["equal", "power-law", "attribute"]

SIZES: Final = ("equal", "power-law", "attribute")
POWER_LAW_EXPONENT: Final = 1.0
NUM_TASTES: Final = 10
PARTITION_COLUMN: Final = "partition"
OWN_FILE_CLIENTS: Final = 128
USERS_PER_PART: Final = 65_536


@dataclass(frozen=True)
class PopulationSummary:
    """What was written.

    Attributes:
        folder: Where.
        num_clients: Number of partitions.
        num_users: Users in all of them.
        users_per_client: Shape (num_clients,), int64, each >= 1. (private in a real federation)
        digest: sha256 over catalog, histories and assignment, 64 hex digits.
    """

    folder: Path
    num_clients: int
    num_users: int
    users_per_client: Ints
    digest: str


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
) -> PopulationSummary:
    """Assigns users to clients and writes the population folder, whole or not at all.

    Args:
        histories: A HISTORIES TABLE. (private)
        catalog: The items its rows mean. (public)
        user_attributes: Column `user` and attributes; needed for sizes="attribute". (private)
        folder: Where to write. A population that is there already is replaced.
        clients: Number of silos, at most the number of users; 0 means one user a client (and with
            sizes="attribute" one client a value).
        sizes: `equal`: numbers of users that differ by one at most. `power-law`: proportional to
            1/rank, each at least 1. `attribute`: clients hold users of one attribute value; with fewer
            clients than values the smallest are put together, with more the largest are divided.
        attribute: Name of the column for sizes="attribute".
        dirichlet_alpha: 0 for no skew. Otherwise label skew: items are clustered into tastes by who
            interacted with them, a user's label is the taste of most of the user's training items, and
            each label's users are spread over clients by Dirichlet(alpha * clients * share), where
            share is the client's part of all users by `sizes`. Small alpha, strong skew; sizes then
            hold in expectation, and a client left empty is given a user of the largest one.
        seed: Makes the assignment. Any integer >= 0.

    Returns:
        The summary.

    Raises:
        ConfigError: If there are more clients than users, a setting is unknown or contradicts another,
            or the folder holds something else.
        DataError: If the table holds no user.
    """
    if histories.is_empty():
        raise DataError("Expected at least one user to make clients of, found 0.")
    _check_settings(histories.height, clients, sizes, attribute, dirichlet_alpha)
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(0x706F70,)))
    if sizes == "attribute":
        assignment = _by_attribute(histories["user"], user_attributes, attribute, clients, rng)
    elif clients == 0:
        assignment = np.arange(histories.height)
    else:
        shares = _shares(clients, sizes, rng)
        if dirichlet_alpha > 0:
            labels = dominant_tastes(histories["train"], catalog.num_items, rng)
            assignment = _skewed(labels, shares, dirichlet_alpha, rng)
        else:
            assignment = rng.permutation(np.repeat(np.arange(clients), _whole(shares, histories.height)))
    return _write(histories, catalog, assignment, Path(folder))


def dominant_tastes(train: pl.Series, num_items: int, rng: np.random.Generator) -> Ints:
    """Labels each user with the cluster ("taste") of most of the user's training items.

    Items are clustered by the users who interacted with them: a truncated SVD of the user-item matrix
    with unit rows for items, then k-means on directions. This uses everybody's data at once, which only
    a simulation can.

    Args:
        train: List column of catalog rows, one list a user. (private)
        num_items: I.
        rng: Seeded source.

    Returns:
        Shape (users,), labels in [0, NUM_TASTES). Ties go to the smaller label.
    """
    from scipy.cluster.vq import kmeans2
    from scipy.sparse import csr_matrix, diags
    from scipy.sparse.linalg import svds

    lengths = train.list.len().to_numpy().astype(np.int64)
    owner = np.repeat(np.arange(len(lengths)), lengths)
    item = train.explode(empty_as_null=False).to_numpy()
    matrix = csr_matrix((np.ones(len(item)), (item, owner)), shape=(num_items, len(lengths)))
    matrix.data[:] = 1.0
    per_item = np.asarray(matrix.sum(axis=1)).ravel()
    scaled = diags(1 / np.sqrt(np.maximum(per_item, 1))) @ matrix
    rank = min(2 * NUM_TASTES, min(scaled.shape) - 1)
    if rank < 1:
        return np.zeros(len(lengths), dtype=np.int64)
    left, _, _ = svds(scaled, k=rank, v0=rng.normal(size=min(scaled.shape)))
    directions = left / np.maximum(np.linalg.norm(left, axis=1, keepdims=True), 1e-12)
    _, taste = kmeans2(directions, min(NUM_TASTES, num_items), minit="++", rng=rng)
    votes = np.zeros((len(lengths), NUM_TASTES), dtype=np.int64)
    np.add.at(votes, (owner, taste[item]), 1)
    return np.asarray(votes.argmax(axis=1), dtype=np.int64)


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


def _shares(clients: int, sizes: str, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Part of all users that each client shall hold, in random order, summing to 1."""
    weights = np.ones(clients)
    if sizes == "power-law":
        weights = rng.permutation((1.0 + np.arange(clients)) ** -POWER_LAW_EXPONENT)
    return np.asarray(weights / weights.sum())


def _whole(shares: npt.NDArray[np.float64], total: int) -> Ints:
    """Whole numbers >= 1 that sum to `total`, by largest remainder above the first one each."""
    rest = shares * (total - len(shares))
    counts = np.floor(rest).astype(np.int64)
    missing = total - len(shares) - int(counts.sum())
    counts[np.argsort(counts - rest, kind="stable")[:missing]] += 1
    return counts + 1


def _skewed(labels: Ints, shares: npt.NDArray[np.float64], alpha: float, rng: np.random.Generator) -> Ints:
    """Spreads each label's users over clients by its own Dirichlet draw.

    Source:
        Hsu, Qi and Brown 2019, "Measuring the Effects of Non-Identical Data Distribution for Federated
        Visual Classification", Sec. 3, with clients and labels exchanged, so that all users are used.
    """
    clients = len(shares)
    assignment = np.empty(len(labels), dtype=np.int64)
    for label in np.unique(labels):
        users = np.flatnonzero(labels == label)
        draws = rng.standard_gamma(alpha * clients * shares) + 1e-300
        assignment[users] = rng.choice(clients, size=len(users), p=draws / draws.sum())
    counts = np.bincount(assignment, minlength=clients)
    for empty in np.flatnonzero(counts == 0):
        largest = int(counts.argmax())
        assignment[np.flatnonzero(assignment == largest)[0]] = empty
        counts[largest] -= 1
        counts[empty] = 1
    return assignment


def _by_attribute(
    users: pl.Series, attributes: pl.DataFrame | None, attribute: str, clients: int, rng: np.random.Generator
) -> Ints:
    """Puts users with the same value together; users without a value share one of their own."""
    available = [] if attributes is None else [name for name in attributes.columns if name != "user"]
    if attributes is None or attribute not in available:
        raise ConfigError(
            f"Expected federation.attribute to be one of: {', '.join(available) or 'none'}, got "
            f"federation.attribute={attribute!r}. The data set has no other user attributes."
        )
    joined = users.to_frame("user").join(attributes, on="user", how="left", maintain_order="left")
    ranks = joined[attribute].cast(pl.String).fill_null("").rank("dense")
    values: Ints = ranks.to_numpy().astype(np.int64) - 1
    counts = np.bincount(values)
    if clients == 0 or clients == len(counts):
        return values
    if clients < len(counts):
        # Largest first into the emptiest client; the classic greedy rule for even loads.
        home, loads = np.empty(len(counts), dtype=np.int64), np.zeros(clients, dtype=np.int64)
        for value in np.argsort(-counts, kind="stable"):
            home[value] = loads.argmin()
            loads[home[value]] += counts[value]
        return np.asarray(home[values])
    # One client a value, and each further one to the value whose clients hold most users.
    pieces = np.ones(len(counts), dtype=np.int64)
    for _ in range(clients - len(counts)):
        pieces[np.argmax(counts / pieces)] += 1
    first = np.cumsum(pieces) - pieces
    order = rng.permutation(len(values))
    by_value = order[np.argsort(values[order], kind="stable")]
    position = np.arange(len(values)) - np.repeat(np.cumsum(counts) - counts, counts)
    assignment = np.empty(len(values), dtype=np.int64)
    assignment[by_value] = first[values[by_value]] + position % pieces[values[by_value]]
    return assignment


def _write(histories: pl.DataFrame, catalog: ItemCatalog, assignment: Ints, folder: Path) -> PopulationSummary:
    """Writes everything into a temporary folder beside the target, then renames it."""
    table = histories.select(pl.Series(PARTITION_COLUMN, assignment, dtype=pl.Int32), *HISTORIES_SCHEMA.names()).sort(
        PARTITION_COLUMN, "user"
    )
    users_per_client = np.bincount(assignment)
    folder = folder.absolute()
    _refuse_foreign(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        (temporary / CLIENTS_FOLDER).mkdir()
        parts = _write_parts(table, users_per_client, temporary / CLIENTS_FOLDER)
        catalog.save(temporary / CATALOG_FILE)
        digest = _digest(catalog, table)
        description: dict[str, object] = {
            "schema": POPULATION_SCHEMA,
            "num_clients": len(users_per_client),
            "num_users": table.height,
            "catalog_digest": catalog.digest,
            "digest": digest,
            "parts": parts,
        }
        write_json(temporary / POPULATION_FILE, description)
        temporary.chmod(0o755)
        _exchange(temporary, folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return PopulationSummary(folder, len(users_per_client), table.height, users_per_client, digest)


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
    """The flat arrays that `client/store.py` describes."""
    text = "".join(table["user"].to_list()).encode("utf-32-le")
    lengths = [table["user"].str.len_chars(), *(table[name].list.len() for name in HISTORY_COLUMNS)]
    items = [table[name].explode(empty_as_null=False).to_numpy().astype("<i4") for name in HISTORY_COLUMNS]
    bounds = np.cumsum(np.concatenate([[0], *lengths]))
    head = np.concatenate([[table.height], table[PARTITION_COLUMN], bounds]).astype("<i8")
    return b"".join([head.tobytes(), text, *(column.tobytes() for column in items)])


def _digest(catalog: ItemCatalog, table: pl.DataFrame) -> str:
    """sha256 over catalog, users, assignment and histories, however they are stored."""
    digest = hashlib.sha256(catalog.digest.encode())
    digest.update("\0".join(table["user"].to_list()).encode("utf-8", "surrogatepass"))
    digest.update(table[PARTITION_COLUMN].to_numpy().astype("<i4").tobytes())
    for name in HISTORIES_SCHEMA.names()[1:]:
        digest.update(table[name].list.len().to_numpy().astype("<i4").tobytes())
        digest.update(table[name].explode(empty_as_null=False).to_numpy().astype("<i4").tobytes())
    return digest.hexdigest()


def _refuse_foreign(folder: Path) -> None:
    """Refuses to replace anything that is not a population."""
    if not folder.exists():
        return
    if not folder.is_dir() or (any(folder.iterdir()) and not (folder / POPULATION_FILE).exists()):
        raise ConfigError(f"Expected an empty or new folder for the population, got {folder}. Name another one.")


def _exchange(temporary: Path, folder: Path) -> None:
    """Puts the new folder where the old one was; the old one goes last."""
    if not folder.exists():
        temporary.replace(folder)
        return
    old = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    folder.replace(old)
    temporary.replace(folder)
    shutil.rmtree(old)
