"""Data that have grown since an earlier run: which users were there, in which account, and what of theirs was counted.

A client of its own would look all of this up in its own store: where it was, and how far its statistics went. A simulator
made the earlier population, so it looks there. What never lives here: what the server takes over (`server/continuing.py`).
"""

from __future__ import annotations

import numpy as np
import polars as pl
from numpy.typing import NDArray

from client.ledger.accounts import Accounts
from client.store.population import Population, read_clients
from shared.data.catalog import ItemCatalog
from shared.errors import ConfigError, DataError

Ints = NDArray[np.int64]


def verify_something_is_new(histories: pl.DataFrame, before: Population) -> None:
    """Refuses data in which nobody trained on more than an earlier run has counted.

    Args:
        histories: A HISTORIES TABLE. (private)
        before: The earlier population. (private)

    Raises:
        DataError: If so; a statistic of nothing would cost what one of something does.
    """
    rows = read_clients(before.folder, np.arange(before.num_clients), ["user", "train"]).histories
    known = rows.select("user", pl.col("train").list.len().alias("counted"))
    joined = histories.select("user", pl.col("train").list.len()).join(known, on="user", how="left")
    if not (joined["train"] > joined["counted"].fill_null(0)).any():
        raise DataError(
            "Expected training interactions that the run that is continued has not counted, found none. Give data that have "
            "grown; where data.cut_offs are declared, move them on."
        )


def continued(
    histories: pl.DataFrame, catalog: ItemCatalog, before: Population, accounts: Accounts, *, num_clients: int
) -> tuple[Ints, Ints]:
    """Where users were in an earlier population, and how much of each training history its run has counted.

    The length of the training history of that time says how much: what came since lies behind it. Where it does not (rows
    that came late, a draw among equal times), an interaction at the seam counts twice and another one never; a user's
    contribution is bounded all the same.

    Args:
        histories: A HISTORIES TABLE of the grown data. (private)
        catalog: Grown from the earlier one. (public)
        before: The earlier population. (private)
        accounts: Of the grown population's clients. (private)
        num_clients: Of the grown population. (public)

    Returns:
        Both of shape (users,): the client that the user has to stay in, -1 for a new user or where every user is a client;
        training interactions that were counted, 0 for a new user. (private)

    Raises:
        ConfigError: If the clients are of another kind, or silos of another attribute or number.
        DataError: If a silo is gone, no user of that time is there, or none of their histories goes on.
    """
    of_silos = accounts.kind != "user"
    if accounts.kind != before.accounts.kind or (accounts.hashes is None) != (before.accounts.hashes is None):
        raise ConfigError(
            "Expected the clients of the run that is continued, got another kind. Leave federation.* as it was."
        )
    if accounts.hashes is None and num_clients != before.num_clients:
        raise ConfigError(
            f"Expected federation.clients={before.num_clients} as in the run that is continued, got {num_clients}. What a "
            "user spent is in the account of the user's silo; leave it as it was."
        )
    if catalog.ids[: before.catalog.num_items] != before.catalog.ids:
        raise ConfigError("Expected a catalog grown from that of the run that is continued, got another. Use its items.")
    rows = read_clients(before.folder, np.arange(before.num_clients), ["user", "train"])
    known = rows.histories.select("user", pl.col("train").alias("earlier"), pl.Series("home", rows.client))
    joined = histories.select("user", "train").join(known, on="user", how="left", maintain_order="left")
    counted = joined["earlier"].list.len().fill_null(0).to_numpy().astype(np.int64)
    there = joined.filter(pl.col("earlier").is_not_null())
    if there.is_empty():
        raise DataError(
            "Expected users of the run that is continued in the grown data, found none. Give data of the same users, whose "
            "ids are the same."
        )
    begins = there.select(pl.col("train").list.slice(0, pl.col("earlier").list.len()) == pl.col("earlier"))
    if not begins.to_series().any():
        raise DataError(
            "Expected histories that go on from those of the run that is continued, found none that does. Give the same "
            "data with what came since, in the same order of time."
        )
    homes = joined["home"].fill_null(-1).to_numpy().astype(np.int64)
    if not of_silos:
        homes = np.full(len(joined), -1, dtype=np.int64)
    elif accounts.hashes is not None and before.accounts.hashes is not None:
        order = np.argsort(accounts.hashes)
        place = np.minimum(np.searchsorted(accounts.hashes[order], before.accounts.hashes), len(order) - 1)
        now = np.where(accounts.hashes[order][place] == before.accounts.hashes, order[place], -2)
        homes = np.where(homes >= 0, now[homes], -1)
        if (homes == -2).any():
            raise DataError("Expected every silo of the run that is continued, found one without a user of its value left.")
    return homes, counted
