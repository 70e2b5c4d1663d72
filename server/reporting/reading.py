"""Parts of a JSON object that may be absent: what a page shows where a file does not hold everything.

Lives here: looking up, and nothing of what is found. Whether a file is whole is said by its type (`records.py`).
"""

from collections.abc import Mapping
from typing import Any


def section(record: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """Returns a nested mapping of the record, or an empty one where the path is absent or null.

    Args:
        record: A run record or a part of it.
        *names: Keys from the outside in.

    Returns:
        A shallow copy of the mapping at that place.
    """
    here: Any = record
    for name in names:
        here = here.get(name) if isinstance(here, Mapping) else None
    return dict(here) if isinstance(here, Mapping) else {}


def entries(record: Mapping[str, Any], *names: str) -> list[dict[str, Any]]:
    """Returns a nested list of mappings of the record; what is no mapping is left out.

    Args:
        record: A run record or a part of it.
        *names: Keys from the outside in, at least one.

    Returns:
        The mappings in their order; empty where the path is absent or null.
    """
    found = section(record, *names[:-1]).get(names[-1])
    return [dict(entry) for entry in found if isinstance(entry, Mapping)] if isinstance(found, (list, tuple)) else []
