"""What charts are drawn of: lines, rectangles, escaped text, ticks of an axis, labels that keep a distance.

Never here: what a chart shows (`charts.py`), colors, or a reference that a browser loads.
"""

import math
from collections.abc import Sequence
from typing import TypeVar

from markupsafe import Markup, escape

_Item = TypeVar("_Item")


def ticks(low: float, high: float, *, at_most: int, whole: bool = False) -> list[float]:
    """Chooses round tick positions inside a range.

    Args:
        low: Lower end, finite.
        high: Upper end, finite, >= low.
        at_most: Number of ticks not to pass, >= 2.
        whole: Ticks are integers.

    Returns:
        Ascending multiples of 1, 2 or 5 times a power of ten in [low, high], at most `at_most`.
    """
    span = high - low
    if span <= 0:
        return [low]
    exponent = math.floor(math.log10(span)) - 2
    while True:
        for factor in (1, 2, 5):
            step = factor * 10.0**exponent
            if whole and step < 1:
                continue
            first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
            if last - first + 1 <= at_most:
                return [position * step for position in range(first, last + 1)]
        exponent += 1


def spread(positions: Sequence[float], *, gap: float, low: float, high: float) -> list[float]:
    """Moves label positions apart so that neighbors keep a distance.

    Args:
        positions: Wanted positions in any order.
        gap: Distance to keep, > 0.
        low: No label above this position.
        high: No label below this position; needs room for (len - 1) * gap.

    Returns:
        Positions in the order of the input, in the order along the axis that they had.
    """
    order = sorted(range(len(positions)), key=lambda index: positions[index])
    moved = [0.0] * len(positions)
    edge = low
    for index in order:
        moved[index] = max(positions[index], edge)
        edge = moved[index] + gap
    edge = high
    for index in reversed(order):
        moved[index] = min(moved[index], edge)
        edge = moved[index] - gap
    return moved


def opened(width: int, height: int, label: str) -> Markup:
    """The beginning of a drawing with its name for screen readers."""
    return Markup('<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}">').format(width, height, label)


def line(x1: float, y1: float, x2: float, y2: float, style: str) -> Markup:
    """A straight line; its style is a CSS class."""
    return Markup('<line class="{}" x1="{}" y1="{}" x2="{}" y2="{}"/>').format(
        style, f"{x1:.1f}", f"{y1:.1f}", f"{x2:.1f}", f"{y2:.1f}"
    )


def rectangle(x: float, y: float, width: float, height: float, style: str) -> Markup:
    """A rectangle with round corners; a negative width is none."""
    return Markup('<rect class="{}" x="{}" y="{}" width="{}" height="{}" rx="1.5"/>').format(
        style, f"{x:.1f}", f"{y:.1f}", f"{max(width, 0.0):.1f}", f"{height:.1f}"
    )


def text(x: float, y: float, content: str, style: str) -> Markup:
    """Escaped text."""
    return Markup('<text class="{}" x="{}" y="{}">{}</text>').format(style, f"{x:.1f}", f"{y:.1f}", escape(content))


def decimals(values: Sequence[float]) -> int:
    """Decimals that tell neighboring ticks apart."""
    if len(values) < 2:
        return 3
    return min(8, max(0, -math.floor(math.log10(values[1] - values[0]) + 1e-9)))


def thin(items: Sequence[_Item], at_most: int) -> list[_Item]:
    """Keeps at most `at_most` items at even distances, the first and the last among them."""
    if len(items) <= at_most:
        return list(items)
    stride = (len(items) - 1) / (at_most - 1)
    return [items[round(index * stride)] for index in range(at_most)]


def shorten(text: str, length: int) -> str:
    """Text cut to a length, with an ellipsis where it was cut."""
    return text if len(text) <= length else text[: length - 1] + "…"
