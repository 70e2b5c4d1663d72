"""Masks: a secret of 32 bytes, expanded to as many ring integers as an input has.

The stream is AES-256 in counter mode, read as little-endian words of 32 bits and taken modulo 2**bits, so every value is
uniform. It is added in place, modulo 2**32, of which 2**bits is a divisor; the ring's modulus is taken once at the end. A
part of the stream stays in the processor's cache between encryption and addition.

Source:
    NIST SP 800-38A (counter mode); Bonawitz et al. 2017, "Practical secure aggregation for privacy-preserving machine
    learning", section 4 (masks of pairs, and of one's own).
"""

from __future__ import annotations

import struct

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CTR
from numpy.typing import NDArray

from shared.secagg.context import CohortContext, digest
from shared.secagg.keys import derive_key

# Words of a part: 128 kB, in a second-level cache with the values it is added to.
_PART = 2**15
_ZEROS = memoryview(bytes(4 * _PART))


def own_mask_key(seed: bytes, cohort: CohortContext, index: int) -> bytes:
    """The key of a client's own mask, which hides its input if everybody else is known; 32 bytes. (private)

    Args:
        seed: 32 bytes that the client drew for this cohort. (private)
        cohort: What it is bound to.
        index: Of the client.
    """
    return derive_key(seed, "own mask", context=cohort.digest, sender=index, receiver=index)


def pair_mask_key(secret: bytes, cohort: CohortContext, index: int, other: int) -> bytes:
    """The key of the mask that one of two clients adds and the other subtracts; the same for both, 32 bytes. (private)

    Args:
        secret: Of their mask keys' agreement. (private)
        cohort: What it is bound to.
        index: Of the one.
        other: Of the other.
    """
    return derive_key(secret, "pair mask", context=cohort.digest, sender=min(index, other), receiver=max(index, other))


def seed_commitment(seed: bytes, cohort: CohortContext, index: int) -> bytes:
    """What a client commits to its own mask's seed with, 32 bytes; the seed's 32 random bytes hide it.

    Args:
        seed: 32 bytes. (private)
        cohort: What it is bound to.
        index: Of the client.
    """
    return digest("seed", cohort.digest, struct.pack(">I", index), seed)


def add_mask(total: NDArray[np.uint32], key: bytes) -> None:
    """Adds the mask of a key, in place and modulo 2**32.

    Args:
        total: Shape (length,). (private)
        key: 32 bytes, used for this mask only. (private)
    """
    _combine(np.add, total, key)


def subtract_mask(total: NDArray[np.uint32], key: bytes) -> None:
    """Takes away what `add_mask` added."""
    _combine(np.subtract, total, key)


def _combine(operation: np.ufunc, total: NDArray[np.uint32], key: bytes) -> None:
    # A key has one mask, so a counter that starts at zero never repeats under it.
    stream = Cipher(AES256(key), CTR(bytes(16))).encryptor()
    words = np.empty(min(_PART, len(total)), dtype="<u4")
    octets = words.view(np.uint8).data
    for start in range(0, len(total), _PART):
        part = total[start : start + _PART]
        stream.update_into(_ZEROS[: 4 * len(part)], octets)
        operation(part, words[: len(part)], out=part)
