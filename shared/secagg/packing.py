"""Ring integers on the wire: as many bits a value as the ring has, and none between them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def pack(values: NDArray[np.uint32], bits: int) -> bytes:
    """The wire form: `bits` bits a value, least significant first, zeros up to a whole byte.

    Args:
        values: Shape (length,), below 2**bits.
        bits: In [20, 32].
    """
    octets = values.astype("<u4", copy=False).view(np.uint8).reshape(-1, 4)
    return np.packbits(np.unpackbits(octets, axis=1, count=bits, bitorder="little"), bitorder="little").tobytes()


def unpack(packed: bytes, *, length: int, bits: int) -> NDArray[np.uint32]:
    """The inverse of `pack`; shape (length,). The caller checks that there are `packed_bytes` bytes."""
    spread = np.zeros((length, 32), dtype=np.uint8)
    flat = np.unpackbits(np.frombuffer(packed, dtype=np.uint8), count=length * bits, bitorder="little")
    spread[:, :bits] = flat.reshape(length, bits)
    return np.packbits(spread, bitorder="little").view("<u4").astype(np.uint32, copy=False)


def packed_bytes(length: int, bits: int) -> int:
    """Bytes of the wire form."""
    return -(-length * bits // 8)
