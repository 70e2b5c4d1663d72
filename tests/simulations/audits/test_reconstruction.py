"""Reconstruction: all of it from plain contributions, chance under the noise of a sum."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from shared.privacy.plan import PrivacyPlan
from simulations.audits.reconstruction import SUMS, reconstruct
from tests.plans import central_plan, distributed_plan, plain_plan, silo_plan

ITEMS = 500


def _shares(plan: PrivacyPlan) -> dict[str, float]:
    return {row.setting: row.recovered / row.of for row in reconstruct(plan, num_items=ITEMS, seed=0)}


@pytest.mark.parametrize("make", [silo_plan, central_plan, distributed_plan, plain_plan])
def test_plain_contributions_and_small_plain_sums_give_all_items_away_whatever_the_mechanism(
    make: Callable[..., PrivacyPlan],
) -> None:
    shares = _shares(make(popularity_noise_multiplier=3.0) if make is not plain_plan else make(statistics="popularity"))
    assert shares["popularity: one contribution, plain"] == 1.0
    assert all(shares[f"popularity: a plain sum of {size}: the union of their items"] == 1.0 for size in SUMS)


@pytest.mark.parametrize("make", [silo_plan, central_plan, distributed_plan])
def test_in_the_noise_of_the_sum_no_more_items_are_found_than_chance_allows(make: Callable[..., PrivacyPlan]) -> None:
    """2,000 items at a chance of 4 %, and a signal of 0.22 in noise of 3 and more: above 6.5 % with probability 1e-5."""
    rows = reconstruct(make(popularity_noise_multiplier=3.0), num_items=ITEMS, seed=0)
    (row,) = [row for row in rows if row.setting.startswith("popularity: one contribution in the sum")]
    assert row.chance == pytest.approx(20 / ITEMS) and row.recovered / row.of < 0.065


def test_what_is_sent_hides_items_in_silos_and_not_under_central_noise() -> None:
    assert _shares(silo_plan(popularity_noise_multiplier=3.0))["popularity: one contribution, as it is sent"] < 0.1
    assert _shares(central_plan(popularity_noise_multiplier=3.0))["popularity: one contribution, as it is sent"] > 0.95


def test_noise_that_is_too_small_gives_items_away() -> None:
    """The negative control: at a thirtieth of the noise most items are found in the sum too."""
    shares = _shares(silo_plan(popularity_noise_multiplier=0.03))
    assert shares["popularity: one contribution in the sum of all, all others known"] > 0.8


def test_a_run_without_popularity_and_a_tiny_catalog_have_nothing_to_reconstruct() -> None:
    assert reconstruct(silo_plan(statistics="", popularity_noise_multiplier=0.0), num_items=ITEMS, seed=0) == ()
    assert reconstruct(silo_plan(), num_items=30, seed=0) == ()
