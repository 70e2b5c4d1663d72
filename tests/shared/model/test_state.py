"""The vectors that travel: there and back, finite float32 of the right size only, and bounded by clipping."""

from __future__ import annotations

import math
import warnings
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from shared.errors import CheckpointError, ConfigError, SensitivityError
from shared.model.state import RecommenderState, check_update, clip_rows

VECTOR = hnp.arrays(np.float32, st.integers(1, 20), elements=st.floats(width=32, allow_nan=False))


def _clip(update: NDArray[np.float32], *, l2_clip_norm: float) -> NDArray[np.float32]:
    """One update of any shape, as one row."""
    return clip_rows(update.reshape(1, -1), l2_clip_norm=l2_clip_norm).reshape(update.shape)


@given(VECTOR, VECTOR)
def test_a_state_comes_back_from_its_vector(prior: np.ndarray, adapter: np.ndarray) -> None:
    vector = RecommenderState(prior, adapter).to_vector()
    assert vector.shape == (len(prior) + len(adapter),)
    back = RecommenderState.from_vector(vector, num_items=len(prior), adapter_size=len(adapter))
    np.testing.assert_array_equal(back.log_prior, prior)
    np.testing.assert_array_equal(back.adapter, adapter)
    assert len(back.residual) == len(back.statistics) == 0


@given(VECTOR, VECTOR, VECTOR, VECTOR)
def test_a_state_with_residual_and_statistics_comes_back_from_its_vector(
    prior: np.ndarray, adapter: np.ndarray, residual: np.ndarray, statistics: np.ndarray
) -> None:
    vector = RecommenderState(prior, adapter, residual, statistics).to_vector()
    sizes = {"num_items": len(prior), "adapter_size": len(adapter), "residual_size": len(residual)}
    back = RecommenderState.from_vector(vector, **sizes)
    for found, sent in zip(vars(back).values(), (prior, adapter, residual, statistics), strict=True):
        np.testing.assert_array_equal(found, sent)


@pytest.mark.parametrize(
    "vector", [np.zeros(7, np.float32), np.zeros((2, 8), np.float32), np.zeros(9), np.zeros(0, np.float32)]
)
def test_a_vector_that_is_no_state_of_this_catalog_is_refused(vector: np.ndarray) -> None:
    with pytest.raises(CheckpointError, match="Expected a float32 state of at least 8 values, got shape="):
        RecommenderState.from_vector(vector, num_items=5, adapter_size=2, residual_size=1)


@given(hnp.arrays(np.float32, 7, elements=st.floats(width=32)))
def test_an_update_is_taken_as_it_is_or_refused_if_not_finite(update: np.ndarray) -> None:
    if np.isfinite(update).all():
        assert check_update(update, size=7) is update
    else:
        with pytest.raises(SensitivityError, match="Expected a finite update, got NaN or infinity"):
            check_update(update, size=7)


@pytest.mark.parametrize("update", [np.zeros(6, np.float32), np.zeros((7, 1), np.float32), np.zeros(7)])
def test_an_update_of_another_shape_or_type_is_refused(update: np.ndarray) -> None:
    with pytest.raises(SensitivityError, match=r"Expected an update of 7 float32 values, got shape=\(.*\), dtype=float"):
        check_update(update, size=7)


ANY_FLOAT = st.floats(width=32) | st.sampled_from([0.0, 1.0, -3.4e38, 3.4e38, 1e-45, np.nan, np.inf, -np.inf])
ANY_UPDATE = hnp.arrays(np.float32, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=6), elements=ANY_FLOAT)
ANY_ROWS = hnp.arrays(np.float32, hnp.array_shapes(min_dims=2, max_dims=2, min_side=0, max_side=6), elements=ANY_FLOAT)
BOUND = st.floats(1e-50, 1e45) | st.sampled_from([0.1, 1.0, 1e-45, 3.4e38])


def _squared_norm(values: np.ndarray) -> Fraction:
    """Exact, one value after the other."""
    return sum((Fraction(float(value)) ** 2 for value in values.reshape(-1)), Fraction(0))


def _is_within(clipped: np.ndarray, bound: float) -> bool:
    return _squared_norm(clipped) <= (Fraction(bound) * (1 + Fraction(1, 2**22))) ** 2


