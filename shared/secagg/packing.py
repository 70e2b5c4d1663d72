"""Ring integers on the wire: `bits` bits per value, without padding between values."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# Eight values take whole bytes, `bits` of them. In every group, the value at a given place begins in the same byte
# and at the same bit, and lies within the eight bytes from there. So each place takes one pass over all groups.
_GROUP = 8


def pack(values: NDArray[np.uint32], bits: int) -> bytes:
    """The wire form: `bits` bits a value, least significant first, zeros up to a whole byte.

    Args:
        values: Shape (length,), below 2**bits.
        bits: In [20, 32].
    """
    groups = -(-len(values) // _GROUP)
    octets = np.zeros(groups * bits + _GROUP, dtype=np.uint8)
    for place in range(_GROUP):
        part = values[place::_GROUP].astype(np.uint64)
        _windows(octets, len(part), place, bits)[:] |= part << np.uint64(place * bits % 8)
    return octets[: packed_bytes(len(values), bits)].tobytes()


def unpack(packed: bytes, *, length: int, bits: int) -> NDArray[np.uint32]:
    """The inverse of `pack`; shape (length,). The caller checks that `packed` has `packed_bytes(length, bits)` bytes."""
    octets = np.zeros(-(-length // _GROUP) * bits + _GROUP, dtype=np.uint8)
    octets[: len(packed)] = np.frombuffer(packed, dtype=np.uint8)
    values = np.empty(length, dtype=np.uint32)
    mask = np.uint64((1 << bits) - 1)
    for place in range(_GROUP):
        part = values[place::_GROUP]
        part[:] = _windows(octets, len(part), place, bits) >> np.uint64(place * bits % 8) & mask
    return values


def _windows(octets: NDArray[np.uint8], count: int, place: int, bits: int) -> NDArray[np.uint64]:
    """Eight bytes from where the value at a place begins, for each group: a view, shape (count,)."""
    return np.ndarray((count,), dtype="<u8", buffer=octets, offset=place * bits // 8, strides=(bits,))


def packed_bytes(length: int, bits: int) -> int:
    """Bytes of the wire form."""
    return -(-length * bits // 8)
