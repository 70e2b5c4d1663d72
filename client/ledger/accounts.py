"""Whose account in the ledger a client's spendings are charged to: a name that follows a user as far as it can.

Where every user is a client, a client is known by its number, which counts the users before it: one more moves all behind
it. So the account is named by the user, `user-` and 16 hex digits of a keyed hash of the id. Where each value of an
attribute is a silo, one more value would move the others, so that one is named by the attribute and its value, `value-`, 8
digits and 16. Other silos are there before their users: silo k is `client-k`.

Data that grow move no user's budget where every user is a client, where each value is a silo (and the user keeps the value),
where silos have shares by seed (`simulations/assignment.py`), and in whatever federation a run continues another (`--from`).
Otherwise they may: with `dirichlet_alpha` a longer history may put a user into another silo, and where values of an
attribute are put together or divided (`clients` > 0), one more value shifts their ranks. A user who moves is charged to the
account of the new silo.

The ledger refuses an account of a kind, or of an attribute, other than those that it holds: it would begin empty.

A name is as private as the id that it was made of, and it stays in the ledger. The key is a constant: a name that followed
from the data's own name, say, would give a user who spent before an empty account under another one.

Two users with one hash would share an account, which charges them too much and never too little; a population in which two
have the same is refused all the same. What never lives here: the ledger, and who reads it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from shared.errors import DataError
from shared.keyed_hash import keyed_hash

_PERSON: Final = b"tacit-accounts"
_PERSON_OF_ATTRIBUTES: Final = b"tacit-attributes"


@dataclass(frozen=True, eq=False)
class Accounts:
    """The accounts of all clients of a population.

    Attributes:
        kind: `user` where every user is a client, `client` in silos by number, `value-` and 8 hex digits of a hash of the
            attribute's name where each value is a silo.
        hashes: (clients,) uint64, what each is named by; None where a silo's number is its name. (private)
    """

    kind: str
    hashes: NDArray[np.uint64] | None = None

    @classmethod
    def of_users(cls, users: pl.Series) -> Accounts:
        """The accounts of clients that each are one user.

        Args:
            users: Ids, in the order of partitions. (private)

        Raises:
            DataError: If two would have the same account.
        """
        return cls("user", _distinct(users, key=b"", of="users"))

    @classmethod
    def of_values(cls, attribute: str, values: pl.Series) -> Accounts:
        """The accounts of silos that each hold the users who share a value of an attribute.

        Args:
            attribute: Its name; the same value of another one has another account. (public)
            values: One a silo, in the order of partitions. (private)

        Raises:
            DataError: If two would have the same account.
        """
        (about,) = keyed_hash(pl.Series([attribute], dtype=pl.String), key=b"", person=_PERSON_OF_ATTRIBUTES).tolist()
        key = about.to_bytes(8, "little")
        return cls(f"value-{about >> 32:08x}", _distinct(values, key=key, of="values"))

    @classmethod
    def read(cls, path: Path, kind: str, *, checksum: str) -> Accounts:
        """What `to_bytes` gave.

        Raises:
            DataError: If the file is missing or damaged.
        """
        try:
            content = path.read_bytes()
        except OSError as error:
            raise DataError(f"{path.name} is missing or unreadable. Write the population again.") from error
        if hashlib.sha256(content).hexdigest() != checksum:
            raise DataError(f"{path.name} is damaged: its checksum differs. Write the population again.")
        return cls(kind, np.frombuffer(content, dtype="<u8"))

    def to_bytes(self) -> bytes:
        """The hashes, little-endian."""
        return b"" if self.hashes is None else self.hashes.astype("<u8").tobytes()

    def name(self, partition: int) -> str:
        """The account of one client. (private)"""
        return f"{self.kind}-{partition}" if self.hashes is None else f"{self.kind}-{int(self.hashes[partition]):016x}"


def account_of_user(user: str) -> str:
    """The account of a user in the ledger of a population in which every user is a client. (private)"""
    return Accounts.of_users(pl.Series([user], dtype=pl.String)).name(0)


def _distinct(names: pl.Series, *, key: bytes, of: str) -> NDArray[np.uint64]:
    """A hash for each name. (private)

    Raises:
        DataError: If two are the same.
    """
    hashes = keyed_hash(names, key=key, person=_PERSON)
    if len(np.unique(hashes)) < len(hashes):
        raise DataError(f"Expected {of} with distinct accounts in the ledger, found two alike. Rename one.")
    return hashes
