"""Shamir's secret sharing: any `threshold` shares give the secret, fewer say nothing about it.

Secrets are 32 bytes, read as numbers below the field's prime, which is just above 2**256. A share is the value of a random
polynomial at a holder's place, 1 to k; the secret is its value at 0. Python's integer arithmetic does not run in
constant time: an observer who can time a device to a microsecond may learn something about a secret. A secret lives for one
round.

Source:
    Shamir 1979, "How to share a secret".
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from itertools import accumulate

from shared.errors import ConfigError, SecureAggregationError

PRIME = 2**256 + 297
SECRET_BYTES = 32
SHARE_BYTES = 33


def split(secret: bytes, *, threshold: int, count: int) -> list[bytes]:
    """Shares for the places 1 to count; the polynomial comes from the system's CSPRNG.

    Guarantee:
        Any threshold - 1 shares are independent of the secret.

    Args:
        secret: 32 bytes. (private)
        threshold: In [1, count].
        count: k, holders.

    Returns:
        33 bytes each. (private)

    Raises:
        ConfigError: If a number is out of range.
    """
    if len(secret) != SECRET_BYTES:
        raise ConfigError(f"Expected a secret of {SECRET_BYTES} bytes, got bytes={len(secret)}. Derive one.")
    if not 1 <= threshold <= count:
        raise ConfigError(f"Expected threshold in [1, {count}], got threshold={threshold}. Use more holders.")
    coefficients = [secrets.randbelow(PRIME) for _ in range(threshold - 1)]
    constant = int.from_bytes(secret, "big")
    shares = []
    for place in range(1, count + 1):
        value = 0
        for coefficient in coefficients:
            value = (value + coefficient) * place  # reduced once, at the end: places are small
        shares.append(((value + constant) % PRIME).to_bytes(SHARE_BYTES, "big"))
    return shares


def combine(places: Sequence[int], shares: Sequence[bytes]) -> bytes:
    """The secret from exactly `threshold` shares, by Lagrange's formula at 0. (private)

    The caller checks the result against what the secret's owner published: a wrong share gives a wrong secret.

    Args:
        places: The shares' places: all different, >= 1.
        shares: 33 bytes each. (private)

    Raises:
        SecureAggregationError: If the shares give no secret of 32 bytes: one of them is wrong.
    """
    total = 0
    for weight, share in zip(_weights(places), shares, strict=True):
        total += weight * int.from_bytes(share, "big")
    total %= PRIME
    if total >= 1 << 8 * SECRET_BYTES:
        raise SecureAggregationError(
            "Expected shares of one secret, got others. A holder sent a wrong share; drop the round."
        )
    return total.to_bytes(SECRET_BYTES, "big")


def _weights(places: Sequence[int]) -> list[int]:
    """For each place x the product of y / (y - x) over the others, with one inversion for all of them."""
    numerators, denominators = [], []
    everything = 1
    for place in places:
        everything = everything * place % PRIME
    for place in places:
        product = place  # the numerator is the product of all places divided by this one
        for other in places:
            if other != place:
                product *= other - place
        denominators.append(product % PRIME)
        numerators.append(everything)
    before = list(accumulate(denominators, lambda a, b: a * b % PRIME, initial=1))
    inverse = pow(before[-1], -1, PRIME)
    weights = []
    for index in range(len(places) - 1, -1, -1):
        weights.append(numerators[index] * inverse % PRIME * before[index] % PRIME)
        inverse = inverse * denominators[index] % PRIME
    return weights[::-1]
