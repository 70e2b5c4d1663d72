"""What was spent is rounded up and what is left down: no text promises more than there is."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.wording import at_least, at_most, factor, significant


@given(st.floats(0, 1e6))
def test_upper_bounds_are_rounded_up_and_what_is_left_down(number: float) -> None:
    up, down = float(at_most(number).replace(",", "")), float(at_least(number).replace(",", ""))
    assert down - 1e-9 <= number <= up + 1e-9
    assert up - down <= 0.01 + 1e-9


@given(st.floats(0.01, 100.0), st.floats(0.01, 100.0))
def test_what_was_spent_and_what_is_left_never_add_up_to_more_than_the_limit(limit: float, spent: float) -> None:
    if spent > limit:
        return
    limit = math.floor(limit * 100) / 100
    left = float(at_least(max(0.0, limit - spent)))
    assert left + spent <= limit + 1e-8 or left == 0.0


@pytest.mark.parametrize(
    ("number", "text"),
    [(2980.96, "2,981"), (1.1052, "1.106"), (54.598, "54.6"), (7.1e10, "7.1e10"), (4.8517e8, "485,200,000")],
)
def test_factors_keep_four_digits_rounded_up(number: float, text: str) -> None:
    assert factor(number) == text


def test_significant_digits_go_the_way_that_does_not_flatter() -> None:
    assert significant(0.12345, up=True, digits=3) == "0.124"
    assert significant(0.12345, up=False, digits=3) == "0.123"
