"""The page of the research records: stamped, escaped, every record's numbers on it, and whole without any."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from server.reporting.research_page import PAGE, RECORDS, render_research, research_records, write_research_page
from shared.errors import CheckpointError


def _rate(value: float) -> dict[str, float]:
    return {"value": value, "low": value - 0.01, "high": value + 0.01}


def _records() -> dict[str, dict[str, Any]]:
    bounds = {"distribution-free": 1.25, "f-dp": 2.75}
    found = {"recovered": _rate(0.333), "recovered_without": _rate(0.222), "lower_bounds": bounds}
    together = {"part": "together", "area": _rate(0.699)}
    frontier = [{"epsilon": None, "rows": [{"part": "pairs", "area": _rate(0.7), **found}, together]}]
    guessed = {"attribute": "<b>kind</b>", "seen": "the list", "values": 2, "users": 77, "prior": 0.7}
    rates = {"accuracy": _rate(0.755), "gain": _rate(0.055), "area": _rate(0.633)}
    member = {"attack": "likelihood", "members": 61, "others": 59, "area": _rate(0.567)}
    return {
        "black-box": {"area": _rate(0.522), "lower_bounds": {"f-dp": 0.5}, "claimed": 8.0},
        "linkage": {"rows": [{"part": "pairs", "area": _rate(0.611), **found}], "claimed": 8.0, "frontier": frontier},
        "attributes": {"rows": [{**guessed, **rates}], "skipped": {"zip": "too many"}},
        "membership": {"attacks": [{**member, "found": {"0.01": _rate(0.044), "0.001": None}}]},
        "windows": {"length": 7, "attacks": [{**member, "area": _rate(0.588), "found": {"0.01": None, "0.001": None}}]},
    }


def test_every_number_of_the_records_is_on_the_page_under_a_stamp_and_text_is_escaped(tmp_path: Path) -> None:
    page = write_research_page(tmp_path, "a <i>run</i>", _records())
    text = page.read_text("utf-8")
    assert page.name == PAGE and text.index("NOT PRIVATE") < text.index("<header>")
    for number in (
        "0.522",
        "0.611",
        "2.75",
        "33.3%",
        "22.2%",
        "75.5%",
        "70.0%",
        "0.633",
        "0.567",
        "4.4%",
        "0.588",
        "not measurable",
    ):
        assert number in text, number
    assert "&lt;b&gt;kind" in text and "<b>kind" not in text and "a &lt;i&gt;run" in text
    assert (
        "7 interactions in a row" in text
        and "too many" in text
        and "<script" not in text
        and "http" not in text.replace("http-equiv", "")
    )


def test_a_page_without_records_says_that_nothing_was_made(tmp_path: Path) -> None:
    assert render_research("run", research_records(tmp_path)).count("Not made.") == 4
    assert "<svg" not in render_research("run", {})
    assert "Fewer than" in render_research("run", {"membership": {"attacks": [], "skipped": "Fewer than 10 users."}})


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    (tmp_path / RECORDS["linkage"]).write_text("{", "utf-8")
    with pytest.raises(CheckpointError, match=r"Expected JSON in audit-linkage\.json, found other content"):
        research_records(tmp_path)
