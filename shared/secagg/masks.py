"""Masks: a key of 32 bytes, expanded to as many ring integers as an input has.

The stream is AES-256 in counter mode, read as little-endian words of 32 bits and taken modulo 2**bits, so every value is
uniform. It is added in place, modulo 2**32, which 2**bits divides; the ring's modulus is taken once at the end. A part
of the stream stays in the processor's cache between encryption and addition.

Source:
    NIST SP 800-38A (counter mode); Bonawitz et al. 2017, "Practical secure aggregation for privacy-preserving machine
    learning", section 4 (pairwise masks, and a client's own mask).
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
    """The key of a client's own mask, which hides its input even if all its pairwise masks are known; 32 bytes. (private)

    Args:
        seed: 32 bytes that the client drew for this cohort. (private)
        cohort: The cohort that the key is bound to.
        index: The client's own.
    """
    return derive_key(seed, "own mask", context=cohort.digest, sender=index, receiver=index)


def pair_mask_key(secret: bytes, cohort: CohortContext, index: int, other: int) -> bytes:
    """The key of the mask that one of two clients adds and the other subtracts; the same for both, 32 bytes. (private)

    Args:
        secret: What their mask keys agree on. (private)
        cohort: The cohort that the key is bound to.
        index: One client's index.
        other: The other client's index.
    """
    return derive_key(secret, "pair mask", context=cohort.digest, sender=min(index, other), receiver=max(index, other))


def seed_commitment(seed: bytes, cohort: CohortContext, index: int) -> bytes:
    """A client's commitment to the seed of its own mask, 32 bytes. The seed is 32 random bytes, so it stays hidden.

    Args:
        seed: 32 bytes. (private)
        cohort: The cohort that the commitment is bound to.
        index: The client's own.
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
    """Removes the mask that `add_mask` added."""
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
