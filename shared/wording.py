"""Numbers as text, for every page, table, message and card.

What was spent is rounded up, what is left is rounded down, so that no promise reads stronger than it is. A refusal that
compares two rounded numbers must not contradict itself, so both sides of it are written here. So are the words that belong
to a number wherever it stands: which epsilon limits hold for, and how long a run trains. What never lives here: other words
around the numbers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal
from typing import Any, Final

MISSING: Final = "–"
"""What stands where there is no number."""

WITHOUT_AMPLIFICATION: Final = "without amplification"
"""Of an epsilon: it counts no sampling as a secret, so it holds against somebody who knows who took part."""

# Below this an excess is rounding noise of the accountant.
_NOISE_DIGITS = 9


def at_most(number: float, *, decimals: int = 2) -> str:
    """An upper bound, such as an epsilon, rounded up: 7.9912 -> 8.00; an excess below 1e-9 does not count."""
    return _fixed(number, decimals, ROUND_CEILING)


def at_least(number: float, *, decimals: int = 2) -> str:
    """A lower bound, such as what is left of a budget, rounded down: 0.0199 -> 0.01; less than 1e-9 does not count."""
    return _fixed(number, decimals, ROUND_FLOOR)


def significant(number: float, *, up: bool, digits: int) -> str:
    """A number with so many significant digits, thousands separated, e.g. 2980.96 -> 2,981 (up, 4 digits)."""
    return f"{_significant(number, up=up, digits=digits).normalize():,f}"


def factor(number: float) -> str:
    """A factor of a bound, rounded up to four digits: 2,981, or 4.852e8 where nobody would count the digits."""
    up = _significant(number, up=True, digits=4).normalize()
    if up.adjusted() < 9:
        return f"{up:,f}"
    digits = "".join(map(str, up.as_tuple().digits))
    return f"{digits[0]}{'.' + digits[1:] if digits[1:] else ''}e{up.adjusted()}"


def finite(value: object) -> float | None:
    """Returns a finite number as float, and None for null, NaN, infinity and everything else.

    Args:
        value: What there is at some place.

    Returns:
        The number, or None where there is nothing to draw or print.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def metric_text(value: object, digits: int = 4) -> str:
    """Writes a metric with a fixed number of decimals.

    Args:
        value: The metric, or nothing.
        digits: Decimals, >= 0.

    Returns:
        For example `0.0847`, or `MISSING`.
    """
    number = finite(value)
    return MISSING if number is None else f"{number:.{digits}f}"


def signed_text(value: object, digits: int = 4) -> str:
    """Writes a difference with its sign, the minus as the real minus sign.

    Args:
        value: The difference, or nothing.
        digits: Decimals, >= 0.

    Returns:
        For example `+0.0120` or `−0.0120`, or `MISSING`.
    """
    number = finite(value)
    return MISSING if number is None else f"{number:+.{digits}f}".replace("-", "−")


def interval_text(estimate: Mapping[str, Any], digits: int = 3) -> str:
    """Writes the 95 % interval of an estimate.

    Args:
        estimate: Holds `low` and `high`.
        digits: Decimals, >= 0.

    Returns:
        For example `0.074–0.096` (`−0.010 to 0.004` with negative ends), or the empty string.
    """
    low, high = finite(estimate.get("low")), finite(estimate.get("high"))
    if low is None or high is None:
        return ""
    if low < 0 or high < 0:
        return f"{low:.{digits}f} to {high:.{digits}f}".replace("-", "−")
    return f"{low:.{digits}f}–{high:.{digits}f}"


def percent_text(share: object, digits: int = 1) -> str:
    """Writes a share as a percentage.

    Args:
        share: In [0, 1] as a rule, or nothing.
        digits: Decimals, >= 0.

    Returns:
        For example `13.7 %`, or `MISSING`.
    """
    number = finite(share)
    return MISSING if number is None else f"{100 * number:.{digits}f} %"


def count_text(value: object) -> str:
    """Writes a count with thousands separated.

    Args:
        value: The count, or nothing.

    Returns:
        For example `100,000`, or `MISSING`.
    """
    number = finite(value)
    return MISSING if number is None else f"{number:,.0f}"


