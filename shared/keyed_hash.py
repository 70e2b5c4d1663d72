"""Keyed hashes of ids: choices about one user that depend on that user, a key and nothing else.

Ties in time, silos and turns are decided so. The order of a table or a draw among all users would do as well for one run,
but then another user's presence would move the choice. What never lives here: secrets. The keys are public, so a hash is as
private as the id.
"""

from __future__ import annotations

import hashlib

import numpy as np
import polars as pl
from numpy.typing import NDArray


def keyed_hash(ids: pl.Series, *, key: bytes, person: bytes) -> NDArray[np.uint64]:
    """A uniform 64-bit number for each id, the same on every machine and for every order of rows.

    polars' own hash is documented as unstable across versions, hence blake2b over the distinct ids.

    Args:
        ids: Strings. (private)
        key: At most 64 bytes. (public)
        person: What the number is for, at most 16 bytes: the same id gets another number for another purpose. (public)

    Returns:
        Shape (rows,).
    """
    distinct = ids.unique()
    digests = b"".join(
        hashlib.blake2b(value.encode("utf-8", "surrogatepass"), digest_size=8, key=key, person=person).digest()
        for value in distinct.to_list()
    )
    hashes = pl.DataFrame({"value": distinct, "hash": np.frombuffer(digests, dtype="<u8").astype(np.uint64)})
    joined = ids.alias("value").to_frame().join(hashes, on="value", how="left", maintain_order="left")
    return joined["hash"].to_numpy()


def keyed_uniform(ids: pl.Series, *, seed: int, person: bytes) -> NDArray[np.float64]:
    """`keyed_hash` as numbers in [0, 1), with 53 bits; shape (rows,)."""
    words = keyed_hash(ids, key=str(seed).encode(), person=person)
    return (words >> np.uint64(11)).astype(np.float64) * 2.0**-53


def mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finalizer of splitmix64, element by element.

    Source:
        Steele, Lea and Flood 2014, "Fast Splittable Pseudorandom Number Generators", Fig. 17.
    """
    mixed = values + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))
