"""The level of each test."""

from __future__ import annotations

import pytest

from shared.audit.gate import level_of_each


def test_all_tests_together_are_wrong_with_at_most_five_percent() -> None:
    assert 4 * level_of_each(4) + 7 * level_of_each(7) == pytest.approx(0.05)
    assert level_of_each(0) == level_of_each(1) == 0.025
