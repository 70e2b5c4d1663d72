"""What was spent is rounded up and what is left down: no text promises more than there is."""

from __future__ import annotations

import math
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared import wording
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


@pytest.mark.parametrize(
    ("value", "text"),
    [(7.9613, "7.97"), (8.0, "8.00"), (8.0000000000001, "8.00"), (0.001, "0.01"), (1234.5, "1,234.50"),
     (None, "∞"), (math.inf, "∞"), (math.nan, "∞"), (0, "0.00")],
)  # fmt: skip
def test_epsilon_is_rounded_up(value: float | None, text: str) -> None:
    assert wording.epsilon_text(value) == text


@given(st.floats(min_value=0, max_value=1e4))
def test_epsilon_never_reads_smaller_than_it_is(value: float) -> None:
    shown = float(wording.epsilon_text(value).replace(",", ""))
    assert value - 1e-8 <= shown <= value + 0.01 + 1e-8


@pytest.mark.parametrize(
    ("value", "text"),
    [(1e-5, "1e-5"), (2.5e-6, "2.5e-6"), (1.0001e-5, "1.01e-5"), (0.01, "1e-2"), (0, "0"), (None, "–")],
)
def test_delta_is_rounded_up(value: float | None, text: str) -> None:
    assert wording.delta_text(value) == text


@given(st.floats(min_value=1e-12, max_value=0.5))
def test_delta_never_reads_smaller_than_it_is(value: float) -> None:
    assert Decimal(wording.delta_text(value)) >= Decimal(repr(value))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (wording.seconds_text(4.21), "4.2 s"),
        (wording.seconds_text(59.97), "1 min 00 s"),
        (wording.seconds_text(192), "3 min 12 s"),
        (wording.seconds_text(3840), "1 h 04 min"),
        (wording.bytes_text(12), "12 B"),
        (wording.bytes_text(327_680), "328 kB"),
        (wording.bytes_text(1_500_000), "1.5 MB"),
        (wording.signed_text(-0.012), "−0.0120"),
        (wording.interval_text({"low": -0.01, "high": 0.004}), "−0.010 to 0.004"),
        (wording.interval_text({"low": 0.01, "high": None}), ""),
        (wording.p_value_text(0.0004), "p < 0.001"),
        (wording.p_value_text(0.0124), "p = 0.012"),
        (wording.count_text(100_000), "100,000"),
        (wording.metric_text(True), "–"),
    ],
)
def test_numbers_are_written_for_people(text: str, expected: str) -> None:
    assert text == expected


@pytest.mark.parametrize(
    ("value", "up", "text"),
    [
        (0.8679866985642731, False, "0.867986"),
        (0.10604453870625663, True, "0.106045"),
        (8, False, "8"),
        (1000.0, True, "1,000"),
        (2.5e-7, True, "0.00000025"),
        (None, True, "–"),
    ],
)
def test_a_rounded_number_never_flatters(value: float | None, up: bool, text: str) -> None:
    assert wording.rounded_text(value, up=up) == text


@given(st.floats(min_value=1e-6, max_value=1e6))
def test_noise_never_reads_larger_and_a_rate_never_smaller_than_it_is(value: float) -> None:
    down, up = (Decimal(wording.rounded_text(value, up=up).replace(",", "")) for up in (False, True))
    assert down <= Decimal(repr(value)) <= up
