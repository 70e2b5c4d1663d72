"""Keyword arguments of a Python function -> the configuration of a run.

Lives here: `section__key=value`, a mapping of dotted keys, and arguments with names of their own, as one configuration.
Never here: a default; those are `shared/config/sections.py`'s.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from shared.errors import ConfigError

if TYPE_CHECKING:
    from shared.config import RunConfig


def configuration(named: Mapping[str, Any], settings: Mapping[str, Any] | None, more: Mapping[str, Any]) -> RunConfig:
    """The configuration that a call asks for.

    Args:
        named: Values of arguments with a name of their own, by dotted key. (public)
        settings: Dotted keys and values, as `tacit config` lists them; nested sections count too. (public)
        more: The same as keyword arguments, two underscores for the dot. (public)

    Raises:
        ConfigError: For an unknown key (with a suggestion), a wrong value, or a key that is given twice.
    """
    from shared.config import RunConfig, flatten

    if settings is not None and not isinstance(settings, Mapping):
        raise ConfigError(
            f"Expected settings to be a mapping of dotted keys, got settings={settings!r}. Write e.g. "
            "settings={'model.layers': 2}."
        )
    given = flatten(settings or {})
    keywords = {key.replace("__", ".", 1): value for key, value in more.items()}
    for one, other, how in (
        (keywords, given, "as a keyword and in settings"),
        (named, {**given, **keywords}, "as an argument of its own and as a setting"),
    ):
        if twice := sorted(one.keys() & other.keys()):
            raise ConfigError(f"Expected {twice[0]} once, got it {how}. Leave one of them out.")
    values = {**given, **keywords, **named}
    paths = {key: os.fspath(value) for key, value in values.items() if isinstance(value, os.PathLike)}
    return RunConfig.from_mapping({**values, **paths}, source="the arguments")
