"""An owner's file into the node's database: every format the same, refused whole, located and never quoted."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import client.store.ingest as module
from client.store.ingest import Ingested, ingest, spelled
from client.store.interactions import Added, InteractionStore
from client.store.local import LocalData
from client.store.population import read_clients
from shared.config import RunConfig
from shared.data.readers import load_dataset
from shared.data.splitting import HISTORIES_SCHEMA, split
from shared.errors import ConfigError, DataError, StoreUnavailable
from simulations.population import write_population
from tests import running

Row = tuple[str, str, int]
TIME = 1_600_000_000
ROWS: list[Row] = [("u", "a", TIME), ("u", "b", TIME + 1), ("v", "a", TIME + 2), ("wörld", "c,d", TIME + 3)]
CSV = "user,item,timestamp\n" + "".join(f'{user},"{item}",{time}\n' for user, item, time in ROWS)
HIDDEN = "hush"


@pytest.fixture
def store(tmp_path: Path) -> InteractionStore:
    store = InteractionStore(tmp_path / "node" / "interactions.sqlite", timeout_seconds=0.05)
    store.create()
    return store


def content(store: InteractionStore) -> list[Row]:
    return sorted(store.read().iter_rows())


def written(folder: Path, name: str, text: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def as_json(rows: list[Row]) -> str:
    return "".join(json.dumps({"user": user, "item": item, "timestamp": time}) + "\n" for user, item, time in rows)


def as_parquet(rows: list[Row]) -> bytes:
    stream = io.BytesIO()
    pl.DataFrame(rows, schema=["user", "item", "timestamp"], orient="row").write_parquet(stream)
    return stream.getvalue()


FILES = {
    "log.csv": CSV,
    "bom.csv": "\ufeff" + CSV.replace("\n", "\r\n"),
    "tabs.tsv": CSV.replace('"', "").replace(",d", "#d").replace(",", "\t").replace("#", ","),
    "semicolons.txt": CSV.replace('"', "").replace(",d", "#d").replace(",", ";").replace("#", ","),
    "log.jsonl": "\n" + as_json(ROWS),
    "log.parquet": as_parquet(ROWS),
    "json-without-a-name": as_json(ROWS),
    "parquet-without-a-name": as_parquet(ROWS),
}


@pytest.mark.parametrize("name", FILES)
def test_every_format_gives_the_same_database(tmp_path: Path, store: InteractionStore, name: str) -> None:
    path = written(tmp_path, name, FILES[name])
    assert ingest(store, path) == Ingested(4, Added(4), 0)
    assert content(store) == sorted(ROWS)
    assert ingest(store, path) == Ingested(4, Added(known=4), 0)
    assert content(store) == sorted(ROWS)


@pytest.mark.parametrize("text", [CSV, as_json(ROWS)])
def test_a_stream_is_read_as_a_file_is(store: InteractionStore, text: str) -> None:
    assert ingest(store, io.BytesIO(text.encode())).added == Added(4)
    assert content(store) == sorted(ROWS)


@pytest.mark.parametrize("format", ["csv", "jsonl", "parquet"])
@given(data=st.data())
@settings(max_examples=6)
def test_the_size_of_chunks_and_the_order_of_rows_do_not_matter(
    format: str, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("node")
    rows = data.draw(
        st.lists(
            st.tuples(st.sampled_from("uvw"), st.sampled_from("abc"), st.integers(TIME, TIME + 5)), min_size=1, max_size=20
        )
    )
    csv = "user,item,timestamp\n" + "".join(f"{user},{item},{time}\n" for user, item, time in rows)
    file = written(folder, f"log.{format}", {"csv": csv, "jsonl": as_json(rows), "parquet": as_parquet(rows)}[format])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "CHUNK", data.draw(st.integers(1, 7)))
        store = InteractionStore(folder / "interactions.sqlite")
        store.create()
        assert ingest(store, file) == Ingested(len(rows), Added(len(set(rows)), len(rows) - len(set(rows))), 0)
    assert content(store) == sorted(set(rows))


def test_a_file_trains_as_it_does_in_a_simulation(tmp_path: Path, store: InteractionStore) -> None:
    """The readers of simulations, their split and their population, from the same file."""
    file = running.write_interactions(tmp_path / "log.csv", users=12)
    dataset = load_dataset(file)
    table = split(dataset.interactions, dataset.catalog, method="leave-last-out", seed=0).histories
    folder = write_population(table, dataset.catalog, None, tmp_path / "population", clients=1).folder
    ingest(store, file)
    own = LocalData(store, dataset.catalog, RunConfig()).rows(np.zeros(1, dtype=np.int64), HISTORIES_SCHEMA.names())
    assert own.histories.equals(read_clients(folder, [0]).histories)


@pytest.mark.parametrize(
    ("header", "columns"),
    [
        ("reviewerID,asin,unixReviewTime", ""),
        ("User_ID,movieId,Date", ""),
        ("who,what,when", "user=who,item=what,timestamp=when"),
        ("item,user,timestamp", "user=item,item=user"),
    ],
)
def test_columns_have_their_usual_names_or_those_of_the_map(
    tmp_path: Path, store: InteractionStore, header: str, columns: str
) -> None:
    ingest(store, written(tmp_path, "log.csv", f"{header}\nu,a,{TIME}\n"), columns=columns)
    line = json.dumps(dict(zip(header.split(","), ("v", "b", TIME), strict=True)))
    ingest(store, written(tmp_path, "log.jsonl", line), columns=columns)
    assert content(store) == [("u", "a", TIME), ("v", "b", TIME)]


@pytest.mark.parametrize(
    ("user", "time", "seconds"),
    [
        (7, TIME, TIME),
        (7.0, TIME + 0.9, TIME),
        (" 7 ", f"{TIME}000", TIME),
        ("7.0", "2020-09-13T12:26:40Z", TIME),
        ("7", "2020-09-13 14:26:40+02:00", TIME),
        ("7", "20200913", TIME - 44_800),
    ],
)
def test_ids_and_times_are_spelled_as_elsewhere(store: InteractionStore, user: Any, time: Any, seconds: int) -> None:
    line = json.dumps({"user": user, "item": "a", "timestamp": time, "more": [1]})
    ingest(store, io.BytesIO(line.encode()))
    assert content(store) == [("7", "a", seconds)]
    assert spelled(str(user)) == "7"


BAD = {
    "a user id": ["", " ", None, True, [1], {"a": 1}, 1e300],
    "an item id": ["", None, False],
    "a time from 1970 on": ["", None, HIDDEN, -1, "1969-12-31", True, "31/12/2020"],
}


@pytest.mark.parametrize(("expected", "value"), [(name, value) for name, values in BAD.items() for value in values])
def test_a_file_with_a_bad_row_is_refused_whole_and_the_row_is_located_and_not_quoted(
    store: InteractionStore, expected: str, value: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CHUNK", 2)  # rows before it are in the database already, in the same transaction
    row = {"user": f"{HIDDEN}-u", "item": f"{HIDDEN}-i", "timestamp": TIME}
    place = {"a user id": "user", "an item id": "item", "a time from 1970 on": "timestamp"}[expected]
    text = "".join(json.dumps(one) + "\n" for one in (row, row, row, row, {**row, place: value}, row))
    with pytest.raises(DataError) as caught:
        ingest(store, io.BytesIO(text.encode()))
    assert str(caught.value).startswith(
        f"Expected {expected} in every line of standard input, found none that can be read in line 5. Nothing was changed. "
        "Mend the file, or leave such rows out with --bad-rows drop."
    )
    assert HIDDEN not in str(caught.value)
    assert content(store) == [] and store.users() == []
    done = ingest(store, io.BytesIO(text.encode()), bad_rows="drop")
    assert (done.rows, done.added.added, done.added.known, done.dropped) == (6, 1, 4, 1)


@pytest.mark.parametrize("line", ["u,a", f"u,a,{TIME},more", '"u\n",,1'])
def test_a_line_of_another_form_is_a_bad_row_with_the_number_of_its_line(store: InteractionStore, line: str) -> None:
    text = f'user,item,timestamp\n\nu,"a\nb",{TIME}\n{line}\nu,a,{TIME}\nv,a,{TIME}\n'
    with pytest.raises(DataError, match=r"found none that can be read in line 5\. Nothing was changed"):
        ingest(store, io.BytesIO(text.encode()))
    done = ingest(store, io.BytesIO(text.encode()), bad_rows="drop")
    assert (done.rows, done.dropped) == (4, 1)
    assert content(store) == [("u", "a", TIME), ("u", "a\nb", TIME), ("v", "a", TIME)]


def test_rows_of_which_most_are_bad_are_refused_whatever_the_size_of_chunks(
    store: InteractionStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    good, bad = [f"u{number},a,{TIME}\n" for number in range(4)], [f"{HIDDEN},a,x\n"] * 5
    for chunk in (1, 4, 100):
        monkeypatch.setattr(module, "CHUNK", chunk)
        text = "user,item,timestamp\n" + "".join(bad + good)
        with pytest.raises(DataError, match=r"Expected at most half of the rows of standard input .*found 5 of 9"):
            ingest(store, io.BytesIO(text.encode()), bad_rows="drop")
        assert content(store) == []
    done = ingest(store, io.BytesIO(("user,item,timestamp\n" + "".join(bad[1:] + good)).encode()), bad_rows="drop")
    assert (done.dropped, done.added.added) == (4, 4)


REFUSED: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "Expected at least one interaction in F, found 0"),
    "a header alone": (b"user,item,timestamp\n", "Expected at least one interaction in F, found 0"),
    "no header": (f"{HIDDEN},a,1\n{HIDDEN},b,2\n".encode(), "timestamp in F, found none for user"),
    "no time": (b"user,item\nu,a\n", "timestamp in F, found none for timestamp. Name them"),
    "a quotation that is open": (b'user,item,timestamp\nu,"hush,1\n' * 3, "Expected CSV in F, found a quotation"),
    "a field without end": (b"user,item,timestamp\nu,a," + b"9" * 300_000, "found none that can be read in line 2"),
    "no text": (b"user,item,timestamp\nu,a,1\n\xff,a,1\n", "Expected text in UTF-8 in F, found other bytes behind line"),
    "packed": (b"\x1f\x8b\x08\x00", "Expected text in UTF-8, or Parquet, in F, found a packed file or another encoding"),
    "another encoding": ("user,item,timestamp\n".encode("utf-16"), "in F, found a packed file or another"),
    "an array": (b'[{"user": "u"},\n{"user": "v"}]', "Expected a JSON object in each line of F, found none in line 1"),
    "half a line": (b'{"user": "u", "item": "a", "timestamp": 1}\n{"user": "', "none that can be read in line 2"),
    "half a character": (b'{"user": "\\ud800", "item": "a", "timestamp": 1}\n', "Expected a JSON object in each line of F"),
    "a line without end": (b'{"user": "' + b"u" * 200_000, "in F, found a longer one, line 1"),
    "half of Parquet": (as_parquet(ROWS)[:-20], "Expected Parquet in F, found something else or a damaged file"),
    "no time in Parquet": (as_parquet(ROWS).replace(b"timestamp", b"timestemp"), "found none for timestamp"),
}  # fmt: skip


# Of these, the other rows are taken.
ONE_BAD_ROW = ("half a line", "a field without end")


@pytest.mark.parametrize(
    ("name", "bad_rows"),
    [(name, "refuse") for name in REFUSED] + [(name, "drop") for name in REFUSED if name not in ONE_BAD_ROW],
)
def test_a_file_that_cannot_be_used_is_refused_in_one_line_and_changes_nothing(
    tmp_path: Path, store: InteractionStore, name: str, bad_rows: Any
) -> None:
    bytes_, message = REFUSED[name]
    with pytest.raises(DataError) as caught:
        ingest(store, written(tmp_path, "F", bytes_), bad_rows=bad_rows)
    assert message in str(caught.value)
    assert HIDDEN not in str(caught.value) and "\n" not in str(caught.value)
    assert content(store) == []


def test_a_column_of_parquet_of_another_type_is_refused(tmp_path: Path, store: InteractionStore) -> None:
    pl.DataFrame({"user": [["u"]], "item": ["a"], "timestamp": [1]}).write_parquet(tmp_path / "log.parquet")
    with pytest.raises(DataError, match=r"^Expected the user of log\.parquet to be text or whole numbers, found a column"):
        ingest(store, tmp_path / "log.parquet")
    pl.DataFrame({"user": ["u"], "item": [5.0], "timestamp": [pl.date(2020, 9, 13)]}).select(
        "user", "item", pl.lit("2020-09-13").str.to_date().alias("timestamp")
    ).write_parquet(tmp_path / "log.parquet")
    ingest(store, tmp_path / "log.parquet")
    assert content(store) == [("u", "5", TIME - 44_800)]


def test_a_bad_row_of_parquet_is_located_by_its_number(tmp_path: Path, store: InteractionStore) -> None:
    pl.DataFrame({"user": ["u", "u", None], "item": ["a", "b", "c"], "timestamp": [1, 2, 3]}).write_parquet(tmp_path / "F")
    with pytest.raises(DataError, match="Expected a user id in every row of F, found none that can be read in row 3"):
        ingest(store, tmp_path / "F")


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ("user", "Expected --columns of the form"),
        ("user=uid", "Expected column uid in log.csv, as --columns says, found none of that name"),
        ("text=title", "Expected user, item and timestamp in --columns, got text"),
    ],
)
def test_a_wrong_map_is_refused(tmp_path: Path, store: InteractionStore, columns: str, message: str) -> None:
    with pytest.raises((ConfigError, DataError)) as caught:
        ingest(store, written(tmp_path, "log.csv", CSV), columns=columns)
    assert str(caught.value).startswith(message)


def test_a_file_that_cannot_be_opened_or_read_to_its_end_is_refused(tmp_path: Path, store: InteractionStore) -> None:
    with pytest.raises(DataError, match=r"^Expected a file to ingest, could not open missing\.csv: No such file"):
        ingest(store, tmp_path / "missing.csv")
    with pytest.raises(DataError, match=r"^Expected a file to ingest, could not open node: Is a directory"):
        ingest(store, tmp_path / "node")

    class Torn(io.RawIOBase):
        """A disk that fails behind the first bytes."""

        pieces: Iterator[bytes] = iter([CSV.encode()])

        def readable(self) -> bool:
            return True

        def readinto(self, buffer: Any) -> int:
            piece = next(self.pieces, None)
            if piece is None:
                raise OSError(5, "Input/output error")
            buffer[: len(piece)] = piece
            return len(piece)

    with pytest.raises(DataError, match=r"^Expected to read standard input to its end, got an error \(Input/output error\)"):
        ingest(store, Torn())  # type: ignore[arg-type]
    assert content(store) == []


def test_parquet_on_a_pipe_is_refused(store: InteractionStore) -> None:
    read, write = os.pipe()
    os.write(write, as_parquet(ROWS)[:100])
    os.close(write)
    with os.fdopen(read, "rb") as stream, pytest.raises(DataError, match="Expected a file of Parquet, got standard input"):
        ingest(store, stream)


def test_a_full_database_takes_the_whole_file_or_nothing(tmp_path: Path) -> None:
    """The limit on file sizes makes the kernel refuse the write, as a full disk does."""
    rows = "".join(f"user-{number},item-{number % 7},{TIME + number}\n" for number in range(20_000))
    file, node = written(tmp_path, "log.csv", "user,item,timestamp\n" + rows), tmp_path / "node" / "interactions.sqlite"
    code = (
        "import resource, signal, sys\nfrom pathlib import Path\nfrom client.store.ingest import ingest\n"
        "from client.store.interactions import InteractionStore\nfrom shared.errors import StoreUnavailable\n"
        f"store = InteractionStore(Path({str(node)!r}))\nstore.create()\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\nresource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))\n"
        f"try: ingest(store, Path({str(file)!r}))\nexcept StoreUnavailable as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=running.ROOT)
    assert done.stdout.startswith(
        "The database interactions.sqlite could not be written (disk I/O error). Nothing was changed"
    )
    store = InteractionStore(node)
    store.verify()
    assert content(store) == []
    assert ingest(store, file).added == Added(20_000)


def test_a_process_that_is_killed_while_it_ingests_leaves_nothing_and_the_file_may_be_ingested_again(tmp_path: Path) -> None:
    node = tmp_path / "node" / "interactions.sqlite"
    code = (
        "import io, os, sys, signal\nfrom pathlib import Path\nimport client.store.ingest as module\n"
        "from client.store.interactions import InteractionStore\nmodule.CHUNK = 2\n"
        f"store = InteractionStore(Path({str(node)!r}))\nstore.create()\n"
        "class Stream(io.BytesIO):\n"
        "    def readline(self, size=-1):\n"
        "        line = super().readline(size)\n"
        "        if not line: os.kill(os.getpid(), signal.SIGKILL)\n"
        "        return line\n"
        "    def peek(self, size=0): return self.getvalue()[:size]\n"
        f"module.ingest(store, Stream({as_json(ROWS).encode()!r}))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=running.ROOT)
    assert done.returncode == -9, done.stderr
    store = InteractionStore(node)
    store.verify()
    assert content(store) == []
    assert ingest(store, io.BytesIO(as_json(ROWS).encode())).added == Added(4)


def test_another_process_that_writes_is_told(store: InteractionStore) -> None:
    with store.adding(), pytest.raises(StoreUnavailable, match=r"database is locked.*let it finish, then repeat"):
        ingest(store, io.BytesIO(CSV.encode()))
