"""The popularity count: one user's influence is exactly 1 in L2 norm, and privacy means noise or nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.popularity import count_items
from shared.privacy.plan import PrivacyPlan
from shared.randomness import replayable_source, secret_source

PRIVATE = PrivacyPlan(
    noise_multiplier=1.0, l2_clip_norm=0.5, sampling_rate=0.5, steps_per_round=1, rounds=1, delta=1e-3,
    target_epsilon=8.0, popularity_noise_multiplier=3.0, reproducible=False, public_catalog=True,
)  # fmt: skip
PLAIN = replace(PRIVATE, noise_multiplier=0.0, l2_clip_norm=float("inf"), popularity_noise_multiplier=0.0)
NUM_ITEMS = 30

HISTORY = st.lists(st.integers(0, NUM_ITEMS - 1), max_size=60)


def _count(histories: list[list[int]], plan: PrivacyPlan = PLAIN) -> np.ndarray:
    series = pl.Series(histories, dtype=pl.List(pl.Int32))
    return count_items(series, num_items=NUM_ITEMS, plan=plan, source=replayable_source(0))


@given(st.lists(HISTORY, max_size=5), HISTORY, st.integers(0, 5))
@settings(max_examples=150, deadline=None)
def test_adding_or_removing_one_user_moves_the_count_by_exactly_one_in_l2_norm(
    others: list[list[int]], history: list[int], place: int
) -> None:
    with_user = _count([*others[:place], history, *others[place:]])
    moved = float(np.linalg.norm(with_user.astype(np.float64) - _count(others)))
    assert moved == pytest.approx(1.0 if history else 0.0, abs=1e-6)


def test_repeats_of_an_item_count_once_and_users_add_up() -> None:
    counts = _count([[0, 0, 0, 0], [0, 1, 2, 3, 3], []])
    np.testing.assert_allclose(counts[:5], [1.5, 0.5, 0.5, 0.5, 0.0])
    assert counts.dtype == np.float32
    assert counts.shape == (NUM_ITEMS,)


def test_a_client_without_any_interaction_answers_like_others() -> None:
    np.testing.assert_array_equal(_count([]), np.zeros(NUM_ITEMS))
    np.testing.assert_array_equal(_count([[], []]), np.zeros(NUM_ITEMS))
    assert np.abs(_count([], PRIVATE)).min() > 0


def test_multiplier_zero_under_privacy_releases_zeros() -> None:
    plan = replace(PRIVATE, popularity_noise_multiplier=0.0)
    np.testing.assert_array_equal(_count([[0, 1], [2]], plan), np.zeros(NUM_ITEMS))


def test_every_item_is_noised_and_the_noise_is_new_every_time() -> None:
    histories = pl.Series([[0, 1]], dtype=pl.List(pl.Int32))
    first, second = (count_items(histories, num_items=NUM_ITEMS, plan=PRIVATE, source=secret_source()) for _ in range(2))
    assert (first != second).all()
    assert (first != _count([[0, 1]])).all()
    assert first.dtype == np.float32
