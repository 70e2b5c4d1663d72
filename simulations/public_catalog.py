"""The one question that no data can answer: does the catalog exist independently of these users?

A claim of privacy leaves the catalog out: ids, texts and vectors of items go to every client and into what is released, in
the clear. Where the list was made from what users did or wrote, that an item is in it tells of somebody. So it is asked,
explained and recorded (`data.public_catalog`): a declaration of whoever runs it, which the record's assumptions repeat.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Final

from shared.config import RunConfig
from simulations.datasets import is_synthetic

EXPLANATION: Final = (
    "Ids, texts and vectors of all items go to every client and into the released model, in the clear, without noise. A "
    "list that exists without these users (a shop's products, published films) is public. A list made from what they did or "
    "wrote is not: that an item is in it tells of somebody, and no epsilon covers that."
)
QUESTION: Final = "Does the catalog exist independently of these users?"
NOT_DECLARED: Final = (
    f"The catalog was not declared public; the record says so. {EXPLANATION} Declare it with --public-catalog, or answer no "
    "with --no-public-catalog."
)


def declared(
    config: RunConfig,
    *,
    said: bool | None,
    may_ask: bool,
    confirm: Callable[[str], bool],
    tell: Callable[[str], None],
) -> tuple[RunConfig, str]:
    """The configuration with the answer in it.

    Args:
        config: As given. (public)
        said: The answer on the command line or in the configuration; None where there is none.
        may_ask: Whether a person is there to answer.
        confirm: Asks a question with yes or no.
        tell: Shows a text.

    Returns:
        The configuration, in which a catalog without an answer counts as not public, and what to say of that at the end of
        the run, which is nothing where there was an answer or none is needed.
    """
    if said is not None:
        return config.with_values({"data.public_catalog": said}), ""
    if not config.is_private or is_synthetic(config.data.path):
        return config, ""
    if not may_ask:
        return config, NOT_DECLARED
    tell(EXPLANATION)
    return config.with_values({"data.public_catalog": confirm(QUESTION)}), ""


def someone_answers() -> bool:
    """Whether a person sits at the terminal."""
    return sys.stdin.isatty() and sys.stderr.isatty()
