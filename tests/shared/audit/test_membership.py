"""Rates of an attack against loops, and intervals against repetition."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from shared.audit.membership import area, clopper_pearson, members_found


def test_the_area_is_the_share_of_pairs_in_which_the_member_scores_higher() -> None:
    members, others = np.array([3.0, 1.0, 2.0, 2.0]), np.array([0.0, 2.0, 5.0])
    pairs = [(m > o) + 0.5 * (m == o) for m in members for o in others]
    assert area(members, others).value == pytest.approx(np.mean(pairs))


def test_the_interval_of_the_area_covers_the_truth_and_is_honest_at_the_ends() -> None:
    """Null: normal scores a distance of 1 apart, 300 repetitions at 95 %: P[Bin(300, .05) > 27] = 0.1 %."""
    rng = np.random.default_rng(0)
    truth = float(stats.norm.cdf(1.0 / np.sqrt(2.0)))
    missed = 0
    for _ in range(300):
        found = area(rng.normal(size=60) + 1.0, rng.normal(size=80))
        missed += not found.low <= truth <= found.high
    assert missed <= 27
    perfect = area(np.arange(10) + 100.0, np.arange(10.0))
    assert perfect.value == perfect.high == 1.0 and 0.7 < perfect.low < 1.0
    reverse = area(np.arange(10.0), np.arange(10) + 100.0)
    assert reverse.value == reverse.low == 0.0 and 0.0 < reverse.high < 0.3


def test_a_rate_with_fewer_than_ten_false_alarms_is_not_measurable() -> None:
    members, others = np.arange(500.0), np.arange(999.0)
    assert members_found(members, others, false_alarms=0.01) is None
    assert members_found(members, np.arange(1000.0), false_alarms=0.01) is not None


def test_members_are_counted_above_the_score_that_the_allowed_share_of_others_exceeds() -> None:
    others = np.arange(1000.0)
    found = members_found(np.array([985.0, 989.0, 990.0, 2000.0]), others, false_alarms=0.01)
    assert found is not None and (others > 989.0).sum() == 10
    assert found.value == 0.5
    assert (found.low, found.high) == clopper_pearson(2, 4)


def test_the_interval_of_a_probability_is_exact() -> None:
    low, high = clopper_pearson(3, 20)
    assert stats.binom.sf(2, 20, low) == pytest.approx(0.025) and stats.binom.cdf(3, 20, high) == pytest.approx(0.025)
    assert clopper_pearson(0, 20)[0] == 0.0 and clopper_pearson(20, 20)[1] == 1.0
