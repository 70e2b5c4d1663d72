"""Inline SVG charts: lines, lines with intervals, bars with intervals, histogram.

Lives here: the geometry of each chart. Never here: lines and text themselves (`svg.py`), colors (they are CSS
classes, so that one drawing serves light, dark and print), scripts, external references, or a number that
was not passed in. Drawn by hand instead of by a plotting library because the page must be one small file
without a network, and matplotlib would add seconds of import and a hundred kilobytes a chart.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from markupsafe import Markup

from server.reporting import svg
from shared.wording import finite

_MAX_MARKERS = 60
_MAX_VERTICES = 600
_LABEL_HEIGHT = 13.0
_LABEL_WIDTH = 190.0


@dataclass(frozen=True)
class Point:
    """One point of a line.

    Attributes:
        x: Position, any unit.
        y: Value; None, NaN and infinity are left out and the line runs on to the next point.
        note: What the tooltip says.
    """

    x: float
    y: float | None
    note: str


@dataclass(frozen=True)
class Estimate:
    """One point of a line with its interval.

    Attributes:
        x: Position, any unit.
        y: Value; None is left out.
        low: Lower end of the whisker, or None.
        high: Upper end of the whisker, or None.
        note: What the tooltip says.
    """

    x: float
    y: float | None
    low: float | None
    high: float | None
    note: str


@dataclass(frozen=True)
class Reference:
    """A labelled horizontal line, for example a baseline.

    Attributes:
        label: What stands at the line.
        value: Its height, finite.
        text: The value as a person reads it.
        emphasized: Drawn stronger than the other references.
    """

    label: str
    value: float
    text: str
    emphasized: bool = False


@dataclass(frozen=True)
class Bar:
    """One row of a bar chart or histogram.

    Attributes:
        label: What stands at the bar.
        value: Its length; None draws no bar.
        text: The value as a person reads it.
        low: Lower end of the whisker, or None.
        high: Upper end of the whisker, or None.
        highlighted: Drawn in the accent color.
    """

    label: str
    value: float | None
    text: str
    low: float | None = None
    high: float | None = None
    highlighted: bool = False


def line_chart(
    points: Sequence[Point],
    *,
    label: str,
    x_label: str,
    references: Sequence[Reference] = (),
    x_text: Callable[[float], str] = "{:,.0f}".format,
    labels: Literal["left", "right"] = "right",
    from_zero: bool = False,
    width: int = 360,
    height: int = 240,
) -> Markup:
    """Draws one line with ticks at whole-numbered positions, and labelled horizontal reference lines.

    Args:
        points: The line in ascending x. Of a long line, points at even distances keep
            their tooltips, on unseen markers.
        label: What the chart shows, read aloud by screen readers.
        x_label: Unit of the horizontal axis.
        references: Horizontal lines; labels are moved apart where they would overlap.
        x_text: How a whole-numbered position is written at the axis; a logarithmic axis has exponents as positions.
        labels: At which end of the references their labels stand; left suits a falling line.
        from_zero: The vertical axis starts at zero.
        width: In SVG units, > 100.
        height: In SVG units, > 80.

    Returns:
        An `<svg>` element; a line of text where no point is finite.
    """
    kept = [(point, y) for point in points if (y := finite(point.y)) is not None]
    if not kept:
        return Markup('<p class="empty">{}</p>').format(f"{label}: nothing was recorded.")
    marks = [mark for mark in references if finite(mark.value) is not None]
    left, right, top, bottom = 46.0, width - 10.0, 14.0, height - 24.0
    x_low, x_high = kept[0][0].x, kept[-1][0].x
    if x_high <= x_low:
        x_low, x_high = x_low - 0.5, x_high + 0.5
    heights = [y for _, y in kept] + [mark.value for mark in marks]
    y_low, y_high = min(heights), max(heights)
    padding = 0.08 * (y_high - y_low) or 0.1 * abs(y_high) or 1.0
    y_low = 0.0 if from_zero and y_low >= 0 else y_low - padding
    y_high += padding

    def across(x: float) -> float:
        return left + (x - x_low) / (x_high - x_low) * (right - left)

    def down(y: float) -> float:
        return bottom - (y - y_low) / (y_high - y_low) * (bottom - top)

    drawing = [svg.opened(width, height, label), _value_axis(y_low, y_high, down, left, right)]
    for tick in svg.ticks(x_low, x_high, at_most=6, whole=True):
        drawing.append(svg.line(across(tick), bottom, across(tick), bottom + 4, "axis"))
        drawing.append(svg.text(across(tick), bottom + 16, x_text(tick), "tick middle"))
    drawing.append(svg.line(left, bottom, right, bottom, "axis"))
    drawing.append(svg.text(left - 22, bottom + 16, x_label, "tick end"))
    for mark in marks:
        style = "reference strong" if mark.emphasized else "reference"
        drawing.append(svg.line(left, down(mark.value), right, down(mark.value), style))

    vertices = svg.thin(kept, _MAX_VERTICES)
    path = " ".join(f"{across(point.x):.1f},{down(y):.1f}" for point, y in vertices)
    drawing.append(Markup('<polyline class="line" points="{}"/>').format(path))
    marker = "dot" if len(kept) <= _MAX_MARKERS else "dot unseen"
    for point, y in svg.thin(kept, _MAX_MARKERS):
        drawing.append(
            Markup('<circle class="{}" cx="{}" cy="{}" r="2.6"><title>{}</title></circle>').format(
                marker, f"{across(point.x):.1f}", f"{down(y):.1f}", point.note
            )
        )
    wanted = [down(mark.value) - 4 for mark in marks]
    for mark, y in zip(marks, svg.spread(wanted, gap=_LABEL_HEIGHT, low=top, high=bottom - 3), strict=True):
        style = ("label end" if labels == "right" else "label") + (" strong" if mark.emphasized else "")
        x = right - 2 if labels == "right" else left + 6
        drawing.append(svg.text(x, y, f"{svg.shorten(mark.label, 32)} {mark.text}", style))
    drawing.append(Markup("</svg>"))
    return Markup("").join(drawing)


def interval_chart(
    lines: Sequence[tuple[str, Sequence[Estimate]]],
    *,
    label: str,
    x_label: str,
    x_ticks: Sequence[tuple[float, str]],
    references: Sequence[Reference] = (),
    width: int = 720,
    height: int = 340,
) -> Markup:
    """Draws lines whose points have intervals, over the same positions, and labelled horizontal reference lines.

    Args:
        lines: Style and points of each, the points in ascending x. The styles are classes of the style sheet, such as
            `own` and `other`; neighboring lines are moved apart by a few units, so that their whiskers do not overlap.
        label: What the chart shows, read aloud by screen readers.
        x_label: Unit of the horizontal axis.
        x_ticks: Positions with their texts, ascending, at least one; they set the ends of the axis.
        references: Horizontal lines; labels are moved apart where they would overlap.
        width: In SVG units, > 100.
        height: In SVG units, > 80.

    Returns:
        An `<svg>` element; a line of text where no point has a value.
    """
    kept = [(style, [point for point in points if finite(point.y) is not None]) for style, points in lines]
    marks = [mark for mark in references if finite(mark.value) is not None]
    ends = [end for _, points in kept for point in points for end in (point.y, point.low, point.high)]
    heights = [end for end in map(finite, ends) if end is not None] + [mark.value for mark in marks]
    if not any(points for _, points in kept):
        return Markup('<p class="empty">{}</p>').format(f"{label}: nothing was measured.")
    left, right, top, bottom = 46.0, width - 10.0, 14.0, height - 38.0
    padding = 0.08 * (max(heights) - min(heights)) or 0.1 * abs(max(heights)) or 1.0
    y_low, y_high = min(heights) - padding, max(heights) + padding
    x_low, x_high = x_ticks[0][0], x_ticks[-1][0]
    # The labels of references stand to the right of the last point, where no whisker crosses them.
    first, last = left + 30.0, right - (_LABEL_WIDTH if marks else 30.0)

    def across(x: float) -> float:
        return (first + last) / 2 if x_high == x_low else first + (x - x_low) / (x_high - x_low) * (last - first)

    def down(y: float) -> float:
        return bottom - (y - y_low) / (y_high - y_low) * (bottom - top)

    drawing = [svg.opened(width, height, label), _value_axis(y_low, y_high, down, left, right)]
    for x, text in x_ticks:
        drawing.append(svg.line(across(x), bottom, across(x), bottom + 4, "axis"))
        drawing.append(svg.text(across(x), bottom + 16, text, "tick middle"))
    drawing.append(svg.line(left, bottom, right, bottom, "axis"))
    drawing.append(svg.text((first + last) / 2, bottom + 32, x_label, "tick middle"))
    for mark in marks:
        style = "reference strong" if mark.emphasized else "reference"
        drawing.append(svg.line(left, down(mark.value), right, down(mark.value), style))
    # Drawn last is on top: the first line.
    for index, (style, points) in reversed(list(enumerate(kept))):
        shift = 5.0 * (index - (len(kept) - 1) / 2)
        drawing.append(_estimates(points, style, [across(point.x) + shift for point in points], down))
    wanted = [down(mark.value) - 4 for mark in marks]
    for mark, y in zip(marks, svg.spread(wanted, gap=_LABEL_HEIGHT, low=top, high=bottom - 3), strict=True):
        drawing.append(svg.text(right - 2, y, f"{svg.shorten(mark.label, 32)} {mark.text}", "label end"))
    drawing.append(Markup("</svg>"))
    return Markup("").join(drawing)


def _estimates(points: Sequence[Estimate], style: str, places: Sequence[float], down: Callable[[float], float]) -> Markup:
    """One line with its whiskers and dots, at these horizontal places."""
    drawing = []
    for point, x in zip(points, places, strict=True):
        low, high = finite(point.low), finite(point.high)
        if low is not None and high is not None:
            drawing.append(svg.line(x, down(low), x, down(high), f"whisker {style}"))
            drawing += [svg.line(x - 3, down(end), x + 3, down(end), f"whisker {style}") for end in (low, high)]
    path = " ".join(f"{x:.1f},{down(point.y or 0.0):.1f}" for point, x in zip(points, places, strict=True))
    drawing.append(Markup('<polyline class="line {}" points="{}"/>').format(style, path))
    for point, x in zip(points, places, strict=True):
        drawing.append(
            Markup('<circle class="dot {}" cx="{}" cy="{}" r="3.2"><title>{}</title></circle>').format(
                style, f"{x:.1f}", f"{down(point.y or 0.0):.1f}", point.note
            )
        )
    return Markup("").join(drawing)


def _value_axis(low: float, high: float, down: Callable[[float], float], left: float, right: float) -> Markup:
    """Grid lines with their values."""
    y_ticks = svg.ticks(low, high, at_most=6)
    decimals = svg.decimals(y_ticks)
    lines = [svg.line(left, down(tick), right, down(tick), "grid") for tick in y_ticks]
    return Markup("").join(
        [*lines, *(svg.text(left - 6, down(tick) + 3.5, f"{tick:.{decimals}f}", "tick end") for tick in y_ticks)]
    )


def bar_chart(bars: Sequence[Bar], *, label: str, limit: Reference | None = None, width: int = 440) -> Markup:
    """Draws horizontal bars from zero, each below its label, with interval whiskers.

    Args:
        bars: The rows from top to bottom; values >= 0.
        label: What the chart shows, read aloud by screen readers.
        limit: A vertical line, for example the best achievable score.
        width: In SVG units, > 100.

    Returns:
        An `<svg>` element; a line of text where no bar has a value.
    """
    ends = [end for bar in bars for end in (finite(bar.value), finite(bar.high)) if end is not None]
    if not ends:
        return Markup('<p class="empty">{}</p>').format(f"{label}: nothing was measured.")
    if limit is not None and finite(limit.value) is None:
        limit = None
    longest = max([*ends, limit.value if limit else 0.0]) or 1.0
    row, top = 40.0, 20.0 if limit else 2.0
    height = math.ceil(top + row * len(bars))
    left, right = 1.0, width - 62.0

    def across(value: float) -> float:
        return left + max(value, 0.0) / longest * (right - left)

    drawing = [svg.opened(width, height, label)]
    if limit:
        x = across(limit.value)
        drawing.append(svg.line(x, top - 4, x, height, "reference strong"))
        drawing.append(svg.text(x, top - 8, f"{limit.label} {limit.text}", "label end strong"))
    for index, bar in enumerate(bars):
        y = top + index * row
        style = " own" if bar.highlighted else ""
        value, low, high = finite(bar.value), finite(bar.low), finite(bar.high)
        drawing.append(Markup("<g><title>{}</title>").format(f"{bar.label}: {bar.text}"))
        drawing.append(svg.text(left, y + 14, bar.label, "name" + style))
        drawing.append(svg.text(width - 2, y + 29, bar.text, "value end" + style))
        drawing.append(svg.rectangle(left, y + 20, right - left, 10, "track"))
        if value is not None:
            drawing.append(svg.rectangle(left, y + 20, across(value) - left, 10, "bar" + style))
        if low is not None and high is not None:
            drawing.append(svg.line(across(low), y + 25, across(high), y + 25, "whisker"))
            for end in (low, high):
                drawing.append(svg.line(across(end), y + 21, across(end), y + 29, "whisker"))
        drawing.append(Markup("</g>"))
    drawing.append(Markup("</svg>"))
    return Markup("").join(drawing)


def histogram(bars: Sequence[Bar], *, label: str, width: int = 440) -> Markup:
    """Draws a histogram whose bins are rows, so that long bin names stay readable on a phone.

    Args:
        bars: One row a bin, in order; values are counts >= 0.
        label: What the chart shows, read aloud by screen readers.
        width: In SVG units, > 200.

    Returns:
        An `<svg>` element; a line of text where every bin is empty.
    """
    counts = [finite(bar.value) or 0.0 for bar in bars]
    if not any(counts):
        return Markup('<p class="empty">{}</p>').format(f"{label}: nothing was measured.")
    row, left, right = 22.0, 78.0, width - 100.0
    drawing = [svg.opened(width, math.ceil(row * len(bars)) + 2, label)]
    for index, (bar, count) in enumerate(zip(bars, counts, strict=True)):
        y = index * row
        style = " own" if bar.highlighted else ""
        length = count / max(counts) * (right - left)
        drawing.append(Markup("<g><title>{}</title>").format(f"rank {bar.label}: {bar.text}"))
        drawing.append(svg.text(left - 8, y + 15, bar.label, "name end" + style))
        drawing.append(svg.rectangle(left, y + 4, max(length, 0.5), row - 7, "bar" + style))
        drawing.append(svg.text(left + length + 6, y + 15, bar.text, "value" + style))
        drawing.append(Markup("</g>"))
    drawing.append(Markup("</svg>"))
    return Markup("").join(drawing)