def rounds_text(rounds: int) -> str:
    """Writes how long a run trains.

    Args:
        rounds: Rounds of training, >= 0.

    Returns:
        For example `20 rounds`, `1 round`, or `statistics alone` for a run without training.
    """
    return "statistics alone" if not rounds else f"{rounds:,} round{'' if rounds == 1 else 's'}"


def seconds_text(value: object) -> str:
    """Writes a duration in the unit a person would choose.

    Args:
        value: Seconds, or nothing.

    Returns:
        For example `4.2 s`, `3 min 12 s`, `1 h 04 min`, or `MISSING`.
    """
    number = finite(value)
    if number is None:
        return MISSING
    if number < 59.95:
        return f"{number:.1f} s"
    whole = round(number)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def bytes_text(value: object) -> str:
    """Writes a size in decimal units.

    Args:
        value: Bytes, or nothing.

    Returns:
        For example `328 kB`, or `MISSING`.
    """
    number = finite(value)
    if number is None:
        return MISSING
    for unit in ("B", "kB", "MB", "GB"):
        if abs(number) < 1000 or unit == "GB":
            break
        number /= 1000
    return f"{number:.0f} {unit}" if unit == "B" or number >= 100 else f"{number:.1f} {unit}"


def epsilon_text(value: object) -> str:
    """Writes an epsilon, rounded up to two decimals so that no claim reads stronger than it is.

    Args:
        value: Epsilon; null stands for infinity.

    Returns:
        For example `6.54`, or `∞`. Excess below 1e-9 counts as rounding noise of the accountant.
    """
    number = finite(value)
    return "∞" if number is None else at_most(number)


def asked_text(value: object) -> str:
    """Writes an epsilon that was asked for as it was given, no digit lost: it is a setting and no result.

    Args:
        value: Epsilon; null stands for infinity.

    Returns:
        For example `8`, `0.5` or `∞`.
    """
    number = finite(value)
    if number is None:
        return "∞"
    short = f"{number:g}"
    return short if float(short) == number else repr(number)


def delta_text(value: object) -> str:
    """Writes a delta, rounded up to three significant digits.

    Args:
        value: Delta in [0, 1), or nothing.

    Returns:
        For example `1e-5` or `2.51e-6`, or `MISSING`.
    """
    number = finite(value)
    if number is None:
        return MISSING
    if number == 0:
        return "0"
    up = Context(prec=3, rounding=ROUND_CEILING).create_decimal(Decimal(repr(number))).normalize()
    digits = "".join(map(str, up.as_tuple().digits))
    mantissa = digits[0] + ("." + digits[1:] if digits[1:] else "")
    return f"{mantissa}e{up.adjusted()}"


def rounded_text(value: object, *, up: bool, digits: int = 6) -> str:
    """Writes a number rounded in the direction that does not flatter.

    Args:
        value: The number, or nothing.
        up: Upward, for example a sampling rate; downward, for example a noise multiplier.
        digits: Significant digits, >= 1.

    Returns:
        For example `0.106045`, or `MISSING`.
    """
    number = finite(value)
    if number is None:
        return MISSING
    return significant(number, up=up, digits=digits)


def p_value_text(value: object) -> str:
    """Writes a p-value.

    Args:
        value: In [0, 1], or nothing.

    Returns:
        For example `p = 0.012` or `p < 0.001`, or the empty string.
    """
    number = finite(value)
    if number is None:
        return ""
    return "p < 0.001" if number < 0.001 else f"p = {number:.3f}"


def _fixed(number: float, decimals: int, rounding: str) -> str:
    exact = Decimal(repr(round(number, _NOISE_DIGITS)))
    return f"{exact.quantize(Decimal(1).scaleb(-decimals), rounding=rounding, context=Context(prec=400)):,}"


def _significant(number: float, *, up: bool, digits: int) -> Decimal:
    context = Context(prec=digits, rounding=ROUND_CEILING if up else ROUND_FLOOR)
    return context.create_decimal(Decimal(repr(number)))
