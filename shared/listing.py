"""Lists in one string: parts separated by commas, with quotation marks around a part that holds one, as in CSV.

Lives here: reading and writing such a string. Never here: what the parts mean.
"""

from __future__ import annotations

from collections.abc import Iterable

from shared.errors import ConfigError


def split_list(text: str, *, name: str) -> list[str]:
    """The parts of a list, without the spaces around them; empty parts are left out.

    A quotation mark at the beginning of a part, or after its `=`, opens a quotation; within it a doubled mark is one mark.
    Anywhere else a mark is a character like others.

    Args:
        text: Such as `a, "b, c", key="d, e"`.
        name: What the list is called in an error.

    Raises:
        ConfigError: If a quotation is not closed, or something follows it other than a comma.
    """
    parts: list[str] = []
    position = 0
    while position <= len(text):
        part, position, quoted = _next_part(text, position, name)
        if part or quoted:
            parts.append(part)
    return parts


def join_list(parts: Iterable[str]) -> str:
    """The string from which `split_list` reads these parts."""
    return ",".join(_spelled(part) for part in parts)


def _spelled(part: str) -> str:
    before, equals, after = part.partition("=")
    plain = part == part.strip() and "," not in part and part and not before.startswith('"')
    if plain and not (equals and after.lstrip().startswith('"')):
        return part
    return '"' + part.replace('"', '""') + '"'


def _next_part(text: str, start: int, name: str) -> tuple[str, int, bool]:
    """One part, the position after the comma that ends it, and whether it was quoted."""
    written, position = "", start
    while position < len(text) and text[position] != ",":
        if text[position] == '"' and (not written.strip() or written.rstrip().endswith("=")):
            inner, position = _quotation(text, position + 1, name)
            rest = text[position:].lstrip()
            if rest and not rest.startswith(","):
                raise ConfigError(
                    f"Expected a comma after a closing quotation mark in {name}, got '{rest[0]}'. Write a quotation mark "
                    "inside a part twice."
                )
            return written.lstrip() + inner, len(text) - len(rest) + 1, True
        written += text[position]
        position += 1
    return written.strip(), position + 1, False


def _quotation(text: str, position: int, name: str) -> tuple[str, int]:
    """What is quoted, and the position after its closing mark."""
    inner = ""
    while position < len(text):
        if text[position] != '"':
            inner += text[position]
            position += 1
        elif text[position : position + 2] == '""':
            inner += '"'
            position += 2
        else:
            return inner, position + 1
    raise ConfigError(
        f"Expected a closing quotation mark in {name}, found none. Close it, or write a mark at the beginning of a part "
        'as """.'
    )
