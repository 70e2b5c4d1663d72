"""Ring integers on the wire."""

from __future__ import annotations

import numpy as np
import pytest

from shared.secagg.encoding import RingEncoding
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


def test_packed_values_are_those_of_the_encoding() -> None:
    encoding = RingEncoding.choose(size=50, l2_bound=1.0, noise_multiplier=1.0, num_summands=3, seed=0)
    values = np.random.default_rng(0).integers(0, 2**encoding.bits, encoding.dimension, dtype=np.uint32)
    assert pack(values, encoding.bits) == encoding.pack(values).tobytes()
