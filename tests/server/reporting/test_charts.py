"""Charts: right geometry, escaped text, and nothing drawn where there is nothing."""

import math
import xml.etree.ElementTree as ElementTree
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.reporting.charts import (
    Bar,
    Estimate,
    Point,
    Reference,
    bar_chart,
    histogram,
    interval_chart,
    line_chart,
)
from server.reporting.svg import spread, ticks

FINITE = st.floats(min_value=-1e6, max_value=1e6, allow_nan=False)


def test_ticks_are_round_numbers_inside_the_range() -> None:
    assert ticks(1, 20, at_most=6, whole=True) == [5, 10, 15, 20]
    assert ticks(1, 1000, at_most=6, whole=True) == [200, 400, 600, 800, 1000]
    assert ticks(1, 3, at_most=6, whole=True) == [1, 2, 3]
    assert ticks(0.031, 0.121, at_most=6) == pytest.approx([0.04, 0.06, 0.08, 0.10, 0.12])
    assert ticks(7, 7, at_most=6) == [7]


@given(low=FINITE, span=st.floats(min_value=1e-6, max_value=1e6), at_most=st.integers(2, 12))
def test_ticks_stay_in_range_and_do_not_pass_their_number(low: float, span: float, at_most: int) -> None:
    found = ticks(low, low + span, at_most=at_most)
    slack = 1e-6 * max(1.0, abs(low), span)
    assert len(found) <= at_most
    assert all(low - slack <= tick <= low + span + slack for tick in found)


@given(st.lists(st.floats(min_value=0, max_value=200), max_size=10))
def test_spread_keeps_distance_order_and_bounds(positions: list[float]) -> None:
    moved = spread(positions, gap=13, low=0, high=200)
    ascending = sorted(moved)
    assert all(after - before >= 13 - 1e-9 for before, after in pairwise(ascending))
    assert all(-1e-9 <= position <= 200 + 1e-9 for position in moved)
    order = sorted(range(len(positions)), key=lambda index: positions[index])
    assert [moved[index] for index in order] == ascending


def test_spread_leaves_alone_what_does_not_overlap() -> None:
    assert spread([100.0, 20.0], gap=13, low=0, high=200) == [100.0, 20.0]


def _drawing(svg: str) -> ElementTree.Element:
    return ElementTree.fromstring(svg)


def test_line_chart_maps_values_to_heights() -> None:
    points = [Point(1, 0.0, "a"), Point(2, 1.0, "b"), Point(3, 0.5, "c")]
    drawing = _drawing(line_chart(points, label="L", x_label="round"))
    (line,) = drawing.findall("polyline")
    (x1, y1), (x2, y2), (x3, y3) = (map(float, pair.split(",")) for pair in line.attrib["points"].split())
    assert x2 - x1 == pytest.approx(x3 - x2, abs=0.2)
    assert y2 < y3 < y1
    assert y3 == pytest.approx((y1 + y2) / 2, abs=0.2)
    assert [circle.findtext("title") for circle in drawing.findall("circle")] == ["a", "b", "c"]
    assert drawing.attrib["role"] == "img" and drawing.attrib["aria-label"] == "L"


def test_line_chart_runs_on_over_missing_values() -> None:
    points = [Point(1, 0.1, ""), Point(2, None, ""), Point(3, math.nan, ""), Point(4, 0.2, "")]
    drawing = _drawing(line_chart(points, label="L", x_label="round"))
    assert len(drawing.findall("circle")) == 2
    assert "nan" not in line_chart(points, label="L", x_label="round")


def test_line_chart_keeps_references_inside_and_their_values_readable() -> None:
    references = [
        Reference("a very long name of a baseline that will not fit", 0.5, "0.500"),
        Reference("b", 0.49, "0.490"),
    ]
    svg = line_chart([Point(1, 0.1, "")], label="L", x_label="round", references=references)
    labels = [text for text in _drawing(svg).findall("text") if text.attrib["class"].startswith("label")]
    assert [str(label.text)[-5:] for label in labels] == ["0.500", "0.490"]
    assert abs(float(labels[0].attrib["y"]) - float(labels[1].attrib["y"])) >= 13
    assert all(0 <= float(label.attrib["y"]) <= 240 for label in labels)


