"""Lists in one string."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.data.column_names import parse_columns
from shared.data.readers.modalities import parse_vectors
from shared.errors import ConfigError
from shared.listing import join_list, split_list


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", []),
        (" a , b,,c ", ["a", "b", "c"]),
        ('"Earth, Wind & Fire",AC/DC', ["Earth, Wind & Fire", "AC/DC"]),
        ('item="Artist, name", user=uid', ["item=Artist, name", "user=uid"]),
        ('7" single, a"b', ['7" single', 'a"b']),
        ('"""Heroes""", x', ['"Heroes"', "x"]),
        ('" a ", ""', [" a ", ""]),
    ],
)
def test_a_list_is_read_as_csv_is(text: str, parts: list[str]) -> None:
    assert split_list(text, name="x") == parts


@given(st.lists(st.text(alphabet=st.sampled_from('ab,"= \n\té')), max_size=6))
def test_a_list_that_was_written_is_read_again(parts: list[str]) -> None:
    assert split_list(join_list(parts), name="x") == parts


@given(st.text(alphabet=st.sampled_from('ab,"= ')))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        split_list(text, name="--history")
    except ConfigError as error:
        assert "quotation mark in --history" in str(error)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('"a, b', "Expected a closing quotation mark in --history, found none. Close it, or"),
        ('"a" b, c', "Expected a comma after a closing quotation mark in --history, got 'b'. Write"),
    ],
)
def test_quotation_marks_out_of_place_are_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        split_list(text, name="--history")
    assert str(caught.value).startswith(message)


def test_columns_and_files_may_have_names_with_commas() -> None:
    assert parse_columns('user=uid,item="Artist, name"') == {"user": "uid", "item": "Artist, name"}
    assert parse_vectors('image="a,b.npy"') == {"image": "a,b.npy"}
