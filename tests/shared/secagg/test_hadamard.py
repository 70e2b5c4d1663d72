"""The transform against matrices made elsewhere, and the orders it comes in."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.secagg.hadamard import order_for, transform
from tests.oracles import hadamard_matrix

ORDERS = [2**power for power in range(12)] + [24, 40, 88, 144, 240, 400, 528, 880, 1936, 2 * 1936, 96, 640, 800]


@pytest.mark.parametrize("order", ORDERS)
def test_the_transform_is_an_orthonormal_matrix_and_its_own_inverse(order: int) -> None:
    vector = np.random.default_rng(0).normal(size=order)
    before = vector.copy()
    result = transform(vector)
    np.testing.assert_allclose(result, hadamard_matrix(order) @ vector / math.sqrt(order), rtol=0, atol=1e-13)
    np.testing.assert_allclose(transform(result), vector, rtol=0, atol=1e-13)
    np.testing.assert_array_equal(vector, before)


@pytest.mark.parametrize("order", ORDERS)
def test_the_matrix_has_orthogonal_rows_of_signs_and_a_first_row_of_ones(order: int) -> None:
    """Of the matrix made elsewhere: the transform equals it."""
    matrix = hadamard_matrix(order)
    assert set(np.unique(matrix)) <= {-1, 1}
    assert (matrix[0] == 1).all()
    np.testing.assert_array_equal(matrix, matrix.T)
    rows = matrix[:: max(1, order // 200)].astype(np.float64)
    np.testing.assert_array_equal(rows @ matrix.T, order * np.eye(order)[:: max(1, order // 200)])


@pytest.mark.parametrize("order", [16, 64, 144, 256, 400, 1024, 1936])
def test_the_transform_of_whole_numbers_is_exact(order: int) -> None:
    """Sums of up to 2**52, and a whole root; the oracle is in whole numbers."""
    largest = 2**52 // order
    vector = np.random.default_rng(1).integers(-largest, largest, size=order)
    exact = hadamard_matrix(order).astype(np.int64) @ vector
    np.testing.assert_array_equal(transform(vector.astype(np.float64)), exact / math.isqrt(order))


@given(st.integers(1, 2**28))
def test_an_order_is_whole_bytes_and_little_above_its_size(size: int) -> None:
    order = order_for(size)
    assert order % 8 == 0
    assert order == order_for(order)
    if size > 428:
        assert size <= order <= 1.125 * size
    else:
        assert size <= order <= max(8, 2 * size)


def test_orders_of_powers_of_two_stay_what_they_are() -> None:
    assert [order_for(2**power) for power in range(3, 20)] == [2**power for power in range(3, 20)]
    assert order_for(100_000) == 102_400
