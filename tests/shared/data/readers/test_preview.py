import gzip
import json
import tempfile
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from shared.data.readers import load_dataset
from shared.data.readers.convert import WRITERS, convert
from shared.data.readers.preview import HEAD_BYTES, WHOLE_BYTES, preview
from shared.errors import DataError


def log(path: Path, rows: int) -> Path:
    lines = "".join(f"u{n % 97},item{n % 31},{1_500_000_000 + n},{n % 5}\n" for n in range(rows))
    path.write_text("who,what,when,stars\n" + lines)
    return path


COLUMNS = "user=who,item=what,timestamp=when"


def test_a_preview_says_which_column_is_what_and_shows_rows_as_understood(tmp_path: Path) -> None:
    log(tmp_path / "log.csv", 40)
    (tmp_path / "items.csv").write_text("what,title,genre\nitem1,One,a|b\nitem0,,\n")
    (tmp_path / "users.tsv").write_text("who\tage\nu1\t30\n")
    shown = preview(str(tmp_path), columns=COLUMNS, rows=2)
    assert shown["roles"] == {
        "log.csv": {"user": "who", "item": "what", "timestamp": "when", "value": "stars"},
        "items.csv": {"item": "what", "text": "title", "categories": "genre"},
        "users.tsv": {"user": "user"},
    }
    assert shown["interactions"][1] == {
        "user": "u1",
        "item": "item1",
        "timestamp": 1_500_000_001,
        "value": 1.0,
        "time": "2017-07-14T02:40:01+00:00",
    }
    assert shown["items"] == [
        {"item": "item1", "text": "One. a b", "categories": ["a", "b"]},
        {"item": "item0", "text": "item0", "categories": None},
    ]
    assert shown["users"] == [{"user": "u1", "age": "30"}]
    assert (shown["format"], shown["whole"], shown["interactions_looked_at"]) == ("tabular", True, 40)
    json.dumps(shown)


@pytest.mark.parametrize("format", WRITERS)
def test_a_preview_of_every_format_shows_the_rows_that_reading_gives(format: str, tmp_path: Path) -> None:
    folder = tmp_path / format
    convert(load_dataset(str(log(tmp_path / "log.csv", 50)), columns=COLUMNS), folder, format, lossy=True)
    shown, read = preview(str(folder), rows=50), load_dataset(str(folder))
    rows = [{name: row[name] for name in read.interactions.frame.columns} for row in shown["interactions"]]
    assert rows == read.interactions.frame.to_dicts() and shown["whole"] and shown["name"] == format
    roles = {role for columns in shown["roles"].values() for role in columns}
    assert {"user", "item", "timestamp"} <= roles and shown["format"] in (format, format.partition("-")[0], "tabular")


@pytest.mark.parametrize("kind", ["csv", "gz", "parquet", "json"])
def test_of_a_big_file_only_the_head_is_read(kind: str, tmp_path: Path) -> None:
    rows = 900_000
    frame = pl.DataFrame(
        {"user_id": pl.int_range(rows, eager=True) % 97, "parent_asin": "item", "timestamp": pl.int_range(rows, eager=True)}
    )
    frame = frame.with_columns(pl.col("timestamp") * 7919 + 1_500_000_000, note=pl.lit("a note that makes the file longer"))
    path = tmp_path / ("log.csv" if kind == "gz" else f"log.{kind}")
    {"parquet": frame.write_parquet, "json": frame.write_ndjson}.get(kind, frame.write_csv)(path)
    if kind == "gz":
        packed = path.with_name("log.csv.gz")
        packed.write_bytes(gzip.compress(path.read_bytes(), 0))
        path.unlink()
        path = packed
    if kind == "parquet":
        frame.with_columns(note=pl.int_range(rows).hash()).write_parquet(path)
    assert path.stat().st_size > WHOLE_BYTES
    shown = preview(str(path), rows=1)
    assert not shown["whole"] and 1000 < shown["interactions_looked_at"] < HEAD_BYTES / 20
    seconds = 1_500_000 if kind == "json" else 1_500_000_000  # Amazon's JSON of 2023 counts milliseconds.
    assert shown["interactions"][0]["user"] == "0" and shown["interactions"][0]["timestamp"] == seconds


def test_a_preview_leaves_nothing_behind_and_names_the_files_where_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    data = tmp_path / "data"
    data.mkdir()
    log(data / "a.csv", 9)
    preview(str(data), columns=COLUMNS)
    log(data / "b.csv", 9)
    for path, message in (
        (data, f"Expected one file of interactions in {data}, found 2: a.csv, b.csv. Name the file itself."),
        (tmp_path / "none", f"No file or folder at {tmp_path / 'none'}. Give a path, or 'synthetic' for the embedded set."),
    ):
        with pytest.raises(DataError) as caught:
            preview(str(path))
        assert str(caught.value) == message
    assert list((tmp_path / "temporary").iterdir()) == []
    assert sorted(file.name for file in data.iterdir()) == ["a.csv", "b.csv"]


def test_a_preview_names_vectors_without_reading_them(tmp_path: Path) -> None:
    path = log(tmp_path / "log.csv", 9)
    np.save(tmp_path / "v.npy", np.zeros((5, 3), dtype=np.float32))
    pl.DataFrame({"item": ["item1"], "v": [[1.0]]}).write_parquet(tmp_path / "w.parquet")
    shown = preview(str(path), columns=COLUMNS, vectors="image=v.npy,sound=w.parquet")
    assert shown["roles"]["v.npy"] == {"image": "5 x 3 float32"}
    assert shown["roles"]["w.parquet"] == {"sound": "item String, v List(Float64)"}
    assert preview(str(tmp_path), columns=COLUMNS, vectors="sound=w.parquet")["interactions_looked_at"] == 9
    (tmp_path / "v.npy").write_bytes(b"x")
    with pytest.raises(DataError, match=r"^Expected an array of numbers in v\.npy, found something else"):
        preview(str(path), columns=COLUMNS, vectors="image=v.npy")