def test_line_chart_of_many_points_thins_markers_and_keeps_the_last() -> None:
    points = [Point(at, math.sin(at / 50), f"round {at}") for at in range(1, 5001)]
    drawing = _drawing(line_chart(points, label="L", x_label="round"))
    notes = [circle.findtext("title") for circle in drawing.findall("circle")]
    assert len(notes) == 60 and notes[0] == "round 1" and notes[-1] == "round 5000"
    assert len(drawing.find("polyline").attrib["points"].split()) == 600  # type: ignore[union-attr]
    assert len([text for text in drawing.findall("text") if text.attrib["class"] == "tick middle"]) <= 6


def test_line_chart_of_equal_values_has_a_range() -> None:
    for value in (0.0, 3.0, -2.0):
        drawing = _drawing(line_chart([Point(1, value, ""), Point(2, value, "")], label="L", x_label="round"))
        assert len(drawing.findall("circle")) == 2


def test_charts_without_values_say_so() -> None:
    assert "L: nothing was recorded." in line_chart([Point(1, None, "")], label="L", x_label="round")
    assert "L: nothing was recorded." in line_chart([], label="L", x_label="round")
    assert "L: nothing was measured." in bar_chart([], label="L")
    assert "L: nothing was measured." in bar_chart([Bar("a", None, "–")], label="L")
    assert "L: nothing was measured." in histogram([Bar("1", 0.0, "0")], label="L")


def test_bar_chart_draws_lengths_in_proportion_and_whiskers_at_the_interval() -> None:
    bars = [Bar("own", 0.1, "0.1", 0.08, 0.12, True), Bar("other", 0.05, "0.05")]
    drawing = _drawing(bar_chart(bars, label="L", limit=Reference("best", 0.2, "0.200")))
    groups = drawing.findall("g")
    own, other = (
        next(float(box.attrib["width"]) for box in group.findall("rect") if box.attrib["class"].startswith("bar"))
        for group in groups
    )
    assert own == pytest.approx(2 * other, abs=0.2)
    whisker = groups[0].findall("line")[0].attrib
    left = float(groups[0].findall("rect")[0].attrib["x"])
    assert float(whisker["x1"]) - left == pytest.approx(0.8 * own, abs=0.3)
    assert float(whisker["x2"]) - left == pytest.approx(1.2 * own, abs=0.3)
    assert groups[1].findall("line") == []
    assert float(drawing.findall("line")[0].attrib["x1"]) - left == pytest.approx(2 * own, abs=0.3)


def test_histogram_draws_the_largest_bin_longest() -> None:
    drawing = _drawing(histogram([Bar("1", 1.0, "1"), Bar("2–3", 4.0, "4"), Bar("4+", 0.0, "0")], label="L"))
    widths = [float(box.attrib["width"]) for box in drawing.iter("rect")]
    assert widths[1] == pytest.approx(4 * widths[0], abs=0.2)
    assert widths[2] < 1


def test_charts_escape_labels() -> None:
    evil = '<script>"&'
    for svg in (
        line_chart([Point(1, 1, evil)], label=evil, x_label=evil, references=[Reference(evil, 1, evil)]),
        bar_chart([Bar(evil, 1, evil)], label=evil, limit=Reference(evil, 1, evil)),
        histogram([Bar(evil, 1, evil)], label=evil),
        line_chart([], label=evil, x_label=evil),
    ):
        _drawing(svg)
        assert "<script>" not in svg
        assert "&lt;script&gt;" in svg


def test_line_chart_from_zero_shows_heights_in_proportion() -> None:
    drawing = _drawing(line_chart([Point(1, 4.0, ""), Point(2, 8.0, "")], label="L", x_label="r", from_zero=True))
    heights = [float(circle.attrib["cy"]) for circle in drawing.findall("circle")]
    bottom = next(float(line.attrib["y1"]) for line in drawing.findall("line") if line.attrib["class"] == "axis")
    assert bottom - heights[1] == pytest.approx(2 * (bottom - heights[0]), abs=0.2)


