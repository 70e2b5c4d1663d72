"""Products with a symmetric Hadamard matrix: entries +1 and -1, rows orthogonal to each other, the first one all +1.

It spreads a vector over all coordinates, and it is its own inverse up to a factor. Powers of two alone would pad a vector to
up to twice its size, in every mask, every message and every value of noise. Hadamard matrices of orders 12, 20 and 44 and
their Kronecker products fill the gaps: from 429 on an order is at most an eighth above the size asked for.

Of whole numbers the product is exact while sums stay below 2**53, so it does not depend on a library's number of threads nor
on the processor.

What never lives here: signs, scale and rounding (`encoding.py`).

Source:
    Paley 1933, "On orthogonal matrices". For a prime q = 3 mod 4, with chi the quadratic character and chi(0) read as -1,
    the matrix of chi(i + j), bordered by +1, is Paley's first one with its rows in another order: that makes it symmetric.
"""

from __future__ import annotations

import functools
import math

import numpy as np
from numpy.typing import NDArray

# A product takes four stages of butterflies in one pass over the memory.
_RADIX = 16
_SYLVESTER = functools.reduce(np.kron, [np.array([[1.0, 1.0], [1.0, -1.0]])] * 4)
# An order is a multiple of it: then a packed vector is whole bytes for every number of bits.
_SMALLEST = 8
# Paley's orders q + 1 by their odd parts, and those of products of two. Further ones gain less than a tenth.
_PALEY = {3: (12,), 5: (20,), 11: (44,), 9: (12, 12), 15: (12, 20), 25: (20, 20), 33: (12, 44), 55: (20, 44), 121: (44, 44)}


@functools.lru_cache(maxsize=256)
def order_for(size: int) -> int:
    """The smallest order D >= size that is known here, a multiple of 8."""
    orders = [_doubled(max(size, _SMALLEST), 1)]
    orders += [_doubled(max(size, _SMALLEST), max(math.prod(factors), _SMALLEST * odd)) for odd, factors in _PALEY.items()]
    return min(orders)


def _doubled(size: int, order: int) -> int:
    while order < size:
        order *= 2
    return order


def transform(vector: NDArray[np.float64]) -> NDArray[np.float64]:
    """The orthonormal transform, which is its own inverse.

    Args:
        vector: Shape (D,), D from `order_for` or a power of two.

    Returns:
        A new array of shape (D,) and equal L2 norm, up to float rounding. Of whole numbers whose magnitudes add up to less
        than 2**53 it is exact up to one last division; of other numbers the last bits may depend on the processor.
    """
    result, _ = multiply(vector.copy(), np.empty_like(vector))
    result /= math.sqrt(len(vector))
    return result


def multiply(values: NDArray[np.float64], spare: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Products with the matrix, shape (..., D); overwrites both arrays, and the first returned is the product."""
    stride = 1
    for factor in _factors(values.shape[-1]):
        matrix = _matrix(factor)
        if stride == 1:
            np.matmul(values.reshape(-1, factor), matrix, out=spare.reshape(-1, factor))
        else:
            shape = (-1, factor, stride)
            np.matmul(matrix, values.reshape(shape), out=spare.reshape(shape))
        values, spare = spare, values
        stride *= factor
    return values, spare


@functools.lru_cache(maxsize=256)
def _factors(order: int) -> tuple[int, ...]:
    """The orders of matrices whose Kronecker product has this order."""
    odd = order // (order & -order)
    factors = () if odd == 1 else _PALEY[odd]
    left = order // math.prod(factors)
    stages = left.bit_length() - 1
    full = (_RADIX,) * (stages // 4)
    return (*full, *((1 << stages % 4,) if stages % 4 or not (full or factors) else ()), *factors)


@functools.cache
def _matrix(order: int) -> NDArray[np.float64]:
    if order.bit_count() == 1:
        return _SYLVESTER[:order, :order]  # its corners are the smaller matrices
    prime = order - 1
    squares = {number * number % prime for number in range(1, prime)}
    matrix = np.ones((order, order))
    for i in range(prime):
        for j in range(prime):
            matrix[i + 1, j + 1] = 1.0 if (i + j) % prime in squares else -1.0
    return matrix
