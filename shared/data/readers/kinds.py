"""Files that hold no text: how they begin, what they are called, and what to do with them.

Here live the marks and suffixes of other kinds of files. Here never lives reading them: a message says how to make a file
that is read.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

HEAD_BYTES: Final = 1024
GZIP: Final = b"\x1f\x8b"
_TAR_MARK: Final = 257  # Where "ustar" stands in a tar archive.
_OPEN_DOCUMENT: Final = b"mimetypeapplication/vnd.oasis.opendocument"  # At byte 30, by the OpenDocument specification.
_UNPACK: Final = "Unpack it first (.gz files are read as they are)."
_SAVE_SHEET: Final = "Save the sheet as CSV in UTF-8."
_SAVE_TABLE: Final = "Save the table as CSV or Parquet."


@dataclass(frozen=True)
class Kind:
    """A kind of file that is not read.

    Attributes:
        name: Such as "a zip archive".
        advice: What to do, in a sentence.
        suffixes: How its files are named, in lower case.
        marks: How its files begin, by its own specification.
    """

    name: str
    advice: str
    suffixes: tuple[str, ...] = ()
    marks: tuple[bytes, ...] = ()


TAR: Final = Kind("a tar archive", _UNPACK, (".tar", ".tgz", ".tbz", ".txz"))
EXCEL: Final = Kind("an Excel workbook", _SAVE_SHEET, (".xlsx", ".xlsm", ".xlsb", ".xls"), (b"\xd0\xcf\x11\xe0",))
OPEN_DOCUMENT: Final = Kind("an OpenDocument sheet", _SAVE_SHEET, (".ods",))
KINDS: Final = (
    Kind("a zip archive", _UNPACK, (".zip",), (b"PK\x03\x04", b"PK\x05\x06")),
    Kind("a bzip2 archive", _UNPACK, (".bz2",), (b"BZh",)),
    Kind("an xz archive", _UNPACK, (".xz", ".lzma"), (b"\xfd7zXZ\x00",)),
    Kind("a zstd archive", _UNPACK, (".zst", ".zstd"), (b"\x28\xb5\x2f\xfd",)),
    Kind("an lz4 archive", _UNPACK, (".lz4",), (b"\x04\x22\x4d\x18",)),
    Kind("a 7z archive", _UNPACK, (".7z",), (b"7z\xbc\xaf\x27\x1c",)),
    Kind("a rar archive", _UNPACK, (".rar",), (b"Rar!\x1a\x07",)),
    TAR,
    EXCEL,
    OPEN_DOCUMENT,
    Kind("a Parquet file", "Give it a name that ends in .parquet.", (), (b"PAR1",)),
    Kind("an Arrow file", _SAVE_TABLE, (".feather", ".ipc"), (b"ARROW1", b"FEA1")),
    Kind("an ORC file", _SAVE_TABLE, (".orc",)),
    Kind("a SQLite database", _SAVE_TABLE, (".sqlite", ".sqlite3", ".db"), (b"SQLite format 3\0",)),
    Kind("an HDF5 file", _SAVE_TABLE, (".h5", ".hdf", ".hdf5"), (b"\x89HDF\r\n\x1a\n",)),
    Kind("a NumPy file", _SAVE_TABLE, (".npy", ".npz"), (b"\x93NUMPY",)),
    Kind("a Python pickle", _SAVE_TABLE, (".pkl", ".pickle"), (b"\x80\x03", b"\x80\x04", b"\x80\x05")),
    Kind("a PDF document", "Get the data as CSV.", (".pdf",), (b"%PDF-",)),
    Kind("a web page", "Download the file itself.", (".html", ".htm"), (b"<!doctype html", b"<html")),
    Kind("a Git LFS pointer", "Get the file itself: git lfs pull.", (), (b"version https://git-lfs",)),
)


def kind_of(path: Path, head: bytes) -> Kind | None:
    """The kind of a file by how it begins; None where it may be text.

    Args:
        path: Its name tells workbooks from other zip archives.
        head: Its first bytes, `HEAD_BYTES` or more of them where there are so many.
    """
    start = head[:64].lstrip().lower()
    found = next((kind for kind in KINDS for mark in kind.marks if head.startswith(mark) or start.startswith(mark)), None)
    if found is None:
        return TAR if head[_TAR_MARK : _TAR_MARK + 5] == b"ustar" else None
    if head.startswith(b"PK"):
        if head[30:].startswith(_OPEN_DOCUMENT):
            return OPEN_DOCUMENT
        if path.suffix.lower() in EXCEL.suffixes or b"[Content_Types].xml" in head or b"xl/" in head:
            return EXCEL
    return found


def named_kind(path: Path) -> Kind | None:
    """The kind of a file by its name alone; None where the name says nothing."""
    name = path.name.lower()
    if ".tar." in name:
        return TAR
    return next((kind for kind in KINDS if name.endswith(kind.suffixes)), None)
