"""What to say where no data set was found: the nearest name, the archive to unpack, the folder to give.

Here live the messages of a search that failed. Here never lives the search itself, which is each format's.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Final

from shared.data.readers.kinds import kind_of, named_kind
from shared.data.readers.opening import head_of, suffix_of
from shared.errors import DataError

_MOST_FOLDERS: Final = 50
_MOST_NAMES: Final = 5
# Where no path is near. The embedded sets have names and no paths (`simulations/datasets.py`).
NO_SUCH_PATH: Final = "Give a path, or 'synthetic' for the embedded set."
_RENAME: Final = "Name it .csv or .tsv if it holds separated fields, .jsonl if it holds a JSON object a line."


def did_you_mean(name: str, known: Collection[str], otherwise: str) -> str:
    """Suggests the nearest of the known names in a sentence, or says something else where none is near."""
    lower = {known_name.lower(): known_name for known_name in known}
    close = difflib.get_close_matches(name.lower(), lower, n=1)
    return f"Did you mean '{lower[close[0]]}'?" if close else otherwise


def missing(path: Path) -> DataError:
    """The error for a path at which there is nothing; it suggests the nearest path."""
    start = f"No file or folder at {path}."
    if path.is_symlink():
        return DataError(f"{start} It is a link to nothing. Mend the link, or give another path.")
    above = next((parent for parent in path.parents if parent.exists()), path)
    if above.is_file():
        kind = named_kind(above)
        return DataError(f"{start} {above} is a file. {kind.advice if kind else 'Give the file itself.'}")
    name, *rest = path.parts[len(above.parts) :] or (path.name,)
    near = _nearest(name, above)
    if near is not None:
        whole = near.joinpath(*rest)
        return DataError(f"{start} Did you mean {whole if whole.exists() else near}?")
    return DataError(f"{start} {NO_SUCH_PATH}")


def _nearest(name: str, folder: Path) -> Path | None:
    """What lies in a folder under nearly the same name: in other letters, with another suffix, or misspelled."""
    try:
        found = sorted(child.name for child in folder.iterdir())
    except OSError:
        return None
    same = [other for other in found if other.lower() == name.lower() or other.startswith(f"{name}.")]
    close = same or difflib.get_close_matches(name, found, n=1)
    return folder / close[0] if close else None


def nothing_found(path: Path, wanted: str, holds: Callable[[Path], bool]) -> DataError:
    """The error for a path at which there are other files than a data set's.

    Args:
        path: A file or a folder that exists.
        wanted: What was looked for, in words.
        holds: Whether a folder holds a data set.

    Raises:
        DataError: If the file cannot be opened.
    """
    return _nothing_in_folder(path, wanted, holds) if path.is_dir() else _no_data(path, wanted, holds)


def _no_data(path: Path, wanted: str, holds: Callable[[Path], bool]) -> DataError:
    """What a file is, if it is no file of interactions."""
    kind = kind_of(path, head_of(path)) or named_kind(path)
    if kind is not None:
        return DataError(f"Expected a data set at {path}, found {kind.name}. {kind.advice}")
    if holds(path.parent) and not suffix_of(path):  # its name does not say whether it belongs to the data beside it
        return DataError(
            f"Expected a file of interactions at {path}, found a file without a suffix. {_RENAME} If it belongs to the data "
            f"set beside it, give the folder {path.parent}."
        )
    if holds(path.parent):
        return DataError(
            f"Expected a file of interactions at {path}, found another file of its data set. Give the folder {path.parent}."
        )
    return DataError(f"Expected {wanted} at {path}, found a file of another name. {_RENAME}")


def _nothing_in_folder(path: Path, wanted: str, holds: Callable[[Path], bool]) -> DataError:
    """What a folder holds in place of a data set."""
    children = sorted(path.iterdir())
    folders = [child.name for child in children[:_MOST_FOLDERS] if child.is_dir() and holds(child)]
    if folders:
        return DataError(
            f"Expected a data set in {path}, found none there, but in its folders: {_listed(folders)}. Give one of them."
        )
    for child in children:
        kind = named_kind(child) if child.is_file() else None
        if kind is not None:
            return DataError(f"Expected a data set in {path}, found {kind.name}, {child.name}. {kind.advice}")
    return DataError(f"Expected {wanted} at {path}, found none. Check the path, or name the format.")


def several(path: Path, files: Sequence[Path], what: str) -> DataError:
    """The error for a folder with more files of interactions than one.

    Args:
        path: The folder.
        files: The candidates.
        what: What each of them would be, in words.
    """
    names = _listed([file.name for file in files])
    return DataError(f"Expected one {what} in {path}, found {len(files)}: {names}. Name the file itself.")


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:_MOST_NAMES]) + (", ..." if len(names) > _MOST_NAMES else "")
