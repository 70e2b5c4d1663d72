"""Texts that were published for the web: entities and tags in titles, names, categories and descriptions.

Here lives making plain text of them, and the way back for writers of formats whose texts are HTML. Here never live fields:
each format says which of its fields are texts. An id is never a text.

Text that only looks like markup stays: an entity has a name that HTML knows and ends with a semicolon ("AT&T" and "Q&A;"
have none), and a tag has the name of an element that occurs in descriptions ("<3" and "<Untitled>" are none).
"""

from __future__ import annotations

import html
import re
from html.entities import html5
from typing import Final

import polars as pl

from shared.data.readers import jsonlines

MARKUP: Final = "texts with HTML (read as plain text)"
_INLINE: Final = ("a", "abbr", "b", "big", "cite", "code", "em", "font", "i", "small", "span", "strong", "sub", "sup", "u")
_BLOCK: Final = (
    *("blockquote", "br", "center", "dd", "div", "dl", "dt", "h1", "h2", "h3", "h4", "h5", "h6", "hr", "img"),
    *("li", "ol", "p", "pre", "table", "tbody", "td", "th", "thead", "tr", "ul"),
)
_NAMES: Final = "|".join((*_INLINE, *_BLOCK))
_HIDDEN: Final = re.compile(r"<!--.*?-->|<(script|style)\b[^<>]*>.*?</\1\s*>", re.IGNORECASE | re.DOTALL)
# Metadata are cut somewhere, so the last tag may lack its end.
_TAG: Final = re.compile(rf"</?({_NAMES})(?:\s[^<>]*|\s*/)?>|<({_NAMES})\s+[\w-]+\s*=[^<>]*$", re.IGNORECASE)
_ENTITY: Final = re.compile(r"&(?:#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")


class Texts:
    """Makes plain text, and counts the texts in which there was markup.

    Attributes:
        count: How many texts changed.
    """

    def __init__(self) -> None:
        self.count = 0

    def plain(self, text: str) -> str:
        """The text that a browser would show; entities are read once, so that escaping gives the same text again."""
        if "&" not in text and "<" not in text:
            return text
        shown = _ENTITY.sub(_character, _TAG.sub(_space, _HIDDEN.sub(" ", text)))
        self.count += shown != text
        return shown

    def scalar(self, value: object) -> str:
        """As `jsonlines.scalar`; empty where there is no text."""
        return self.plain(jsonlines.scalar(value) or "").strip()

    def words(self, value: object) -> list[str]:
        """As `jsonlines.words`."""
        return [self.plain(word) for word in jsonlines.words(value)]

    def column(self, texts: pl.Series) -> pl.Series:
        """As `plain`, of a column of strings. (public)"""
        return texts.map_elements(self.plain, return_dtype=pl.String)

    def add_to(self, repairs: dict[str, int]) -> None:
        """Adds the count, unless it is zero."""
        if self.count:
            repairs[MARKUP] = repairs.get(MARKUP, 0) + self.count


def escaped(text: pl.Expr) -> pl.Expr:
    """Text as HTML, from which `Texts.plain` makes the same text again."""
    return text.str.replace_all("&", "&amp;", literal=True).str.replace_all("<", "&lt;", literal=True)


def escaped_list(labels: pl.Expr) -> pl.Expr:
    """A list of texts as HTML."""
    return labels.list.eval(escaped(pl.element()))


def _character(entity: re.Match[str]) -> str:
    """What an entity stands for; itself where HTML does not know its name."""
    name = entity.group()
    return html.unescape(name) if name[1] == "#" else html5.get(name[1:], name)


def _space(tag: re.Match[str]) -> str:
    """A blank for a tag that breaks a line, nothing for one within a word."""
    return "" if (tag.group(1) or tag.group(2)).lower() in _INLINE else " "
