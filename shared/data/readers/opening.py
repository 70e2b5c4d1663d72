"""Opening files: unpacking, decoding, line ends, and blocks that end where a line does.

Here live the faults that a file can have before it has fields, each told in one line. Here never live fields. A file is
read block by block, so that memory is bounded by what is kept and not by the file. Every reader of text takes
its blocks from here; a test keeps that (`tests/contracts/test_architecture.py`).
"""

from __future__ import annotations

import codecs
import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final, cast

from shared.data.readers.kinds import GZIP, HEAD_BYTES, kind_of
from shared.errors import DataError
from shared.files import wide_encoding

BLOCK_BYTES: Final = 32 << 20


def suffix_of(path: Path) -> str:
    """The suffix in lower case, without `.gz`: ".csv" of "Ratings.CSV.gz"."""
    name = path.name.lower().removesuffix(".gz")
    return Path(name).suffix


def stem_of(path: Path) -> str:
    """The name in lower case without suffix and `.gz`: "ratings" of "Ratings.CSV.gz"."""
    return Path(path.name.lower().removesuffix(".gz")).stem


def blocks(path: Path, *, size: int = BLOCK_BYTES) -> Iterator[bytes]:
    """Gives a file in blocks of whole lines, each of which ends with a line feed; `.gz` files are unpacked on the way.

    Args:
        path: The file.
        size: About how many bytes a block has; a longer line makes a longer block.

    Raises:
        DataError: If it is missing, a folder, unreadable, empty, an archive, binary, or a `.gz` file that is cut.
    """
    block, rest, blank = b"", b"", True
    for piece in _with_line_feeds(_pieces(path, size)):
        rest += piece
        end = rest.rfind(b"\n") + 1
        if end:
            if block:
                yield block
            block, rest = rest[:end], rest[end:]
            blank = blank and block.isspace()
    # Empty lines at the end are no rows.
    block = (block + rest).rstrip(b"\n")
    if blank and not block.strip():
        raise DataError(f"Expected data in {path.name}, found an empty file. Is it the right file?")
    if block:
        yield block + b"\n"


def head_of(path: Path) -> bytes:
    """The first bytes of a file, unpacked, as they are; fewer where it is short or damaged.

    Raises:
        DataError: If it cannot be opened.
    """
    try:
        with _opened(path) as stream:
            return stream.read(HEAD_BYTES)
    except (EOFError, zlib.error, gzip.BadGzipFile):
        return b""
    except OSError as error:
        raise DataError(f"Cannot read {path}: {error.strerror}. Check its permissions.") from error


def _pieces(path: Path, size: int) -> Iterator[bytes]:
    """The text of a file in UTF-8, unpacked, without byte-order mark, some bytes at a time.

    UTF-16, which spreadsheets call Unicode text, is known by its byte-order mark.
    """
    try:
        with _opened(path) as stream:
            piece = stream.read(max(size, HEAD_BYTES))
            kind = kind_of(path, piece)
            if kind is not None:
                raise DataError(f"Expected text in {path.name}, found {kind.name}. {kind.advice}")
            encoding = wide_encoding(piece)
            decoder = None if encoding is None else codecs.getincrementaldecoder(encoding)()
            piece = piece.removeprefix(codecs.BOM_UTF8)
            while piece:
                if decoder is not None:
                    piece = decoder.decode(piece).encode()
                if b"\0" in piece:
                    raise _binary(path, piece)
                yield piece
                piece = stream.read(size)
            if decoder is not None:
                decoder.decode(b"", final=True)
    except FileNotFoundError as error:
        raise DataError(f"No file at {path}. Check the path.") from error
    except IsADirectoryError as error:
        raise DataError(f"Expected a file at {path}, found a folder. Give a file of that name.") from error
    except (EOFError, zlib.error, gzip.BadGzipFile):
        raise DataError(
            f"Expected a whole gzip file at {path.name}, found one that is cut or damaged. Fetch it again."
        ) from None
    except UnicodeError:
        raise DataError(
            f"Expected {str(encoding).upper()} text in {path.name}, as its byte-order mark says, found other bytes. "
            "Save it as UTF-8."
        ) from None
    except OSError as error:
        raise DataError(f"Cannot read {path}: {error.strerror}. Check its permissions.") from error


def _opened(path: Path) -> IO[bytes]:
    """The file, or what a gzip file holds, whatever its name."""
    stream = path.open("rb")
    try:
        packed = stream.read(2) == GZIP
        stream.seek(0)
    except BaseException:
        stream.close()
        raise
    if not packed:
        return stream
    stream.close()
    return cast(IO[bytes], gzip.open(path, "rb"))


def _binary(path: Path, piece: bytes) -> DataError:
    """The error for NUL characters, which UTF-16 without byte-order mark has in every other place."""
    sides = [piece[side : 4 * HEAD_BYTES : 2] for side in (0, 1)]
    if any(len(side) > 3 and side.count(0) > 0.9 * len(side) for side in sides):
        return DataError(f"Expected UTF-8 text in {path.name}, found UTF-16 without a byte-order mark. Save it as UTF-8.")
    return DataError(f"Expected text in {path.name}, found binary data. Unpack or convert it first.")


def _with_line_feeds(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Makes line feeds of Windows' line ends, and of lone carriage returns where the first line ends with one."""
    lone: bool | None = None
    held = b""
    for piece in pieces:
        text = held + piece
        # What comes after a carriage return decides about it.
        whole = text.rstrip(b"\r")
        held, text = text[len(whole) :], whole
        if lone is None:
            lone = _first_line_ends_with_a_return(text)
        # One character is found many times faster than two.
        while b"\r" in text and b"\r\n" in text:
            text = text.replace(b"\r\n", b"\n")
        yield text.replace(b"\r", b"\n") if lone else text
    if held:
        yield b"\n" * len(held)


def _first_line_ends_with_a_return(text: bytes) -> bool | None:
    """None where no line ends."""
    at, feed = text.find(b"\r"), text.find(b"\n")
    if at < 0 or 0 <= feed < at:
        return None if feed < 0 else False
    return not text[at:].lstrip(b"\r").startswith(b"\n")


def decoded(data: bytes, path: Path, line: int, encoding: str = "utf-8") -> bytes:
    """The same text in UTF-8.

    Args:
        data: Whole lines.
        path: The file, for messages.
        line: Number of the first line.
        encoding: "utf-8", or "latin-1" where a line that is no UTF-8 is latin-1. A text in latin-1 that is UTF-8 by chance
            has never been written: it would need "Ã" before a sign for each accent.

    Raises:
        DataError: If it is in another encoding.
    """
    if data.isascii():
        return data
    try:
        data.decode()
    except UnicodeDecodeError as error:
        if encoding == "latin-1":
            return b"\n".join(_utf8(text) for text in data.split(b"\n"))
        at = line + data.count(b"\n", 0, error.start)
        raise DataError(
            f"Expected UTF-8 text in {path.name}, found other bytes; first at line {at}. Save it as UTF-8: "
            "iconv -f WINDOWS-1252 -t UTF-8, or the encoding that it has."
        ) from None
    return data


def _utf8(line: bytes) -> bytes:
    """A line of UTF-8 or latin-1 as UTF-8."""
    try:
        line.decode()
    except UnicodeDecodeError:
        return line.decode("latin-1").encode()
    return line