def _assert_scaled_to(clipped: np.ndarray, update: np.ndarray, bound: float) -> None:
    """Zeros for what is not finite, itself for what is within the bound, and the same direction for what is not."""
    if not np.isfinite(update).all():
        np.testing.assert_array_equal(clipped, np.zeros_like(update))
        return
    norm = math.hypot(*map(float, update.reshape(-1)))
    if norm <= bound * (1 - 1e-12):
        np.testing.assert_array_equal(clipped, update)
    elif norm > bound * (1 + 1e-12):
        # One part in 2**23 of each value, or the smallest float32 where that is coarser.
        expected = update.astype(np.float64) * (bound / norm)
        np.testing.assert_allclose(clipped, expected, rtol=2.0**-23, atol=1.5e-45)


@given(ANY_UPDATE, BOUND)
def test_clip_bounds_the_norm_for_every_shape_and_every_value(update: np.ndarray, bound: float) -> None:
    clipped = _clip(update, l2_clip_norm=bound)
    assert clipped.shape == update.shape
    assert clipped.dtype == np.float32
    assert _is_within(clipped, bound)


@given(ANY_UPDATE, BOUND)
def test_clip_leaves_alone_what_is_within_the_bound_and_scales_what_is_not(update: np.ndarray, bound: float) -> None:
    _assert_scaled_to(_clip(update, l2_clip_norm=bound), update, bound)


@given(ANY_ROWS, BOUND)
def test_clip_rows_bounds_the_norm_of_every_row_for_every_value(updates: np.ndarray, bound: float) -> None:
    clipped = clip_rows(updates, l2_clip_norm=bound)
    assert clipped.shape == updates.shape
    assert clipped.dtype == np.float32
    assert all(_is_within(row, bound) for row in clipped)


@given(ANY_ROWS, BOUND)
def test_clip_rows_scales_each_row_by_its_own_norm_whatever_the_others_are(updates: np.ndarray, bound: float) -> None:
    before = updates.copy()
    clipped = clip_rows(updates, l2_clip_norm=bound)
    for row, update in zip(clipped, updates, strict=True):
        _assert_scaled_to(row, update, bound)
        np.testing.assert_array_equal(row, _clip(update, l2_clip_norm=bound))
    np.testing.assert_array_equal(updates, before)


def test_clip_says_nothing_about_any_value() -> None:
    """A signaling NaN, which numpy itself warns about when it is converted, infinity, and the ends of float32's range."""
    signaling = np.array([0x7F800001, 0xFF800001], dtype=np.uint32).view(np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for update in (signaling, np.float32([np.inf, -np.inf]), np.float32([3.4e38, 1e-45])):
            for bound in (1e-44, 1.0, 1e300):
                assert _is_within(_clip(update, l2_clip_norm=bound), bound)


@pytest.mark.parametrize("shape", [(), (1,), (7,), (2, 3)])
@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
def test_clip_turns_an_update_with_nan_or_infinity_into_zeros(shape: tuple[int, ...], poison: float) -> None:
    update = np.ones(shape, dtype=np.float32)
    update[(0,) * len(shape)] = poison
    np.testing.assert_array_equal(_clip(update, l2_clip_norm=0.5), np.zeros(shape))


def test_clip_sees_norms_beyond_float32() -> None:
    update = np.full(131_072, 3.4e38, dtype=np.float32)
    norm = np.linalg.norm(_clip(update, l2_clip_norm=0.1).astype(np.float64))
    assert 0.1 * (1 - 2.0**-22) < norm <= 0.1 * (1 + 2.0**-22)


def test_clip_gives_a_new_array() -> None:
    for bound in (0.5, 10.0):
        update = np.ones((1, 3), dtype=np.float32)
        _clip(update, l2_clip_norm=bound)[:] = 7.0
        clip_rows(update, l2_clip_norm=bound)[:] = 7.0
        np.testing.assert_array_equal(update, np.ones((1, 3)))


def test_clip_rows_takes_rows_of_any_layout_in_memory() -> None:
    updates = np.random.default_rng(0).normal(size=(5, 12)).astype(np.float32)
    expected = clip_rows(updates, l2_clip_norm=1.0)
    np.testing.assert_array_equal(clip_rows(np.asfortranarray(updates), l2_clip_norm=1.0), expected)
    np.testing.assert_array_equal(clip_rows(np.repeat(updates, 2, axis=1)[:, ::2], l2_clip_norm=1.0), expected)


@pytest.mark.parametrize("bound", [0.0, -1.0, math.inf, math.nan])
def test_clip_refuses_a_bound_that_is_none(bound: float) -> None:
    with pytest.raises(ConfigError, match=f"Expected l2_clip_norm > 0 and finite, got l2_clip_norm={bound}"):
        _clip(np.ones(3, dtype=np.float32), l2_clip_norm=bound)
