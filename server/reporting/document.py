"""One self-contained HTML page from a template.

Lives here: what the research record's page and the release report's page have in common: templates, style, writing, and how
a digest, a date or any scalar is written. Never here: what stands on a page, or a number. A page loads
nothing: style and charts are inline, and a content policy in its head forbids the browser every request, so that it may be
opened and sent anywhere. Text is escaped by the template engine, because names come from files that somebody else wrote.
"""

import json
import re
from collections.abc import Mapping
from datetime import datetime
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup, escape

from server.reporting import comparison, parts_template, release_template
from server.reporting.style import CSS
from shared import wording
from shared.files import write_atomically

_PACKED = {"release.html": release_template.TEMPLATE, "parts.html": parts_template.TEMPLATE}
_NUMBER = re.compile(r"[εδ] = \d[\d.,e-]*\d|\d[\d.]*e-\d+|\d[\d.]* %")


def render(template: str, **parts: Any) -> str:
    """Fills a template of this package.

    Guarantee:
        Every text among the parts is escaped.

    Args:
        template: File name, for example `report.html`.
        **parts: What the template lays out.

    Returns:
        The page.
    """
    return _environment().get_template(template).render(style=Markup(CSS), **parts)


@cache
def _environment() -> Environment:
    """The template engine, which compiles each template once."""
    environment = Environment(
        loader=FunctionLoader(_read),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["text"] = wording
    environment.globals["models"] = comparison
    environment.filters["unbroken"] = unbroken
    return environment


def _read(name: str) -> str:
    """A template's text: of those that a server under Flower needs, a module's; of the others, a file's."""
    if name in _PACKED:
        return _PACKED[name]
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def write_page(path: Path, page: str) -> Path:
    """Writes a page whole or not at all, and returns its path; an older page is replaced in one step."""
    write_atomically(path, lambda stream: stream.write(page.encode()))
    return path


def unbroken(sentence: str) -> Markup:
    """A sentence, escaped, in which no line ends inside a number such as 1e-5 or 97 %."""
    return Markup(_NUMBER.sub(r'<span class="whole">\g<0></span>', str(escape(sentence))))


def scalar_text(value: object) -> str:
    """Any value of a JSON file in one line."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def scalar_rows(mapping: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Pairs of name and text of the values that are there and are neither lists nor objects."""
    return [
        (key.replace("_", " "), scalar_text(value))
        for key, value in mapping.items()
        if value is not None and not isinstance(value, Mapping | list)
    ]


def digest_text(value: object) -> str:
    """The beginning of a digest, enough to tell two apart."""
    digest = str(value or "")
    return wording.MISSING if not digest else digest if len(digest) <= 16 else f"{digest[:16]}…"


def date_text(value: object) -> str:
    """A moment to the minute with its time zone; what is no date as it is."""
    try:
        moment = datetime.fromisoformat(str(value))
    except ValueError:
        return str(value or "date not recorded")
    zone = moment.tzname() if moment.tzinfo else None
    return f"{moment:%Y-%m-%d %H:%M}" + (f" {zone}" if zone else "")
