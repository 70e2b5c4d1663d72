"""Numbers as text, rounded so that no promise reads stronger than it is: what was spent up, what is left down.

A refusal that compares two rounded numbers must not contradict itself, so both sides of it are written here. What never
lives here: words around the numbers.
"""

from __future__ import annotations

from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal

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


def _fixed(number: float, decimals: int, rounding: str) -> str:
    exact = Decimal(repr(round(number, _NOISE_DIGITS)))
    return f"{exact.quantize(Decimal(1).scaleb(-decimals), rounding=rounding, context=Context(prec=400)):,}"


def _significant(number: float, *, up: bool, digits: int) -> Decimal:
    context = Context(prec=digits, rounding=ROUND_CEILING if up else ROUND_FLOOR)
    return context.create_decimal(Decimal(repr(number)))
