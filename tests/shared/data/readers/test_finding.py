"""What newcomers type: archives, workbooks, misspelled paths and folders above or beside the data."""

from __future__ import annotations

import ast
import bz2
import gzip
import io
import re
import tarfile
import zipfile
from pathlib import Path

import polars as pl
import pytest

from shared.data.readers import load_dataset
from shared.data.readers.convert import check_destination
from shared.data.readers.preview import preview
from shared.errors import ConfigError, DataError

DATASETS = Path(__file__).parents[4] / "shared" / "data" / "readers"
TABLE = "user,item,timestamp\nsecret,x,100\nb,y,200\n"
UNPACK = "Unpack it first (.gz files are read as they are)."
SAVE = "Save the sheet as CSV in UTF-8."


def zipped(**members: str) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, text in members.items():
            archive.writestr(name, text)
    return stream.getvalue()


def tarred() -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        entry = tarfile.TarInfo("a.csv")
        entry.size = len(TABLE)
        archive.addfile(entry, io.BytesIO(TABLE.encode()))
    return stream.getvalue()


OPEN_DOCUMENT = zipped(mimetype="application/vnd.oasis.opendocument.spreadsheet", content="x")
WORKBOOK = zipped(**{"[Content_Types].xml": "x", "xl/workbook.xml": "x"})
OTHERS = {
    "data.zip": (zipped(a="x"), "a zip archive", UNPACK),
    "data.tar": (tarred(), "a tar archive", UNPACK),
    "data.tar.gz": (gzip.compress(tarred()), "a tar archive", UNPACK),
    "data.tgz": (gzip.compress(tarred()), "a tar archive", UNPACK),
    "data.7z": (b"7z\xbc\xaf\x27\x1c rest", "a 7z archive", UNPACK),
    "data.csv.bz2": (bz2.compress(TABLE.encode()), "a bzip2 archive", UNPACK),
    "data.csv.zst": (b"\x28\xb5\x2f\xfd rest", "a zstd archive", UNPACK),
    "data.rar": (b"Rar!\x1a\x07 rest", "a rar archive", UNPACK),
    "book.xlsx": (WORKBOOK, "an Excel workbook", SAVE),
    "book.xls": (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an Excel workbook", SAVE),
    "book.ods": (OPEN_DOCUMENT, "an OpenDocument sheet", SAVE),
    "base.sqlite": (b"SQLite format 3\0", "a SQLite database", "Save the table as CSV or Parquet."),
    "page.html": (b"<!DOCTYPE html><html>secret", "a web page", "Download the file itself."),
}


def refusal(path: Path | str, **options: str) -> str:
    """The one line of a refusal, which a preview gives as well."""
    messages = []
    for read in (load_dataset, preview):
        with pytest.raises(DataError) as caught:
            read(str(path), **options)
        messages.append(str(caught.value))
    assert messages[0] == messages[1] and "\n" not in messages[0] and "secret" not in messages[0]
    return messages[0]


@pytest.mark.parametrize("name", OTHERS)
def test_archives_workbooks_and_others_are_named_with_what_to_do(name: str, tmp_path: Path) -> None:
    content, kind, advice = OTHERS[name]
    path = tmp_path / name
    path.write_bytes(content)
    assert refusal(path) == f"Expected a data set at {path}, found {kind}. {advice}"
    assert refusal(tmp_path) == f"Expected a data set in {tmp_path}, found {kind}, {name}. {advice}"
    inside = f"No file or folder at {path / 'ratings.csv'}. {path} is a file. {advice}"
    assert refusal(path / "ratings.csv") == inside
    for other in ("a.csv", "a.tsv", "a.inter", "a.jsonl", "u.data"):
        (tmp_path / other).write_bytes(content)
        found = refusal(tmp_path / other)
        assert found == f"Expected text in {other}, found {kind}. {advice}"
        (tmp_path / other).unlink()


def test_a_parquet_file_under_another_name_is_told(tmp_path: Path) -> None:
    pl.DataFrame({"user": ["secret"], "item": ["x"], "timestamp": [1]}).write_parquet(tmp_path / "a.csv")
    assert refusal(tmp_path) == "Expected text in a.csv, found a Parquet file. Give it a name that ends in .parquet."


def test_the_nearest_path_is_suggested(tmp_path: Path) -> None:
    folder = tmp_path / "ml-latest"
    folder.mkdir()
    (folder / "ratings.csv").write_text(TABLE)
    for wrong, right in {
        "ml-latset": folder,
        "ML-Latest": folder,
        "ml-latest/rating.csv": folder / "ratings.csv",
        "ml-latest/ratings": folder / "ratings.csv",
        "ml-lates/ratings.csv": folder / "ratings.csv",
        "ml-lates/rating.csv": folder,
    }.items():
        assert refusal(tmp_path / wrong) == f"No file or folder at {tmp_path / wrong}. Did you mean {right}?"
    assert refusal(tmp_path / "zzz").endswith("zzz. Give a path, or 'synthetic' for the embedded set.")


def test_names_of_formats_are_suggested(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"got data\.format='Recbol'\. Did you mean 'recbole'\?$"):
        load_dataset(str(tmp_path), format="Recbol")
    with pytest.raises(ConfigError, match=r"got 'amazon'\. Did you mean 'amazon-2018'\?$|Did you mean 'amazon-20"):
        check_destination(tmp_path / "new", "amazon")
    with pytest.raises(ConfigError, match=r"got 'xyz'\. Choose one of them\.$"):
        check_destination(tmp_path / "new", "xyz")


def test_a_folder_above_the_data_names_the_folders_that_hold_some(tmp_path: Path) -> None:
    for name in ("one", "two", "empty", "notes"):
        (tmp_path / name).mkdir()
    (tmp_path / "one" / "ratings.csv").write_text(TABLE)
    (tmp_path / "two" / "a.inter").write_text("user_id:token\titem_id:token\ttimestamp:float\n1\t2\t3\n")
    (tmp_path / "two" / "b.inter").write_text("user_id:token\titem_id:token\ttimestamp:float\n1\t2\t3\n")
    (tmp_path / "notes" / "package.json").write_text("{}\n")
    assert refusal(tmp_path) == (
        f"Expected a data set in {tmp_path}, found none there, but in its folders: one, two. Give one of them."
    )
    assert refusal(tmp_path, format="recbole").endswith("but in its folders: two. Give one of them.")
    assert refusal(tmp_path / "two").endswith("found 2: a.inter, b.inter. Name the file itself.")


def test_a_file_beside_the_interactions_leads_to_its_folder(tmp_path: Path) -> None:
    (tmp_path / "u.data").write_text("1\t2\t3\t4\n")
    for name in ("u.item", "u.genre"):
        (tmp_path / name).write_text("secret|x\n")
        assert refusal(tmp_path / name) == (
            f"Expected a file of interactions at {tmp_path / name}, found another file of its data set. "
            f"Give the folder {tmp_path}."
        )


def test_a_file_without_a_suffix_is_to_be_renamed_where_other_data_lie_beside_it(tmp_path: Path) -> None:
    (tmp_path / "other.csv").write_text(TABLE)
    (tmp_path / "log").write_text(TABLE)
    assert refusal(tmp_path / "log") == (
        f"Expected a file of interactions at {tmp_path / 'log'}, found a file without a suffix. Name it .csv or .tsv if it "
        "holds separated fields, .jsonl if it holds a JSON object a line. If it belongs to the data set beside it, give the "
        f"folder {tmp_path}."
    )


def test_text_under_an_unknown_name_is_to_be_renamed(tmp_path: Path) -> None:
    (tmp_path / "log.txt").write_text(TABLE)
    assert refusal(tmp_path / "log.txt").endswith(
        "found a file of another name. Name it .csv or .tsv if it holds separated fields, .jsonl if it holds a JSON "
        "object a line."
    )


def _messages(path: Path) -> list[str]:
    """The text of each DataError that a module raises, a name in place of every value."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if (
            isinstance(node, ast.Call)
            and ast.unparse(node.func) == "DataError"
            and isinstance(node.args[0], ast.JoinedStr | ast.Constant)
        ):
            parts = node.args[0].values if isinstance(node.args[0], ast.JoinedStr) else [node.args[0]]
            found.append("".join(str(part.value) if isinstance(part, ast.Constant) else "Value" for part in parts))
    return found


READERS = ("reading", "opening", "rows", "fields", "finding", "movielens", "amazon", "jsonlines", "recbole", "mind", "steam")


@pytest.mark.parametrize("name", [*READERS, "goodreads", "convert", "writing", "__init__"])
def test_every_message_ends_with_what_to_do(name: str) -> None:
    for message in _messages(DATASETS / f"{name}.py"):
        last = re.split(r"(?<=[.?]) |\.Value |^Value ", message)[-1]
        # Where the message ends with a value, that is the advice itself, which is chosen elsewhere.
        assert last.endswith("Value") or (last != message and re.search(r"^[A-Z].*[.?]$", last)), message
        assert not last.startswith(("Expected", "No ", "found")), message
