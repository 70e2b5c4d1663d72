"""Parts of a JSON object that may be absent, null, or something else."""

from __future__ import annotations

import pytest

from server.reporting.reading import entries, section

RECORD = {"a": {"b": {"c": 1}, "rows": [{"x": 1}, None, {"x": 2}, 3]}, "none": None, "text": "t"}


def test_a_section_is_a_copy_of_what_is_there() -> None:
    found = section(RECORD, "a", "b")
    found["c"] = 2
    assert RECORD["a"]["b"] == {"c": 1}  # type: ignore[index]


@pytest.mark.parametrize("names", [("z",), ("none",), ("text",), ("a", "z", "c"), ("text", "b"), ("a", "rows")])
def test_a_path_that_leads_to_no_mapping_gives_an_empty_one(names: tuple[str, ...]) -> None:
    assert section(RECORD, *names) == {}


def test_entries_are_the_mappings_of_a_list_in_their_order() -> None:
    assert entries(RECORD, "a", "rows") == [{"x": 1}, {"x": 2}]
    assert entries(RECORD, "a", "b") == entries(RECORD, "text") == entries(RECORD, "z", "rows") == []
