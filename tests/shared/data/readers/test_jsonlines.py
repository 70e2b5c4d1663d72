"""Amazon, Steam and Goodreads: files as they are published, and lines at fault."""

import gzip
import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from shared.data.catalog import UNREADABLE_PRICES, WITHOUT_TEXT
from shared.data.lines import Lines
from shared.data.readers import load_dataset, opening
from shared.data.readers.jsonlines import LITERALS, read_fields, shortened
from shared.data.readers.markup import MARKUP
from shared.errors import ConfigError, DataError


def lines(path: Path, *objects: Any) -> Path:
    path.write_text(
        "".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in objects), encoding="utf-8"
    )
    return path


def refusal(path: Path, **options: str) -> str:
    with pytest.raises(DataError, match=r"^(Expected|No |Cannot)") as caught:
        load_dataset(str(path), **options)
    assert "\n" not in str(caught.value) and "secret" not in str(caught.value)
    return str(caught.value)


# Amazon

REVIEW_2018 = {
    "overall": 5.0,
    "verified": True,
    "reviewTime": "09 1, 2016",
    "reviewerID": "A3CIUOJXQ5VDQ2",
    "asin": "B0000530HU",
    "style": {"Size:": " 7.0 oz"},
    "reviewerName": "Shelly F",
    "reviewText": "secret words",
    "summary": "secret summary",
    "unixReviewTime": 1472688000,
}
META_2018 = {
    "category": ["Beauty", "Shave &amp; Cologne"],
    "description": ["Reshapes your", "body"],
    "title": "Aqua Velva",
    "brand": "Velva",
    "rank": "3,000 in Beauty",
    "also_buy": ["B000052Y5N"],
    "price": "$24.95",
    "asin": "B0000530HU",
}


def test_amazon_2018_is_read_with_metadata_and_without_reviews_words(tmp_path: Path) -> None:
    lines(tmp_path / "All_Beauty.json", REVIEW_2018, {**REVIEW_2018, "overall": 1.0, "asin": "0124784577"})
    lines(tmp_path / "meta_All_Beauty.json", META_2018, {"asin": "0124784577", "title": "", "price": ".a-section {}"})
    dataset = load_dataset(str(tmp_path))
    assert dataset.interactions.frame.rows() == [
        ("A3CIUOJXQ5VDQ2", "B0000530HU", 1472688000, 5.0),
        ("A3CIUOJXQ5VDQ2", "0124784577", 1472688000, 1.0),
    ]
    assert dataset.catalog.texts == ("Aqua Velva. Velva. Reshapes your body. Beauty Shave & Cologne", "0124784577")
    assert dataset.catalog.modalities.rows() == [(["Beauty", "Shave & Cologne"], 24.95), (None, None)]
    assert dataset.interactions.repairs == {MARKUP: 1, WITHOUT_TEXT: 1, UNREADABLE_PRICES: 1}
    assert load_dataset(str(tmp_path / "All_Beauty.json"), format="amazon").catalog == dataset.catalog


def test_amazon_2014_metadata_in_pythons_notation_are_read_and_counted(tmp_path: Path) -> None:
    review = {"reviewerID": "A", "asin": "0000031852", "helpful": [2, 3], "overall": 4.0, "unixReviewTime": 1252800000}
    lines(tmp_path / "reviews_Sports_5.json", review)
    lines(
        tmp_path / "meta_Sports.json",
        "{'asin': '0000031852', 'title': \"Girl's Tutu\", 'price': 3.17, 'related': {'also_bought': ['B00JHONN1S']}, "
        "'salesRank': {'Toys': 211836}, 'brand': 'Coxlures', 'categories': [['Sports', 'Dance'], ['Sports']]}",
    )
    lines(tmp_path / "meta_Other.json", {"asin": "x", "title": "another"})
    dataset = load_dataset(str(tmp_path))
    assert dataset.catalog.texts == ("Girl's Tutu. Coxlures. Sports Dance",)
    assert dataset.catalog.modalities.rows() == [(["Sports", "Dance"], 3.17)]
    assert dataset.interactions.repairs == {LITERALS: 1}