def test_line_chart_over_exponents_names_its_ticks_as_it_is_told() -> None:
    points = [Point(-8.0, 3.0, "a"), Point(-6.0, 2.0, "b"), Point(-4.0, 1.0, "c")]
    reference = [Reference("here", 2.0, "2")]
    drawing = _drawing(
        line_chart(
            points, label="L", x_label="x", x_text=lambda exponent: f"1e{exponent:.0f}", references=reference, labels="left"
        )
    )
    marks = [text for text in drawing.findall("text") if text.attrib["class"] == "tick middle"]
    assert [text.text for text in marks] == ["1e-8", "1e-7", "1e-6", "1e-5", "1e-4"]
    circles = drawing.findall("circle")
    assert float(marks[2].attrib["x"]) == pytest.approx(float(circles[1].attrib["cx"]), abs=0.2)
    (label,) = (text for text in drawing.findall("text") if text.attrib["class"] == "label")
    assert float(label.attrib["x"]) < float(circles[1].attrib["cx"])


def _estimates(*means: float | None) -> list[Estimate]:
    return [
        Estimate(float(x), mean, None if mean is None else mean - 0.1, None if mean is None else mean + 0.1, f"at {x}")
        for x, mean in enumerate(means)
    ]


def test_interval_chart_draws_each_line_with_its_whiskers() -> None:
    lines = [("own", _estimates(0.2, 0.4, None)), ("other", _estimates(0.3, 0.3, 0.3))]
    x_ticks = [(0.0, "1"), (1.0, "<2>"), (2.0, "∞")]
    drawing = _drawing(interval_chart(lines, label="L", x_label="epsilon", x_ticks=x_ticks))
    own, other = (drawing.find(f"polyline[@class='line {style}']") for style in ("own", "other"))
    assert own is not None and other is not None
    assert [len(line.attrib["points"].split()) for line in (own, other)] == [2, 3]
    heights = [float(pair.split(",")[1]) for pair in own.attrib["points"].split()]
    assert heights[1] < heights[0]
    whiskers = drawing.findall("line[@class='whisker own']")
    stems = [line for line in whiskers if line.attrib["x1"] == line.attrib["x2"]]
    assert (len(whiskers), len(stems)) == (6, 2)
    low, high = (float(stems[0].attrib[end]) for end in ("y1", "y2"))
    assert (low + high) / 2 == pytest.approx(heights[0], abs=0.2) and high < low
    titles = [circle.findtext("title") for circle in drawing.findall("circle[@class='dot own']")]
    assert titles == ["at 0", "at 1"]
    assert {"1", "<2>", "∞", "epsilon"} <= {text.text for text in drawing.findall("text")}


def test_interval_chart_keeps_the_labels_of_references_off_the_lines() -> None:
    lines = [("own", _estimates(0.2, 0.4))]
    marks = [Reference("item-kNN", 0.30, "0.3000"), Reference("no privacy", 0.31, "0.3100")]
    chart = interval_chart(lines, label="L", x_label="epsilon", x_ticks=[(0, "1"), (1, "2")], references=marks)
    drawing = _drawing(chart)
    (line,) = drawing.findall("polyline")
    rightmost = max(float(pair.split(",")[0]) for pair in line.attrib["points"].split())
    labels = [text for text in drawing.findall("text") if text.attrib["class"] == "label end"]
    assert [text.text for text in labels] == ["item-kNN 0.3000", "no privacy 0.3100"]
    assert all(float(text.attrib["x"]) - 150 > rightmost for text in labels)
    assert abs(float(labels[0].attrib["y"]) - float(labels[1].attrib["y"])) >= 12.9
    assert len(drawing.findall("line[@class='reference']")) == 2


def test_interval_chart_of_one_point_or_of_nothing() -> None:
    one = interval_chart([("own", _estimates(0.2))], label="L", x_label="epsilon", x_ticks=[(0.0, "8")])
    assert "circle" in one and "nan" not in one
    empty = interval_chart([("own", _estimates(None))], label="L", x_label="epsilon", x_ticks=[(0.0, "8")])
    assert empty == '<p class="empty">L: nothing was measured.</p>'
