"""ROC curves on logarithmic axes, where an attack that is sure of a few shows; inline SVG.

Lives here: the geometry of this one chart. Never here: a score that was not passed in.
"""

import math
from collections.abc import Sequence

from markupsafe import Markup

from server.reporting import svg

_MOST_POINTS = 400


def roc_points(scores: Sequence[float], members: Sequence[bool]) -> list[tuple[float, float]]:
    """Pairs (rate of false alarms, rate of members found) over all thresholds, ascending; equal scores are one step.

    Args:
        scores: The higher the likelier a member.
        members: Whether each is one; at least one is and one is not.
    """
    found = false = 0
    number, others = sum(members), len(members) - sum(members)
    points, before = [(0.0, 0.0)], None
    for score, member in sorted(zip(scores, members, strict=True), key=lambda pair: -pair[0]):
        if before is not None and score != before:
            points.append((false / others, found / number))
        found, false, before = found + member, false + (not member), score
    return [*points, (1.0, 1.0)]


def roc_chart(
    lines: Sequence[tuple[str, Sequence[tuple[float, float]]]],
    *,
    label: str,
    lowest: float,
    width: int = 360,
    height: int = 300,
) -> Markup:
    """Draws curves over decades, beside the diagonal of a guess.

    Args:
        lines: Style, a class of the style sheet such as `own`, and points of each, ascending.
        label: What the chart shows, read aloud by screen readers.
        lowest: Where both axes begin, in (0, 1): a power of ten.
        width: In SVG units.
        height: In SVG units.

    Returns:
        An `<svg>` element.
    """
    left, right, top, bottom = 52.0, width - 12.0, 12.0, height - 40.0
    decades = round(-math.log10(lowest))

    def place(rate: float, start: float, end: float) -> float:
        return start + (1.0 + math.log10(max(rate, lowest)) / decades) * (end - start)

    drawing = [svg.opened(width, height, label)]
    ticks = [10.0**exponent for exponent in range(-decades, 1)]
    for rate in ticks if decades > 1 else [*ticks, 0.2, 0.5]:
        text = f"{100 * rate:g} %"
        drawing.append(svg.line(left, place(rate, bottom, top), right, place(rate, bottom, top), "grid"))
        drawing.append(svg.text(left - 6, place(rate, bottom, top) + 3.5, text, "tick end"))
        drawing.append(svg.text(place(rate, left, right), bottom + 15, text, "tick middle"))
    drawing.append(svg.line(left, bottom, right, bottom, "axis"))
    drawing.append(svg.text((left + right) / 2, bottom + 31, "false alarms", "tick middle"))
    drawing.append(svg.text(left + 6, top + 14, "found", "tick"))
    drawing.append(svg.line(left, bottom, right, top, "reference"))
    for style, points in reversed(lines):
        kept = svg.thin(_from(points, lowest), _MOST_POINTS)
        path = " ".join(f"{place(x, left, right):.1f},{place(y, bottom, top):.1f}" for x, y in kept)
        drawing.append(Markup('<polyline class="line {}" points="{}"/>').format(style, path))
    drawing.append(Markup("</svg>"))
    return Markup("").join(drawing)


def _from(points: Sequence[tuple[float, float]], lowest: float) -> list[tuple[float, float]]:
    """The curve from the axis on; points with at most `lowest` false alarms are drawn at the axis."""
    begins = max((found for false, found in points if false <= lowest), default=0.0)
    return [(lowest, begins), *(point for point in points if point[0] > lowest and point[1] > 0.0)]
