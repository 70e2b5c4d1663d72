"""Shares against exact fractions, published numbers, and what fewer than the threshold say."""

from __future__ import annotations

import random
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sympy import isprime

from shared.errors import ConfigError, SecureAggregationError
from shared.secagg.secret_sharing import PRIME, combine, right_shares, split


def test_the_field_holds_every_secret_and_is_one() -> None:
    assert isprime(PRIME)
    assert PRIME > 2**256


def _by_fractions(places: list[int], values: list[int]) -> int:
    """Solves for the polynomial over the rationals, column by column, and reduces its constant at the end."""
    size = len(places)
    rows = [
        [Fraction(place) ** power for power in range(size)] + [Fraction(value)]
        for place, value in zip(places, values, strict=True)
    ]
    for column in range(size):
        pivot = next(row for row in range(column, size) if rows[row][column])
        rows[column], rows[pivot] = rows[pivot], rows[column]
        for row in range(size):
            if row != column:
                factor = rows[row][column] / rows[column][column]
                rows[row] = [a - factor * b for a, b in zip(rows[row], rows[column], strict=True)]
    constant = rows[0][size] / rows[0][0]
    return constant.numerator * pow(constant.denominator, -1, PRIME) % PRIME


@given(st.binary(min_size=32, max_size=32), st.integers(1, 9), st.integers(0, 6), st.randoms(use_true_random=False))
def test_any_threshold_of_the_shares_gives_the_secret_as_exact_fractions_do(
    secret: bytes, threshold: int, spare: int, rng: random.Random
) -> None:
    shares = split(secret, threshold=threshold, count=threshold + spare)
    places = rng.sample(range(1, threshold + spare + 1), threshold)
    chosen = [shares[place - 1] for place in places]
    assert combine(places, chosen) == secret
    assert _by_fractions(places, [int.from_bytes(share, "big") for share in chosen]) == int.from_bytes(secret, "big")


@pytest.mark.parametrize("secret", [bytes(32), b"\xff" * 32])
def test_the_extreme_secrets_come_back(secret: bytes) -> None:
    shares = split(secret, threshold=60, count=100)
    assert len({len(share) for share in shares} | {33}) == 1
    assert combine(range(41, 101), shares[40:]) == secret


def test_published_numbers_give_their_secret() -> None:
    """1234 + 166 x + 94 x**2 at 2, 4 and 5, the example of the encyclopedias."""
    shares = [value.to_bytes(33, "big") for value in (1942, 3402, 4414)]
    assert combine([2, 4, 5], shares) == (1234).to_bytes(32, "big")


def test_fewer_shares_than_the_threshold_are_independent_of_the_secret() -> None:
    """Null: the leading 8 bits of a share are uniform (the prime is 2**256 but for 2**-247). 4,000 sharings of each of two
    secrets, chi-square of 255 degrees, p > 1e-6 each. A polynomial of a smaller degree turns it red: with a threshold of 1
    a share is the secret, the negative control."""

    def uniform(secret: bytes, threshold: int) -> bool:
        leading = [split(secret, threshold=threshold, count=threshold + 1)[threshold - 1][1] for _ in range(4000)]
        return bool(stats.chisquare(np.bincount(leading, minlength=256)).pvalue > 1e-6)

    assert uniform(bytes(32), 2)
    assert uniform(b"\x55" * 32, 3)
    assert not uniform(bytes(32), 1)


def test_a_wrong_share_gives_no_secret_or_another_one() -> None:
    shares = split(b"s" * 32, threshold=3, count=3)
    assert combine([1, 2, 3], [shares[0], shares[2], shares[1]]) != b"s" * 32
    # The line through these has the value PRIME - 1 at 0, which is no secret.
    with pytest.raises(SecureAggregationError, match="Expected shares of one secret, got others"):
        combine([1, 2], [(0).to_bytes(33, "big"), (1).to_bytes(33, "big")])


@pytest.mark.parametrize(("threshold", "count"), [(0, 3), (4, 3)])
def test_a_threshold_out_of_range_is_refused(threshold: int, count: int) -> None:
    with pytest.raises(ConfigError, match=rf"Expected threshold in \[1, 3\], got threshold={threshold}"):
        split(bytes(32), threshold=threshold, count=count)


def test_a_secret_of_another_length_is_refused() -> None:
    with pytest.raises(ConfigError, match="Expected a secret of 32 bytes, got bytes=31"):
        split(bytes(31), threshold=1, count=1)


@given(
    threshold=st.integers(1, 12), spare=st.integers(0, 8), seed=st.integers(0, 2**32), part=st.floats(0, 1),
)  # fmt: skip
def test_wrong_shares_up_to_half_of_those_to_spare_are_found_and_no_right_one_is_accused(
    threshold: int, spare: int, seed: int, part: float
) -> None:
    rng, secret = random.Random(seed), bytes(range(32))
    shares = split(secret, threshold=threshold, count=threshold + spare + 3)
    places = rng.sample(range(1, threshold + spare + 4), threshold + spare)
    wrong = set(rng.sample(range(len(places)), round(part * (spare // 2))))
    sent = [rng.randbytes(33) if index in wrong else shares[place - 1] for index, place in enumerate(places)]
    right = right_shares(places, sent, threshold=threshold)
    assert right == [index for index in range(len(places)) if index not in wrong]
    chosen = right[:threshold]
    assert combine([places[index] for index in chosen], [sent[index] for index in chosen]) == secret


def test_wrong_shares_that_agree_with_one_another_are_found_too() -> None:
    """Colluding holders send shares of another secret; 57 of 60 holders, 41 of which are enough."""
    shares, others = (split(secret, threshold=41, count=60) for secret in (b"a" * 32, b"b" * 32))
    sent = [*others[:8], *shares[8:57]]
    assert right_shares(range(1, 58), sent, threshold=41) == list(range(8, 57))


def test_too_many_wrong_shares_are_not_explained_away() -> None:
    shares, others = (split(secret, threshold=5, count=9) for secret in (b"a" * 32, b"b" * 32))
    assert right_shares(range(1, 10), [*others[:4], *shares[4:]], threshold=5) is None
    assert right_shares(range(1, 6), [bytes(33), *shares[1:5]], threshold=5) == list(range(5))  # nothing to spare
    assert right_shares(range(1, 10), others, threshold=5) == list(range(9))  # right, of whatever secret
