"""Hashes of ids: of the id, the key and the purpose alone, and uniform."""

from __future__ import annotations

import hashlib

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.keyed_hash import keyed_hash, keyed_uniform, mixed


@given(st.lists(st.text(max_size=8), max_size=20))
def test_a_hash_is_blake2b_of_the_id_whatever_the_other_rows_are(ids: list[str]) -> None:
    found = keyed_hash(pl.Series(ids, dtype=pl.String), key=b"key", person=b"test")
    expected = [
        int.from_bytes(hashlib.blake2b(one.encode(), digest_size=8, key=b"key", person=b"test").digest(), "little")
        for one in ids
    ]
    assert (found.dtype, found.tolist()) == (np.uint64, expected)


def test_another_key_or_purpose_gives_another_number() -> None:
    ids = pl.Series(["a", "b"])
    numbers = [
        keyed_hash(ids, key=key, person=person).tolist() for key, person in ((b"1", b"x"), (b"2", b"x"), (b"1", b"y"))
    ]
    assert len({number for row in numbers for number in row}) == 6


def test_uniform_numbers_are_in_the_unit_interval_and_spread_over_it() -> None:
    """10,000 fixed ids in ten cells: chi-squared with 9 degrees of freedom is below 40 but for 1 in 130,000."""
    numbers = keyed_uniform(pl.Series([str(number) for number in range(10_000)]), seed=1, person=b"test")
    assert numbers.min() >= 0.0 and numbers.max() < 1.0
    counts = np.bincount((numbers * 10).astype(int), minlength=10)
    assert ((counts - 1_000) ** 2 / 1_000).sum() < 40


@pytest.mark.parametrize(("value", "expected"), [(0, 0xE220A8397B1DCDAF), (0x9E3779B97F4A7C15, 0x6E789E6AA1B965F4)])
def test_mixing_gives_the_published_sequence_of_splitmix64(value: int, expected: int) -> None:
    """The first two outputs from seed 0, as Vigna's reference code gives them."""
    assert mixed(np.array([value], dtype=np.uint64)).tolist() == [expected]
