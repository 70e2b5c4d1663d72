"""The section on new items."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from server.reporting.cold_items import laid_out, sentence
from server.reporting.page import render_report as render_record
from server.reporting.records import parse_run

ESTIMATE = {"mean": 0.3, "low": 0.25, "high": 0.35}
COLD: dict[str, Any] = {
    "items": 60,
    "known_items": 1540,
    "users": 2340,
    "k": 10,
    "among_new": {"ndcg@10": ESTIMATE, "hr@10": {"mean": 0.5, "low": 0.4, "high": 0.6}},
    "among_new_untrained": {"ndcg@10": {"mean": 0.2, "low": None, "high": None}, "hr@10": {"mean": 0.45}},
    "among_all": {"ndcg@10": {"mean": 0.0213}, "hr@10": {"mean": 0.047}},
    "random": {"ndcg@10": 0.12, "hr@10": 0.16},
}
RUN: dict[str, Any] = json.loads(Path(__file__).with_name("record.json").read_text(encoding="utf-8"))
RECORD: dict[str, Any] = {**RUN, "cold_items": COLD}


def render_report(record: dict[str, Any]) -> str:
    return render_record(parse_run(record))


def test_the_section_says_how_many_times_a_random_order() -> None:
    found = laid_out(RECORD)
    assert found is not None and found["factor"] == "2.5 times"
    assert (found["new_items"], found["known_items"], found["users"]) == ("60", "1,540", "2,340")
    assert "2.5 times as well as a random order (NDCG@10)" in sentence(RECORD)


def test_the_page_shows_the_numbers_of_the_record_and_marks_them_exact() -> None:
    page = render_report(RECORD)
    start = page.index('<section id="cold"')
    shown = page[start : page.index("</section>", start)]
    numbers = ("0.3000", "0.250–0.350", "0.2000", "0.1200", "0.0213", "0.5000")
    for text in ("60 items beside the 1,540 known ones", "For each of 2,340 users", *numbers, "not private: exact"):
        assert text in shown, text
    assert '<a href="#cold">' in page


def test_without_new_items_there_is_no_section() -> None:
    record = {**RUN, "cold_items": None}
    assert laid_out(record) is None and sentence(record) == ""
    assert 'id="cold"' not in render_report(record) and '"#cold"' not in render_report(record)


def test_missing_numbers_are_shown_as_missing() -> None:
    record = {**RUN, "cold_items": {"items": 3, "k": 10}}
    assert sentence(record) == ""
    assert 'id="cold"' in render_report(record)
