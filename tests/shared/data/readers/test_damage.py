"""Damaged files of every format: whatever the damage, one clear line that quotes nothing, or a table."""

from __future__ import annotations

import bz2
import gzip
import lzma
import random
import shutil
import tarfile
import zipfile
from pathlib import Path

import polars as pl
import pytest

from shared.data.readers import load_dataset
from shared.data.readers.convert import WRITERS, convert
from shared.data.readers.preview import preview
from shared.errors import TacitError

FORMATS = tuple(WRITERS)
COLUMNAR = (".parquet", ".arrow")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One small data set in every format."""
    source = tmp_path_factory.mktemp("source")
    rng = random.Random(0)
    rows = [(f"secretuser{rng.randrange(9)}", f"secretitem{rng.randrange(7)}", 1_500_000_000 + n * 7) for n in range(60)]
    pl.DataFrame(rows, schema=["user", "item", "timestamp"], orient="row").write_parquet(source / "interactions.parquet")
    items = [f"secretitem{n}" for n in range(7)]
    vectors = pl.Series([[float(n), 1.5] for n in range(7)], dtype=pl.Array(pl.Float32, 2))
    about = {"categories": [["x", "y"]] * 7, "knowledge": [["r: t"]] * 7, "price": [1.5] * 7, "image": vectors}
    pl.DataFrame({"item": items, "text": [f"secret text {n}" for n in range(7)], **about}).write_parquet(
        source / "items.parquet"
    )
    users = pl.DataFrame({"user": [f"secretuser{n}" for n in range(9)], "age": ["30"] * 9})
    users.write_parquet(source / "users.parquet")
    folder = tmp_path_factory.mktemp("written")
    for format in FORMATS:
        convert(load_dataset(str(source)), folder / format, format)
    return folder


def outcome(path: Path, **options: str) -> str:
    """The message of a refusal, "" where it was read; anything else that is raised is a failure."""
    messages = []
    for read in (load_dataset, preview):
        try:
            read(str(path), **options)
            messages.append("")
        except TacitError as error:
            messages.append(str(error))
    for message in messages:
        assert (
            "secret" not in message
            and "\n" not in message
            and (not message or message.startswith(("Expected", "No ", "Cannot")))
        )
    assert messages[0] == messages[1]
    return messages[0]


def data_files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.is_file())


@pytest.mark.parametrize("format", FORMATS)
def test_a_file_that_is_cut_or_scrambled_is_read_or_refused_in_one_line(format: str, written: Path, tmp_path: Path) -> None:
    rng, refused, tried = random.Random(1), 0, 0
    shutil.copytree(written / format, tmp_path / "set")
    for file in data_files(tmp_path / "set"):
        whole = file.read_bytes()
        for cut in {1, len(whole) // 3, len(whole) // 2, len(whole) - 3}:
            file.write_bytes(whole[:cut])
            refused, tried = refused + bool(outcome(tmp_path / "set")), tried + 1
        if file.suffix not in COLUMNAR:
            for _ in range(4):
                at = rng.randrange(len(whole))
                file.write_bytes(whole[:at] + rng.choice([b"\xff", b"\n", b'"', b"\t", b"{", b",,,", b"::"]) + whole[at:])
                outcome(tmp_path / "set")
        file.write_bytes(whole)
    assert outcome(tmp_path / "set") == ""
    assert refused >= tried / 4


@pytest.mark.parametrize("format", FORMATS)
def test_each_file_of_a_format_may_be_missing_or_empty(format: str, written: Path, tmp_path: Path) -> None:
    shutil.copytree(written / format, tmp_path / "set")
    for file in data_files(tmp_path / "set"):
        whole = file.read_bytes()
        file.unlink()
        outcome(tmp_path / "set")
        file.write_bytes(b"")
        message = outcome(tmp_path / "set")
        file.write_bytes(whole)
        if file.name == "dataset_info.json":  # The Arrow streams say all that it says.
            assert message == ""
            continue
        expected = ("Expected data in", "Expected an Arrow stream", "Expected a JSON object", "Expected JSON lines")
        assert message.startswith(expected)


TEXT_FORMATS = [format for format in FORMATS if format not in ("parquet", "huggingface")]


@pytest.mark.parametrize("format", TEXT_FORMATS)
def test_text_files_are_read_packed_in_unicode_of_any_kind_and_with_blank_lines_and_refused_in_archives(
    format: str, written: Path, tmp_path: Path
) -> None:
    expected = load_dataset(str(written / format))
    shutil.copytree(written / format, tmp_path / "set")
    for file in data_files(tmp_path / "set"):
        if file.suffix in COLUMNAR:
            continue
        whole = file.read_bytes()
        file.write_bytes(gzip.compress(whole))
        found = load_dataset(str(tmp_path / "set"))
        assert found.catalog == expected.catalog and found.interactions.frame.equals(expected.interactions.frame)
        for packed, kind in ((bz2.compress(whole), "a bzip2 archive"), (lzma.compress(whole), "an xz archive")):
            file.write_bytes(packed)
            assert outcome(tmp_path / "set") == (
                f"Expected text in {file.name}, found {kind}. Unpack it first (.gz files are read as they are)."
            )
        text = whole.decode()
        file.write_bytes(text.encode("utf-16-le"))
        assert outcome(tmp_path / "set") == (
            f"Expected UTF-8 text in {file.name}, found UTF-16 without a byte-order mark. Save it as UTF-8."
        )
        for other in (
            b"\xef\xbb\xbf" + whole.replace(b"\n", b"\r\n"),
            text.replace("\n", "\r\n").encode("utf-16"),
            b"\xfe\xff" + text.encode("utf-16-be"),
            text.encode("utf-32"),
            whole.replace(b"\n", b"\r"),
            b" \n\r\n" + whole.replace(b"\n", b"\n\n  \n"),
        ):
            file.write_bytes(other)
            found = load_dataset(str(tmp_path / "set"))
            assert found.catalog == expected.catalog and found.interactions.frame.equals(expected.interactions.frame)
        file.write_bytes(whole)


def test_zip_and_tar_archives_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("user,item,timestamp\na,x,100\n" * 20)
    with zipfile.ZipFile(tmp_path / "a.csv", "w") as archive:
        archive.write(tmp_path / "a.txt")
    assert "found a zip archive." in outcome(tmp_path / "a.csv")
    with tarfile.open(tmp_path / "b.csv", "w") as archive:
        archive.add(tmp_path / "a.txt", arcname="a.txt")
    assert "found a tar archive." in outcome(tmp_path / "b.csv")


@pytest.mark.parametrize("format", ["recbole", "movielens", "csv"])
def test_a_text_cell_that_is_no_number_is_located_by_line(format: str, written: Path, tmp_path: Path) -> None:
    shutil.copytree(written / format, tmp_path / "set")
    file = next(
        file
        for file in data_files(tmp_path / "set")
        if file.stem in ("recbole", "ratings", "interactions") and file.suffix in (".inter", ".csv")
    )
    lines = file.read_text().splitlines()
    for number in (10, 20):
        lines[number] = lines[number].replace("15000", "secret", 1)
    file.write_text("\n".join(lines))
    assert outcome(tmp_path / "set").startswith(
        f"Expected timestamps from 1970 on in {file.name}, found 2 violations; first at line 11. Read are "
    )
    lines[5], lines[7] = lines[5] + ",,,,\t\t\t\t", lines[7] + ",,,,\t\t\t\t"
    file.write_text("\n".join(lines))
    assert "found lines with more: 2, first at line 6." in outcome(tmp_path / "set")
