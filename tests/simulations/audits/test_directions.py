"""Directions of canaries: at right angles, of length 1, and what weights make of them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.statistics.sparse import SparseRows
from simulations.audits.directions import Directions, Frame, Weighted


@given(st.integers(1, 300), st.integers(1, 60), st.integers(0, 5))
def test_directions_of_a_frame_have_length_1_and_are_at_right_angles(size: int, canaries: int, seed: int) -> None:
    frame = Frame.of(size, canaries, seed=seed)
    rows = frame.rows.toarray()
    assert rows.shape == (canaries, size) and 1 <= frame.number <= max(1, size // 2)
    expected = np.diag((np.arange(canaries) < frame.number).astype(float))
    np.testing.assert_allclose(rows @ rows.T, expected, atol=1e-12)
    np.testing.assert_array_equal(frame.dense(0), rows[0])
    np.testing.assert_allclose(frame.along(rows[0]), expected[0], atol=1e-12)


def test_another_seed_gives_other_directions() -> None:
    one, other = (Frame.of(100, 10, seed=seed).dense(3) for seed in (0, 1))
    assert abs(one @ other) < 0.6 and not np.array_equal(one, other)


@pytest.mark.parametrize("beside", [None, -0.3])
def test_weighted_directions_are_read_as_the_vectors_that_they_are(beside: float | None) -> None:
    frame, rng = Frame.of(40, 30, seed=2), np.random.default_rng(3)
    weights = rng.normal(size=30)
    found = Weighted(frame, weights, beside)
    vectors = frame.rows.toarray() * weights[:, None]
    if beside is not None:
        has = frame.has(np.arange(30))
        vectors = np.hstack([vectors, (beside * weights * has)[:, None]])
    same = Directions(vectors)
    np.testing.assert_allclose(found.rows.toarray(), same.rows, atol=1e-12)
    np.testing.assert_allclose(found.gram, vectors @ vectors.T, atol=1e-12)
    np.testing.assert_allclose(found.norms, np.linalg.norm(vectors, axis=1), atol=1e-12)


def test_sparse_vectors_have_the_products_of_dense_ones() -> None:
    dense = np.array([[1.0, 0.0, 2.0], [0.0, 3.0, 0.0]])
    sparse = Directions(SparseRows(3, np.array([0, 2, 3]), np.array([0, 2, 1]), np.array([1.0, 2.0, 3.0])))
    np.testing.assert_allclose(sparse.gram, dense @ dense.T)
    np.testing.assert_allclose(sparse.norms, np.linalg.norm(dense, axis=1))


def test_vectors_that_are_known_share_their_products_and_others_do_not() -> None:
    vectors = np.random.default_rng(0).normal(size=(5, 30))
    first = Directions(vectors)
    assert Directions(vectors.copy()).sharing(first.known).gram is first.gram
    changed = vectors.copy()
    changed[3, 7] += 1e-6
    for other in (changed, vectors[:4], vectors[:, :20]):
        found = Directions(other).sharing(first.known)
        np.testing.assert_allclose(found.gram, other @ other.T, rtol=1e-5, atol=1e-5)
