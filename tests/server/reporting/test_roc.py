"""ROC curves: points against counts, and the drawing."""

from __future__ import annotations

import numpy as np

from server.reporting.roc import roc_chart, roc_points


def test_points_are_the_rates_at_every_threshold_and_equal_scores_are_one_step() -> None:
    scores, members = [3.0, 2.0, 2.0, 1.0, 0.0], [True, True, False, False, True]
    expected = [(0.0, 0.0), (0.0, 1 / 3), (1 / 2, 2 / 3), (1.0, 2 / 3), (1.0, 1.0)]
    assert roc_points(scores, members) == expected
    for threshold in (2.5, 1.5, 0.5):
        above = np.array(scores) > threshold
        rates = (float(above[~np.array(members)].mean()), float(above[np.array(members)].mean()))
        assert rates in expected


def test_the_drawing_has_a_line_a_curve_ticks_at_each_decade_and_nothing_outside_of_its_axes() -> None:
    rng = np.random.default_rng(0)
    members = rng.random(200) < 0.5
    points = roc_points((rng.normal(size=200) + members).tolist(), members.tolist())
    drawing = roc_chart([("own", points), ("other", points)], label="<curves>", lowest=0.01)
    assert drawing.count("<polyline") == 2 and "&lt;curves&gt;" in drawing
    assert all(text in drawing for text in ("1 %", "10 %", "100 %", "false alarms"))
    places = [pair.split(",") for pair in drawing.split('points="')[1].split('"')[0].split()]
    assert all(52.0 <= float(x) <= 348.0 and 12.0 <= float(y) <= 260.0 for x, y in places)


def test_a_curve_begins_with_what_is_found_at_the_lowest_rate_that_is_drawn() -> None:
    points = [(0.0, 0.0), (0.0, 0.3), (0.05, 0.5), (0.1, 0.6), (0.4, 0.9), (1.0, 1.0)]
    drawing = roc_chart([("own", points)], label="", lowest=0.1)
    assert all(text in drawing for text in ("10 %", "20 %", "50 %", "100 %", ">found<"))
    xs, ys = zip(*(map(float, pair.split(",")) for pair in drawing.split('points="')[1].split('"')[0].split()), strict=True)
    assert xs[0] == 52.0 and sum(x == 52.0 for x in xs) == 1
    assert abs(ys[0] - (260.0 - (1.0 + np.log10(0.6)) * 248.0)) < 0.1
