"""How long certificates and kits hold, and when to warn.

Times are seconds since 1970, and `now` comes from the caller: a test goes through two years in a moment.

What never lives here: what holds, and who renews it.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from shared.errors import ConfigError

DAY: Final = 86_400
WARNING_DAYS: Final = 30
"""Whoever renews has this long from the first warning on."""
CLOCK_SKEW: Final = 3_600
"""Certificates and kits hold from an hour before they are made, because a node's clock may be late."""
LONGEST_DAYS: Final = 3_650


def verify_days(days: int, *, now: int, ends: int | None = None) -> int:
    """The last second of so many days from now on.

    Args:
        days: As the operator said.
        now: Seconds since 1970.
        ends: When the authority ends, which nothing of its may outlive.

    Raises:
        ConfigError: If that is no time, more than ten years, or longer than the authority lives.
    """
    most = LONGEST_DAYS if ends is None else min(LONGEST_DAYS, (ends - now) // DAY)
    if not 1 <= days <= most:
        reason = "" if most == LONGEST_DAYS else f" The authority ends on {date(ends or 0)}."
        raise ConfigError(f"Expected --days from 1 to {most}, got --days={days}.{reason} Name another number of days.")
    return now + days * DAY


def verify_current(what: str, *, valid_from: int, valid_until: int, now: int, remedy: str) -> None:
    """Passes between two moments.

    Args:
        what: What holds, for the error.
        valid_from: First second.
        valid_until: Last second.
        now: Seconds since 1970.
        remedy: What to do about an expired one.

    Raises:
        ConfigError: Before and after.
    """
    if now < valid_from:
        raise ConfigError(
            f"Expected {what} that holds now, got one that holds from {date(valid_from)} on. Set this machine's clock."
        )
    if now > valid_until:
        raise ConfigError(f"Expected {what} that holds now, got one that expired on {date(valid_until)}. {remedy}")


def expiry_warning(what: str, valid_until: int, *, now: int, remedy: str) -> str | None:
    """The sentence to show from 30 days before the end on; None earlier.

    Args:
        what: What ends, as the beginning of a sentence.
        valid_until: Its last second.
        now: Seconds since 1970.
        remedy: What to do.
    """
    if now > valid_until:
        return f"{what} expired on {date(valid_until)}. {remedy}"
    if valid_until - now > WARNING_DAYS * DAY:
        return None
    days = (valid_until - now) // DAY
    when = "in less than a day" if days == 0 else "in 1 day" if days == 1 else f"in {days} days"
    return f"{what} expires {when}, on {date(valid_until)}. {remedy}"


def date(moment: int) -> str:
    """The day of a moment, in UTC: 2027-01-31."""
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%d")
