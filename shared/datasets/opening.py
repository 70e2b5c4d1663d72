"""Opening files: unpacking, decoding, and blocks that end where a line does.

Here live the faults that a file can have before it has fields, each told in one line. Here never live fields. A file is
read block by block, so that memory is bounded by what is kept and not by the file.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final, cast

from shared.errors import DataError

BLOCK_BYTES: Final = 32 << 20
# How files of other kinds begin, by their own specifications; what they are called in a message.
ARCHIVES: Final = (
    (b"PK\x03\x04", "a zip archive"),
    (b"BZh", "a bzip2 archive"),
    (b"\xfd7zXZ\x00", "an xz archive"),
    (b"\x28\xb5\x2f\xfd", "a zstd archive"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"Rar!\x1a\x07", "a rar archive"),
)
GZIP: Final = b"\x1f\x8b"
TAR_MARK: Final = 257  # Where "ustar" stands in a tar archive.


def suffix_of(path: Path) -> str:
    """The suffix in lower case, without `.gz`: ".csv" of "Ratings.CSV.gz"."""
    name = path.name.lower().removesuffix(".gz")
    return Path(name).suffix


def stem_of(path: Path) -> str:
    """The name in lower case without suffix and `.gz`: "ratings" of "Ratings.CSV.gz"."""
    return Path(path.name.lower().removesuffix(".gz")).stem


def blocks(path: Path, *, size: int = BLOCK_BYTES, quote: str | None = None) -> Iterator[bytes]:
    """Gives a file in blocks that end where a line does; `.gz` files are unpacked on the way.

    Args:
        path: The file.
        size: About how many bytes a block has; a longer line makes a longer block.
        quote: The character between which a line break does not end a line; None: there is none.

    Raises:
        DataError: If it is missing, a folder, unreadable, empty, an archive, binary, or a `.gz` file that is cut.
    """
    block, rest, blank = b"", b"", True
    for piece in _pieces(path, size):
        rest += piece
        end = _last_line_end(rest, quote)
        if end:
            if block:
                yield block
            block, rest = rest[:end], rest[end:]
            blank = blank and not block.strip()
    # Empty lines at the end are no rows.
    block = (block + rest).rstrip(b"\r\n")
    if blank and not block.strip():
        raise DataError(f"Expected data in {path.name}, found an empty file.")
    if block:
        yield block + b"\n"


def _pieces(path: Path, size: int) -> Iterator[bytes]:
    """The bytes of a file, unpacked, without byte-order mark, some at a time."""
    first = True
    try:
        with _opened(path) as stream:
            while piece := stream.read(size):
                if first:
                    _refuse_other_kinds(path, piece)
                    piece = piece.removeprefix(b"\xef\xbb\xbf")
                    first = False
                if b"\0" in piece:
                    raise DataError(f"Expected text in {path.name}, found binary data. Unpack or convert it first.")
                yield piece
    except FileNotFoundError as error:
        raise DataError(f"No file at {path}. Check the path.") from error
    except IsADirectoryError as error:
        raise DataError(f"Expected a file at {path}, found a folder.") from error
    except (EOFError, zlib.error, gzip.BadGzipFile):
        raise DataError(
            f"Expected a whole gzip file at {path.name}, found one that is cut or damaged. Fetch it again."
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


def _refuse_other_kinds(path: Path, head: bytes) -> None:
    """Names an archive, or another encoding, by how it begins."""
    found = next((kind for mark, kind in ARCHIVES if head.startswith(mark)), None)
    if found is None and head[TAR_MARK : TAR_MARK + 5] == b"ustar":
        found = "a tar archive"
    if found is not None:
        raise DataError(f"Expected text in {path.name}, found {found}. Unpack it first (.gz files are read as they are).")
    if head[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise DataError(f"Expected UTF-8 text in {path.name}, found UTF-16. Convert it: iconv -f UTF-16 -t UTF-8.")


def _last_line_end(data: bytes, quote: str | None) -> int:
    """Where the last whole line ends; 0 where there is none."""
    end = data.rfind(b"\n") + 1
    if quote is None or not end:
        return end
    mark = quote.encode()
    odd = data.count(mark, 0, end) % 2
    while end and odd:
        earlier = data.rfind(b"\n", 0, end - 1) + 1
        odd = (odd - data.count(mark, earlier, end)) % 2
        end = earlier
    return end


def decoded(data: bytes, path: Path, line: int, encoding: str = "utf-8") -> bytes:
    """The same text in UTF-8.

    Raises:
        DataError: If it is in another encoding; `line` is the number of its first line.
    """
    if encoding == "latin-1":
        return data if data.isascii() else data.decode("latin-1").encode()
    if not data.isascii():
        try:
            data.decode()
        except UnicodeDecodeError as error:
            at = line + data.count(b"\n", 0, error.start)
            raise DataError(
                f"Expected UTF-8 text in {path.name}, found other bytes; first at line {at}. Convert it."
            ) from None
    return data
