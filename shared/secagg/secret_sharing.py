"""Shamir's secret sharing: any `threshold` shares give the secret, fewer say nothing about it.

Secrets are 32 bytes, read as numbers below the field's prime, which is just above 2**256. A share is the value of a random
polynomial at a holder's place, 1 to k; the secret is its value at 0. Python's integer arithmetic does not run in
constant time: an observer who can time a device to a microsecond may learn something about a secret. A secret lives for one
round.

Shares are values of one polynomial, so they are words of a Reed-Solomon code: of more than `threshold` shares the wrong ones
are found, as long as they are at most half of what is to spare (`right_shares`).

Source:
    Shamir 1979, "How to share a secret"; Gao 2003, "A new algorithm for decoding Reed-Solomon codes".
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
            "Expected shares of one secret, got others. A holder sent a wrong share; use other shares, or drop the round."
        )
    return total.to_bytes(SECRET_BYTES, "big")


def right_shares(places: Sequence[int], shares: Sequence[bytes], *, threshold: int) -> list[int] | None:
    """Which shares lie on one polynomial, although others do not.

    Guarantee:
        If at most (len(shares) - threshold) // 2 shares are wrong, these are left out and all others are found. The time is
        cubic in the number of shares at most, whatever they are.

    Args:
        places: The shares' places: all different, >= 1.
        shares: 33 bytes each, at least `threshold`. (private)
        threshold: Shares that give the secret.

    Returns:
        Indices of the right shares, ascending; None if too many are wrong. What they give has to be checked all the same: a
        secret's owner may have dealt shares of another one.
    """
    count, values = len(places), [int.from_bytes(share, "big") % PRIME for share in shares]
    product = [1]
    for place in places:
        product = _minus_root(product, place)
    # The polynomial through all points, by Lagrange; a quotient of the product is what vanishes everywhere else.
    through = [0] * count
    for place, value in zip(places, values, strict=True):
        others, _ = _divided(product, [-place % PRIME, 1])
        scale = value * pow(_at(others, place), -1, PRIME) % PRIME
        through = [(a + scale * b) % PRIME for a, b in zip(through, others, strict=True)]
    # Euclid's algorithm, stopped halfway: remainder = locator * through, modulo the product.
    before, remainder = product, _trimmed(through)
    locator_before, locator = [0], [1]
    while 2 * (len(remainder) - 1) >= count + threshold:
        quotient, rest = _divided(before, remainder)
        before, remainder = remainder, rest
        locator_before, locator = locator, _minus_product(locator_before, quotient, locator)
    found, rest = _divided(remainder, locator)
    if any(rest) or len(found) > threshold:
        return None
    return [index for index, place in enumerate(places) if _at(found, place) == values[index]]


def _trimmed(polynomial: list[int]) -> list[int]:
    """Without leading zeros; coefficients are ascending, and of zero one stays."""
    while len(polynomial) > 1 and not polynomial[-1]:
        polynomial = polynomial[:-1]
    return polynomial


def _at(polynomial: Sequence[int], place: int) -> int:
    value = 0
    for coefficient in reversed(polynomial):
        value = (value * place + coefficient) % PRIME
    return value


def _minus_root(polynomial: Sequence[int], root: int) -> list[int]:
    """The polynomial times (x - root)."""
    shifted, scaled = [0, *polynomial], [*polynomial, 0]
    return [(a - root * b) % PRIME for a, b in zip(shifted, scaled, strict=True)]


def _minus_product(polynomial: Sequence[int], a: Sequence[int], b: Sequence[int]) -> list[int]:
    """polynomial - a * b."""
    result = [*polynomial, *([0] * max(0, len(a) + len(b) - 1 - len(polynomial)))]
    for place, factor in enumerate(a):
        for offset, other in enumerate(b):
            result[place + offset] = (result[place + offset] - factor * other) % PRIME
    return _trimmed(result)


def _divided(polynomial: Sequence[int], divisor: Sequence[int]) -> tuple[list[int], list[int]]:
    """Quotient and remainder."""
    rest, inverse = list(polynomial), pow(divisor[-1], -1, PRIME)
    quotient = [0] * max(1, len(polynomial) - len(divisor) + 1)
    for place in range(len(polynomial) - len(divisor), -1, -1):
        quotient[place] = factor = rest[place + len(divisor) - 1] * inverse % PRIME
        for offset, coefficient in enumerate(divisor):
            rest[place + offset] = (rest[place + offset] - factor * coefficient) % PRIME
    return _trimmed(quotient), _trimmed(rest[: max(1, len(divisor) - 1)])


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