def test_amazon_2023_has_milliseconds_and_the_parents_id(tmp_path: Path) -> None:
    review = {
        "rating": 5.0,
        "title": "secret title",
        "text": "secret text",
        "asin": "B00YQ6X8EO",
        "parent_asin": "B00PARENT1",
        "user_id": "AGKHLEW2SOWHNMFQIJGBECAF7INQ",
        "timestamp": 1588687728923,
    }
    lines(tmp_path / "All_Beauty.jsonl", review, {**review, "timestamp": 1588687729923, "rating": 3})
    meta = {
        "main_category": "All Beauty",
        "title": "Spray",
        "features": [],
        "description": [],
        "price": None,
        "store": "Howard",
    }
    lines(tmp_path / "meta_All_Beauty.jsonl", {**meta, "categories": [], "parent_asin": "B00PARENT1"})
    dataset = load_dataset(str(tmp_path))
    assert dataset.interactions.frame.rows()[0] == ("AGKHLEW2SOWHNMFQIJGBECAF7INQ", "B00PARENT1", 1588687728, 5.0)
    assert dataset.interactions.frame["timestamp"].to_list() == [1588687728, 1588687729]
    assert dataset.catalog.texts == ("Spray. Howard",) and dataset.catalog.modalities.width == 0


def test_amazon_without_metadata_or_with_several_files_of_reviews(tmp_path: Path) -> None:
    lines(tmp_path / "a.json", REVIEW_2018)
    assert load_dataset(str(tmp_path)).interactions.repairs == {WITHOUT_TEXT: 1}
    lines(tmp_path / "b.json", REVIEW_2018)
    assert refusal(tmp_path).startswith("Expected one file of reviews beside meta_*.json in ")
    lines(tmp_path / "meta_x.json", META_2018)
    lines(tmp_path / "meta_y.json", META_2018)
    assert "Expected one file meta_a.json beside a.json, found 2 others" in refusal(tmp_path / "a.json")
    with pytest.raises(ConfigError, match=r"^Expected no data\.columns with Amazon files"):
        load_dataset(str(tmp_path / "a.json"), columns="user=a")


def test_metadata_without_ids_are_told(tmp_path: Path) -> None:
    lines(tmp_path / "a.json", REVIEW_2018)
    lines(tmp_path / "meta_a.json", {"title": "secret"})
    assert refusal(tmp_path) == "Expected parent_asin or asin in the lines of meta_a.json, found none. Is it metadata?"
    lines(tmp_path / "meta_a.json", {"title": "secret"}, {"asin": "x"})
    assert refusal(tmp_path).startswith("Expected item ids that are not empty and exact in meta_a.json, found 1 others.")


# Steam


def test_steam_is_read_in_pythons_notation_with_free_games_at_price_0(tmp_path: Path) -> None:
    lines(
        tmp_path / "steam_reviews.json",
        "{u'username': u'Chaos Syren', u'hours': 0.1, u'products': 41, u'product_id': u'725280', u'date': u'2017-12-17', "
        "u'text': u'secret \\xe9', u'early_access': False}",
        "{u'username': u'Ariman1', u'hours': None, u'product_id': u'328100', u'date': u'2017-08-02', u'text': u\"it's\"}",
    )
    lines(
        tmp_path / "steam_games.json",
        "{u'app_name': u'Lost Kitty', u'genres': [u'Action', u'Indie'], u'tags': [u'secret'], u'price': 4.99, "
        "u'id': u'725280', u'developer': u'Kotoshiro'}",
        "{u'title': u'Ironbound', u'price': u'Free To Play', u'id': u'328100'}",
        "{u'app_name': u'No id'}",
    )
    dataset = load_dataset(str(tmp_path))
    assert dataset.interactions.frame.rows() == [
        ("Chaos Syren", "725280", 1513468800, 0.1),
        ("Ariman1", "328100", 1501632000, None),
    ]
    assert dataset.catalog.texts == ("Lost Kitty. Kotoshiro. Action Indie", "Ironbound")
    assert dataset.catalog.modalities["price"].to_list() == [4.99, 0.0]
    assert dataset.interactions.repairs == {LITERALS: 5, "lines of steam_games.json without id (left out)": 1}


def test_steam_dates_with_and_without_time_of_day(tmp_path: Path) -> None:
    review = {"username": "u", "product_id": "7"}
    lines(tmp_path / "r.json", {**review, "date": "2017-12-17"}, {**review, "date": "2017-12-17T09:05:58"})
    assert load_dataset(str(tmp_path)).interactions.frame["timestamp"].to_list() == [1513468800, 1513501558]
    lines(
        tmp_path / "r.json", {**review, "date": "2017-12-17"}, {**review, "date": "soon"}, {**review, "date": "1969-01-01"}
    )
    assert refusal(tmp_path).startswith(
        "Expected timestamps from 1970 on in r.json, found 2 violations; first at line 2. Read"
    )


