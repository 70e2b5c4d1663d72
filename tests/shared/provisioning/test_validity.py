"""Validity: first and last second, warnings over two years of clock."""

from __future__ import annotations

import pytest

from shared.errors import ConfigError
from shared.provisioning.validity import DAY, date, expiry_warning, verify_current, verify_days

NOW = 1_800_000_000


def test_days_are_counted_from_now_and_end_with_the_authority() -> None:
    assert verify_days(1, now=NOW) == NOW + DAY
    assert verify_days(3650, now=NOW) == NOW + 3650 * DAY
    assert verify_days(10, now=NOW, ends=NOW + 10 * DAY) == NOW + 10 * DAY
    for days in (0, -1, 3651):
        with pytest.raises(ConfigError, match=f"Expected --days from 1 to 3650, got --days={days}"):
            verify_days(days, now=NOW)
    with pytest.raises(ConfigError, match=r"from 1 to 10, got --days=11\. The authority ends on 2027-01-26\."):
        verify_days(11, now=NOW, ends=NOW + 11 * DAY - 1)


def test_the_first_and_the_last_second_count_and_no_other() -> None:
    def passes(now: int) -> None:
        verify_current("a kit", valid_from=NOW, valid_until=NOW + DAY, now=now, remedy="Renew it.")

    passes(NOW)
    passes(NOW + DAY)
    with pytest.raises(ConfigError, match=r"holds from 2027-01-15 on\. Set this machine's clock"):
        passes(NOW - 1)
    with pytest.raises(ConfigError, match=r"expired on 2027-01-16\. Renew it\."):
        passes(NOW + DAY + 1)


def test_a_warning_comes_thirty_days_before_the_end_and_stays() -> None:
    """Every hour of two years."""
    until = NOW + 365 * DAY
    said = [
        expiry_warning("The kit", until, now=now, remedy="Renew it.") for now in range(NOW, NOW + 2 * 365 * DAY + 1, 3600)
    ]
    first = next(number for number, text in enumerate(said) if text)
    assert first * 3600 == 335 * DAY
    assert not any(said[:first]) and all(said[first:])
    assert said[first] == f"The kit expires in 30 days, on {date(until)}. Renew it."
    assert said[365 * 24 - 30] == f"The kit expires in 1 day, on {date(until)}. Renew it."
    assert said[365 * 24] == f"The kit expires in less than a day, on {date(until)}. Renew it."
    assert said[365 * 24 + 1] == said[-1] == f"The kit expired on {date(until)}. Renew it."
