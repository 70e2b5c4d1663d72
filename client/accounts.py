"""Whose account in the ledger a client's spendings are charged to: a name that data which grow do not move.

Where every user is a client, a client is known by its number, which counts the users before it: one more moves all behind
it. So the account is named by the user, `user-` and 16 hex digits of a keyed hash of the id. Silos are there before their
users, and users stay in them (`simulations/assignment.py`): silo k is `client-k`. Where each value of an attribute is a
silo, one more value would move the others, so that one is named by its value, `client-` and the hash.

A name is as private as the id that it was made of, and it stays in the ledger. The key is a constant: a name that followed
from the data's own name, say, would give a user who spent before an empty account under another one.

Two users with one hash would share an account, which charges them too much and never too little; a population in which two
have the same is refused all the same. What never lives here: the ledger, and who reads it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from shared.errors import DataError
from shared.keyed_hash import keyed_hash

Kind = Literal["user", "client"]

_PERSON: Final = b"tacit-accounts"


@dataclass(frozen=True, eq=False)
class Accounts:
    """The accounts of all clients of a population.

    Attributes:
        kind: `user` where every user is a client, `client` in silos.
        hashes: (clients,) uint64, what each is named by; None where a silo's number is its name. (private)
    """

    kind: Kind
    hashes: NDArray[np.uint64] | None = None

    @classmethod
    def named_by(cls, kind: Kind, names: pl.Series) -> Accounts:
        """The accounts of clients that are named by users, or by the value that all users of a silo share.

        Args:
            kind: Of whom.
            names: One a client, in the order of partitions. (private)

        Raises:
            DataError: If two would have the same account.
        """
        hashes = keyed_hash(names, key=b"", person=_PERSON)
        if len(np.unique(hashes)) < len(hashes):
            raise DataError(f"Expected {kind}s with distinct accounts in the ledger, found two alike. Rename one.")
        return cls(kind, hashes)

    @classmethod
    def read(cls, path: Path, kind: Kind, *, checksum: str) -> Accounts:
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
    return Accounts.named_by("user", pl.Series([user], dtype=pl.String)).name(0)
