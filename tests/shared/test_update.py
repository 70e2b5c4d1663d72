"""The vectors that travel: there and back, and nothing but finite float32 of the right size is taken."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from shared.errors import CheckpointError, SensitivityError
from shared.update import RecommenderState, check_update

VECTOR = hnp.arrays(np.float32, st.integers(1, 20), elements=st.floats(width=32, allow_nan=False))


@given(VECTOR, VECTOR)
def test_a_state_comes_back_from_its_vector(prior: np.ndarray, adapter: np.ndarray) -> None:
    vector = RecommenderState(prior, adapter).to_vector()
    assert vector.shape == (len(prior) + len(adapter),)
    back = RecommenderState.from_vector(vector, num_items=len(prior))
    np.testing.assert_array_equal(back.log_prior, prior)
    np.testing.assert_array_equal(back.adapter, adapter)


@pytest.mark.parametrize(
    "vector", [np.zeros(5, np.float32), np.zeros((2, 6), np.float32), np.zeros(9), np.zeros(0, np.float32)]
)
def test_a_vector_that_is_no_state_of_this_catalog_is_refused(vector: np.ndarray) -> None:
    with pytest.raises(CheckpointError, match="Expected a float32 state of more than 5 values, got shape="):
        RecommenderState.from_vector(vector, num_items=5)


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
