"""Ring integers on the wire."""

from __future__ import annotations

import numpy as np
import pytest

from shared.secagg.packing import pack, packed_bytes, unpack


@pytest.mark.parametrize("bits", [20, 21, 27, 32])
@pytest.mark.parametrize("length", [1, 7, 8, 1001])
def test_unpack_is_the_inverse_of_pack(length: int, bits: int) -> None:
    values = np.random.default_rng(bits).integers(0, 2**bits, length, dtype=np.uint32)
    packed = pack(values, bits)
    assert len(packed) == packed_bytes(length, bits) == (length * bits + 7) // 8
    number = sum(int(value) << bits * place for place, value in enumerate(values))
    assert int.from_bytes(packed, "little") == number
    assert unpack(packed, length=length, bits=bits).tolist() == values.tolist()