# Goodreads


def test_goodreads_offsets_count_and_shelves_do_not(tmp_path: Path) -> None:
    row = {"user_id": "8842281e", "book_id": "24375664", "rating": 5, "review_text": "secret", "is_read": True}
    lines(
        tmp_path / "goodreads_reviews_dedup.json",
        {**row, "date_added": "Thu Nov 29 12:34:56 -0800 2012"},
        {**row, "date_added": "Thu Nov 29 20:34:57 +0000 2012", "rating": 0},
    )
    book = {
        "book_id": "24375664",
        "title": "Best Friends",
        "authors": [{"author_id": "604031", "role": ""}],
        "description": "A tale",
    }
    lines(tmp_path / "goodreads_books.json", {**book, "popular_shelves": [{"count": "3", "name": "secret"}]})
    lines(tmp_path / "goodreads_book_authors.json", {"author_id": "604031", "name": "Ronald J. Fields"})
    lines(tmp_path / "goodreads_book_genres_initial.json", {"book_id": "24375664", "genres": {"secret": 1}})
    dataset = load_dataset(str(tmp_path))
    assert dataset.interactions.frame.rows() == [
        ("8842281e", "24375664", 1354221296, 5.0),
        ("8842281e", "24375664", 1354221297, 0.0),
    ]
    assert dataset.catalog.texts == ("Best Friends. Ronald J. Fields. A tale",) and not dataset.catalog.modalities.width


# Lines


def test_packed_files_are_read_as_they_are_whatever_their_name(tmp_path: Path) -> None:
    path = lines(tmp_path / "All_Beauty.json", REVIEW_2018)
    expected = load_dataset(str(tmp_path)).interactions.frame
    (tmp_path / "All_Beauty.json.gz").write_bytes(gzip.compress(path.read_bytes()))
    path.unlink()
    assert load_dataset(str(tmp_path)).interactions.frame.equals(expected)
    (tmp_path / "All_Beauty.json.gz").rename(path)
    assert load_dataset(str(tmp_path)).interactions.frame.equals(expected)


