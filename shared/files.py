"""Writing files so that nobody ever sees half of one: a temporary file, fsync, rename; small texts that people wrote.

Reading data files, which may be large or packed, is `shared/data/readers/opening.py`.
"""

from __future__ import annotations

import codecs
import json
import math
import os
import stat
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any, Final

from shared.errors import ConfigError

# Byte-order marks and what they announce; the longer ones first, since one begins another.
_WIDE: Final = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def write_atomically(path: Path, write: Callable[[IO[bytes]], object], *, mode: int = 0o644) -> None:
    """Writes a file under a temporary name in the same folder, syncs it to disk, and renames it.

    Args:
        path: Where the file shall be; missing parent folders are made.
        write: Called with the open binary stream.
        mode: Of the file; it is never readable for more people than that.

    Raises:
        OSError: If the disk is full or read-only; `path` is then as it was before.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as stream:
            write(stream)
            stream.flush()
            os.fsync(stream.fileno())
        Path(temporary).chmod(mode)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def verify_unused(out: Path) -> None:
    """Passes if a file can be made there without replacing one.

    Raises:
        ConfigError: If there is one, or no folder for it.
    """
    if out.exists() or out.is_symlink():
        raise ConfigError(f"Expected a new file at --out, found {out.name} there. Name another, or move it away.")
    if not out.parent.is_dir():
        raise ConfigError(f"Expected --out in a folder that exists, found no folder {out.parent.name}. Make it first.")


def verify_owner_alone(path: Path) -> None:
    """Passes if the mode of a secret's file lets its owner alone read and write it.

    Raises:
        ConfigError: If the group or others may.
        OSError: If there is no such file.
    """
    if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise ConfigError(
            f"Expected {path.name} to be readable for its owner alone, got a wider mode. It holds a secret; use chmod 600."
        )


def require_unicode(name: str, text: str) -> None:
    """Refuses a name from outside that is no Unicode: records, reports and several libraries could not spell it.

    Args:
        name: What it is, for the message.
        text: As Python decodes paths and arguments, with surrogates for other bytes.

    Raises:
        ConfigError: If it is none.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        shown = text.encode(errors="backslashreplace").decode()
        raise ConfigError(
            f"Expected {name} in UTF-8, got other bytes in '{shown}'. Rename the file or folder, e.g. with mv or convmv."
        ) from None


def wide_encoding(head: bytes) -> str | None:
    """The encoding that a byte-order mark announces, where it is of two or four bytes a character; None for UTF-8."""
    return next((encoding for mark, encoding in _WIDE if head.startswith(mark)), None)


def read_text(path: Path) -> str:
    """Reads text that people wrote: UTF-8, or whatever its byte-order mark says, as Windows' editors write it.

    Raises:
        OSError: If the file cannot be read.
        UnicodeDecodeError: If it is no text.
    """
    content = path.read_bytes()
    return content.decode(wide_encoding(content) or "utf-8-sig")


def write_json(path: Path, value: Any) -> None:
    """Writes a JSON file atomically; NaN and infinity are refused, because JSON has neither."""
    text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    write_atomically(path, lambda stream: stream.write(text.encode()))


def finite(value: Any) -> Any:
    """A copy in which infinity and NaN, which JSON lacks, are None, and mappings and sequences are JSON's own."""
    if isinstance(value, Mapping):
        return {key: finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [finite(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
