"""Texts that were published for the web are read as a browser shows them; other texts stay as they are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.data.readers import load_dataset
from shared.data.readers.markup import MARKUP, Texts, escaped


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Product 4 &quot;A&quot; &amp; B &#39;s", 'Product 4 "A" & B \'s'),
        ('<span id="t3">Toy 3</span>', "Toy 3"),
        ("Line<br />next<BR>last", "Line next last"),
        ("<p>One &eacute;</p><ul><li>two</li></ul>", " One é   two  "),
        ("H<sub>2</sub>O <b>now</b>", "H2O now"),
        ("a<!-- hidden -->b<script type='x'>var a = 1 < 2;</script>c", "a b c"),
        ('Title <span class="a-size', "Title "),
        ("&#x2019;&#8217;&trade;", "’’™"),
        ("&amp;lt;b&amp;gt;", "&lt;b&gt;"),
        ("&lt;b&gt;", "<b>"),
    ],
)
def test_entities_and_tags_are_read_as_what_they_stand_for(text: str, shown: str) -> None:
    texts = Texts()
    assert texts.plain(text) == shown and texts.count == 1


@pytest.mark.parametrize(
    "text",
    [
        "AT&T",
        "Q&A;",
        "I <3 you",
        "a < b > c",
        "<Untitled>",
        "R&D &notanentity;",
        "good&times",
        "5 <b",
        "&",
        "&;",
        "<",
        "<a b",
    ],
)
def test_text_that_only_looks_like_markup_stays(text: str) -> None:
    texts = Texts()
    assert texts.plain(text) == text and texts.count == 0


@given(st.text(st.characters(exclude_categories=("Cs",)) | st.sampled_from('&<>;#xa/=" '), max_size=30))
def test_escaped_text_is_read_as_the_text_itself(text: str) -> None:
    column = pl.DataFrame({"text": [text]}).select(escaped(pl.col("text")))["text"]
    assert Texts().plain(column[0]) == text


def lines(path: Path, *objects: dict[str, Any]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in objects), encoding="utf-8")


TITLE, SHOWN = "Rock &amp; Roll &#39;n&#39; <b>Blues</b> <3", "Rock & Roll 'n' Blues <3"
LABEL = "Music &amp; Film"


@pytest.mark.parametrize("year", [2014, 2018, 2023])
def test_amazon_titles_brands_categories_and_descriptions_are_plain_and_counted(year: int, tmp_path: Path) -> None:
    if year == 2023:
        review = {"user_id": "U&amp;1", "parent_asin": "P&amp;1", "timestamp": 1600004161000, "rating": 5}
        meta = {"parent_asin": "P&amp;1", "title": TITLE, "store": "A &amp; B", "categories": [LABEL]}
    else:
        review = {"reviewerID": "U&amp;1", "asin": "P&amp;1", "unixReviewTime": 1600004161, "overall": 5}
        meta = {"asin": "P&amp;1", "title": TITLE, "brand": "A &amp; B"}
        meta |= {"categories": [[LABEL]]} if year == 2014 else {"category": [LABEL]}
    lines(tmp_path / "reviews_T.json", review)
    lines(tmp_path / "meta_T.json", {**meta, "description": ["<p>Big&nbsp;sound</p>", "loud"]})
    dataset = load_dataset(str(tmp_path))
    assert dataset.catalog.ids == ("P&amp;1",) and dataset.interactions.frame["user"].to_list() == ["U&amp;1"]
    assert dataset.catalog.texts == (f"{SHOWN}. A & B. Big sound loud. Music & Film",)
    assert dataset.catalog.modalities["categories"].to_list() == [["Music & Film"]]
    assert dataset.interactions.repairs[MARKUP] == 4


def test_steam_goodreads_and_mind_texts_are_plain_and_counted(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("steam", "goodreads", "mind")]
    for folder in folders:
        folder.mkdir()
    lines(folders[0] / "steam_reviews.json", {"username": "u", "product_id": "1", "date": "2017-12-17"})
    lines(folders[0] / "steam_games.json", {"id": "1", "app_name": TITLE, "developer": "A &amp; B", "genres": [LABEL]})
    added = "Thu Nov 29 12:34:56 -0800 2012"
    lines(folders[1] / "goodreads_interactions.json", {"user_id": "u", "book_id": "1", "date_added": added})
    book = {"book_id": "1", "title": TITLE, "authors": [{"author_id": "7"}], "genres": [LABEL]}
    lines(folders[1] / "goodreads_books.json", book)
    lines(folders[1] / "goodreads_book_authors.json", {"author_id": "7", "name": "A &amp; B"})
    (folders[2] / "behaviors.tsv").write_text("1\tu\t11/11/2019 9:05:58 AM\t\t1-1\n", encoding="utf-8")
    (folders[2] / "news.tsv").write_text(f"1\t{LABEL}\t\t{TITLE}\tA &amp; B\t\t\t\n", encoding="utf-8")
    for folder in folders:
        dataset = load_dataset(str(folder))
        assert dataset.catalog.texts == (f"{SHOWN}. A & B. Music & Film",)
        assert dataset.interactions.repairs[MARKUP] == 3