def test_a_packed_file_that_is_cut_is_told(tmp_path: Path) -> None:
    packed = gzip.compress("".join(json.dumps({**REVIEW_2018, "asin": str(n * 7919)}) + "\n" for n in range(2000)).encode())
    for cut in (len(packed) // 2, len(packed) - 4, 15):
        (tmp_path / "a.json.gz").write_bytes(packed[:cut])
        message = refusal(tmp_path)
        assert message == "Expected a whole gzip file at a.json.gz, found one that is cut or damaged. Fetch it again."
    (tmp_path / "a.json.gz").write_bytes(packed[: len(packed) // 2] + b"junk" + packed[len(packed) // 2 + 4 :])
    assert refusal(tmp_path).startswith("Expected a whole gzip file at a.json.gz")


def test_lines_that_are_no_objects_are_counted_and_located(tmp_path: Path) -> None:
    lines(tmp_path / "a.json", REVIEW_2018, '{"secret": ', "[1, 2]", REVIEW_2018, "secret")
    assert refusal(tmp_path) == (
        "Expected a JSON object in every line of a.json, found 3 other lines; first at line 2. The last line is one of "
        "them: the file may be cut. Mend them or fetch the file again."
    )
    lines(tmp_path / "a.json", REVIEW_2018, "{u'__import__('os')': 1}", REVIEW_2018)
    assert "found 1 other line; first at line 2. Mend" in refusal(tmp_path)


def test_lines_at_fault_in_several_blocks_are_counted_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = {"u": "a", "t": 1}
    path = lines(tmp_path / "a.json", *[good] * 99, "{", *[good] * 100, "{", *[good] * 50)
    whole = list(opening.blocks(path))
    parts = list(opening.blocks(path, size=100))
    assert len(whole) == 1 and len(parts) > 20 and b"".join(parts) == whole[0]
    monkeypatch.setattr("shared.data.readers.jsonlines.blocks", lambda path: opening.blocks(path, size=100))
    with pytest.raises(DataError, match=r"found 2 other lines; first at line 100\. Mend"):
        read_fields(path, ("u", "t"), numbers=("t",))
    lines(path, *[good] * 99, {"u": "b", "t": "soon"}, *[good] * 20)
    records = read_fields(path, ("u", "t"), numbers=("t",))
    assert records.frame.schema == {"u": pl.String, "t": pl.String} and records.lines == Lines(1, [])
    assert records.frame["t"].to_list() == ["1"] * 99 + ["soon"] + ["1"] * 20


def test_other_bytes_than_utf_8_are_located(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(json.dumps(REVIEW_2018).encode() + b'\n{"reviewerID": "caf\xe9"}\n')
    message = refusal(tmp_path)
    assert message.startswith(
        "Expected UTF-8 text in every line of a.json, found 1 other line; first at line 2. The last line"
    )


def test_a_field_that_becomes_a_list_or_an_object_is_located(tmp_path: Path) -> None:
    lines(
        tmp_path / "a.json", REVIEW_2018, {**REVIEW_2018, "asin": ["secret"]}, {**REVIEW_2018, "asin": {"a": 1}}, REVIEW_2018
    )
    message = refusal(tmp_path)
    assert message.startswith(
        "Expected a single value of asin in every line of a.json, found 2 other lines; first at line 2. Mend"
    )


def test_numbers_and_strings_of_one_field_are_one_and_bad_times_are_located(tmp_path: Path) -> None:
    changed = [{"reviewerID": 7, "unixReviewTime": "1472688000"}, {"reviewerID": "7", "unixReviewTime": 1472688000}]
    lines(tmp_path / "a.json", *({**REVIEW_2018, **change} for change in changed))
    dataset = load_dataset(str(tmp_path))
    assert dataset.interactions.frame.rows() == [("7", "B0000530HU", 1472688000, 5.0)]
    lines(tmp_path / "a.json", REVIEW_2018, {**REVIEW_2018, "unixReviewTime": "soon"}, {"asin": "x"})
    assert refusal(tmp_path).startswith(
        "Expected user ids that are not empty in a.json, found 1 violation; first at line 3."
    )
    lines(tmp_path / "a.json", REVIEW_2018, {**REVIEW_2018, "unixReviewTime": True})
    assert refusal(tmp_path).startswith("Expected timestamps from 1970 on in a.json, found 1 violation; first at line 2.")


def test_ids_that_look_like_lists_and_what_only_python_reads_are_kept(tmp_path: Path) -> None:
    row = {**REVIEW_2018, "reviewerID": '["not a list"]'}
    lines(
        tmp_path / "a.json",
        row,
        json.dumps({**REVIEW_2018, "vote": float("nan")}),
        {**REVIEW_2018, "asin": "half \ud83d pair"},
    )
    frame = load_dataset(str(tmp_path)).interactions.frame
    assert frame["user"].to_list()[0] == '["not a list"]' and frame["item"].to_list()[2] == "half ? pair"


def test_empty_lines_in_between_are_no_rows_and_lines_stay_right(tmp_path: Path) -> None:
    lines(tmp_path / "a.json", REVIEW_2018, "", {**REVIEW_2018, "unixReviewTime": "soon"})
    assert "found 1 violation; first at line 3." in refusal(tmp_path)


def test_json_of_another_kind_is_told_without_its_fields_which_may_be_ids(tmp_path: Path) -> None:
    for fields in ({"who": 1, "what": 2}, {"secret": 1, "secretly": 2}, {"secret1": 1, "what": 2}):
        lines(tmp_path / "a.json", fields)
        message = refusal(tmp_path)
        assert "interactions in a.json, found 2 others. Name the format" in message
        assert "who" not in message and "secret" not in message
    lines(tmp_path / "a.json", "[", REVIEW_2018, "]")
    assert "found no JSON object in the first line." in refusal(tmp_path)
    assert refusal(tmp_path, format="amazon").startswith(
        "Expected a JSON object in every line of a.json, found 2 other lines;"
    )
    assert refusal(tmp_path, format="steam").startswith(
        "Expected a JSON object in every line of a.json, found 2 other lines;"
    )
    (tmp_path / "a.json").write_bytes(b"")
    assert refusal(tmp_path) == "Expected data in a.json, found an empty file. Is it the right file?"


def test_long_descriptions_end_with_a_word() -> None:
    assert shortened("a  b\nc") == "a b c"
    assert shortened("word " * 100) == ("word " * 60).strip()
    assert shortened("x" * 400) == "x" * 300
