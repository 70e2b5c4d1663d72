"""Banded noise: the matrix behind it, built in full, and what skipping, repeating and restarting do to it."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from shared.errors import ConfigError, PrivacyError
from shared.privacy.correlated_noise import BandedNoise, coefficients, column_norm, event_noise_multiplier
from shared.randomness import replayable_source
from tests import rounding

Matrix = NDArray[np.float64]


def _matrix(steps: Sequence[int], bands: int) -> Matrix:
    """C for a sequence of steps, entry by entry; a step that is not later than the one before begins a new block."""
    matrix = np.eye(len(steps))
    block = 0
    for row in range(1, len(steps)):
        if steps[row] <= steps[row - 1]:
            block = row
        for column in range(block, row):
            apart = steps[row] - steps[column]
            if apart < bands:
                matrix[row, column] = math.comb(2 * apart, apart) / 4**apart
    return matrix


def _noise(steps: Sequence[int], bands: int, size: int = 3) -> tuple[Matrix, Matrix]:
    """What the generator gives for each step, and the independent noise that it drew for it."""
    noise = BandedNoise(size, bands=bands, stddev=2.0, source=replayable_source(1, bands))
    given_out = np.array([noise.next(step) for step in steps])
    again = replayable_source(1, bands)
    return given_out, np.array([again.gaussian(size, stddev=2.0) for _ in steps])


@pytest.mark.parametrize("bands", [1, 2, 5, 40])
def test_coefficients_are_the_central_binomials_over_powers_of_four(bands: int) -> None:
    expected = [math.comb(2 * k, k) / 4**k for k in range(bands)]
    np.testing.assert_allclose(coefficients(bands), expected, rtol=1e-12)


@pytest.mark.parametrize("steps", [1, 7, 40])
def test_with_every_band_the_matrix_is_the_square_root_of_prefix_sums(steps: int) -> None:
    matrix = _matrix(range(steps), steps)
    np.testing.assert_allclose(matrix @ matrix, np.tril(np.ones((steps, steps))), atol=1e-12)


@pytest.mark.parametrize("bands", [1, 2, 3, 7, 40])
@pytest.mark.parametrize("steps", [1, 5, 40])
def test_the_column_norm_is_the_largest_of_the_matrix(bands: int, steps: int) -> None:
    longest = np.linalg.norm(_matrix(range(steps), bands), axis=0).max()
    assert column_norm(bands, steps) == pytest.approx(longest, rel=1e-12)


@pytest.mark.parametrize("bands", [1, 3, 7])
def test_columns_at_least_bands_apart_are_orthogonal_and_closer_ones_are_not(bands: int) -> None:
    products = np.abs(_matrix(range(40), bands).T @ _matrix(range(40), bands))
    apart = np.abs(np.subtract.outer(np.arange(40), np.arange(40)))
    assert products[apart >= bands].max() == 0
    assert products[apart < bands].min() > 0


@pytest.mark.parametrize("bands", [1, 4, 6])
def test_k_separated_participations_cost_k_gaussian_events_exactly(bands: int) -> None:
    """A user moves C G by a matrix of norm column_norm * sqrt(k): noise over that is the multiplier of all k events."""
    steps, dimensions = 30, 5
    matrix = _matrix(range(steps), bands)
    rng = np.random.default_rng(0)
    for k in (1, 2, 4):
        gradients = np.zeros((steps, dimensions))
        # Early enough that no column is cut off at the end.
        for step in range(0, k * bands, bands):
            direction = rng.normal(size=dimensions)
            gradients[step] = direction / np.linalg.norm(direction)
        multiplier = 1.7 / np.linalg.norm(matrix @ gradients)
        assert multiplier == pytest.approx(event_noise_multiplier(1.7, bands, steps) / math.sqrt(k), rel=1e-12)


@pytest.mark.parametrize("bands", [1, 2, 5, 12])
def test_noise_is_the_inverse_of_the_matrix_times_independent_noise(bands: int) -> None:
    steps = 12
    given_out, fresh = _noise(range(steps), bands)
    expected = np.linalg.solve(_matrix(range(steps), bands), fresh)
    rounding.assert_close(given_out, expected, within=rounding.rounding(sums=steps, length=bands))
    # In the prefix sums it is B z with B C = A.
    sums = np.tril(np.ones((steps, steps)))
    left = sums @ np.linalg.inv(_matrix(range(steps), bands))
    np.testing.assert_allclose(left @ _matrix(range(steps), bands), sums, atol=1e-12)
    rounding.assert_close(np.cumsum(given_out, axis=0), left @ fresh, within=rounding.rounding(sums=2 * steps, length=bands))


def test_one_band_is_independent_noise() -> None:
    given_out, fresh = _noise(range(6), 1)
    np.testing.assert_array_equal(given_out, fresh)


def test_steps_are_numbered_by_themselves_when_no_number_is_given() -> None:
    noise = BandedNoise(4, bands=3, stddev=2.0, source=replayable_source(1, 3))
    np.testing.assert_array_equal(np.array([noise.next() for _ in range(8)]), _noise(range(8), 3, size=4)[0])


@given(
    steps=st.lists(st.integers(0, 30), min_size=1, max_size=25),
    bands=st.integers(1, 8),
)
def test_skipped_and_repeated_steps_lengthen_no_column_and_let_no_separated_columns_meet(
    steps: list[int], bands: int
) -> None:
    matrix = _matrix(steps, bands)
    given_out, fresh = _noise(steps, bands)
    rounding.assert_close(matrix @ given_out, fresh, within=rounding.rounding(sums=len(steps), length=bands))
    assert np.linalg.norm(matrix, axis=0).max() <= column_norm(bands, 31) * (1 + 1e-12)
    for first, one in enumerate(steps):
        for second, other in enumerate(steps):
            # The second time a step is asked for counts as another participation, which must not meet the first.
            if first != second and (abs(one - other) >= bands or one == other):
                assert matrix[:, first] @ matrix[:, second] == 0


@pytest.mark.parametrize("begun_again_at", [1, 4, 9])
def test_a_restart_is_a_block_of_its_own(begun_again_at: int) -> None:
    bands, steps, size = 4, 12, 3
    source = replayable_source(1, bands)
    given_out = []
    noise = BandedNoise(size, bands=bands, stddev=2.0, source=source)
    for step in range(steps):
        if step == begun_again_at:
            noise = BandedNoise(size, bands=bands, stddev=2.0, source=source)
        given_out.append(noise.next(step))
    matrix = _matrix(range(steps), bands)
    whole = matrix.copy()
    matrix[begun_again_at:, :begun_again_at] = 0.0
    fresh = _noise(range(steps), bands)[1]
    rounding.assert_close(matrix @ np.array(given_out), fresh, within=rounding.rounding(sums=steps, length=bands))
    assert (np.linalg.norm(matrix, axis=0) <= np.linalg.norm(whole, axis=0)).all()
    products = matrix.T @ matrix
    apart = np.abs(np.subtract.outer(np.arange(steps), np.arange(steps)))
    assert np.abs(products[apart >= bands]).max() == 0


def test_correlated_noise_is_never_saved_copied_or_sent() -> None:
    noise = BandedNoise(4, bands=3, stddev=1.0, source=replayable_source(1))
    noise.next()
    for attempt in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(PrivacyError, match="Correlated noise cannot be saved, copied or sent"):
            attempt(noise)


def test_bands_steps_and_stddev_out_of_range_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"Expected bands >= 1, got bands=0\."):
        coefficients(0)
    with pytest.raises(ConfigError, match=r"Expected bands >= 1, got bands=0\."):
        column_norm(0, 5)
    with pytest.raises(ConfigError, match=r"Expected steps >= 1, got steps=0\."):
        column_norm(3, 0)
    for stddev in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match=f"Expected stddev >= 0 and finite, got stddev={stddev}"):
            BandedNoise(4, bands=2, stddev=stddev, source=replayable_source(1))


@pytest.mark.parametrize(("steps", "separation"), [(40, 4), (100, 10), (300, 60)])
def test_correlated_noise_beats_independent_noise_of_equal_cost_over_many_steps(steps: int, separation: int) -> None:
    """Root mean squared error of the prefix sums, exact, both at the same cost for the same participations."""

    def error(bands: int) -> float:
        sums = np.tril(np.ones((steps, steps)))
        left = sums @ np.linalg.inv(_matrix(range(steps), bands))
        return float(np.sqrt(np.square(left).sum() / steps) * column_norm(bands, steps))

    assert error(separation) < 0.65 * error(1)
    # Five participations of one Gaussian multiplier in all.
    if steps == 300:
        assert error(1) * math.sqrt(5) == pytest.approx(27.43, abs=0.01)
        assert error(60) * math.sqrt(5) == pytest.approx(6.58, abs=0.01)
