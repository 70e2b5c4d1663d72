"""Settings as text: TOML files, `section.key=value`, nested and dotted keys."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from shared.config.sections import Scalar
from shared.errors import ConfigError
from shared.files import read_text


def flatten(values: Mapping[str, Any]) -> dict[str, Any]:
    """`{"a": {"b": 1}}` -> `{"a.b": 1}`; dotted keys stay as they are."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat.update({f"{key}.{name}": inner for name, inner in flatten(value).items()})
        else:
            flat[key] = value
    return flat


def read_toml(path: Path) -> dict[str, Any]:
    """Reads a TOML file.

    Raises:
        ConfigError: If the file is missing, unreadable or not TOML.
    """
    try:
        return tomllib.loads(read_text(path).replace("\r\n", "\n"))
    except FileNotFoundError:
        raise ConfigError(f"Expected a configuration file, found none at {path}. Check the path.") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"Expected TOML in {path.name}, got a syntax error: {error}. Mend the file.") from None
    except UnicodeDecodeError:
        raise ConfigError(f"Expected TOML text in UTF-8 in {path.name}, got binary data. Mend the file.") from None
    except OSError as error:
        raise ConfigError(f"Expected a readable file, could not read {path.name}: {error.strerror}.") from None


def parse_assignments(assignments: Iterable[str]) -> dict[str, Scalar]:
    """Parses `section.key=value` as given to `--set`; the value is TOML, or a bare string.

    Raises:
        ConfigError: If there is no `=`.
    """
    values: dict[str, Scalar] = {}
    for assignment in assignments:
        key, separator, text = assignment.partition("=")
        if not separator or not key.strip():
            raise ConfigError(
                f"Expected section.key=value after --set, got '{assignment}'. Write e.g. training.local_steps=3."
            )
        try:
            value: Any = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            value = text.strip()
        if not isinstance(value, bool | int | float | str):
            value = text.strip()
        values[key.strip()] = value
    return values
