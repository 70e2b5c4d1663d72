"""`tacit data preview`, `convert` and `describe` as a person runs them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from shared.data.readers import load_dataset
from shared.data.readers.convert import WRITERS
from tests import running

Tacit = Callable[..., running.Outcome]


@pytest.mark.parametrize("format", WRITERS)
def test_every_format_is_converted_described_and_previewed(
    tacit: Tacit, interactions: Path, tmp_path: Path, format: str
) -> None:
    folder = tmp_path / "deep" / "new"
    converted = tacit("data", "convert", interactions, folder, "--to", format, "--lossy", "--json").json
    assert converted["users"] == 30 and converted["format"] == format and converted["folder"] == str(folder)
    assert sum(converted["files"].values()) == sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())
    expected = tacit("data", "describe", interactions, "--json").json
    described = tacit("data", "describe", folder, "--json").json
    for name in ("users", "items", "interactions", "time", "ties", "history_length", "positional", "modalities"):
        assert described[name] == expected[name]
    shown = tacit("data", "preview", folder, "--rows", 2, "--json").json
    assert len(shown["interactions"]) == 2 and shown["interactions_looked_at"] == expected["interactions"]
    text = tacit("data", "preview", folder).stdout
    assert "NOT PRIVATE" in text and "timestamp" in text


def test_a_conversion_says_what_it_wrote_what_lies_beside_and_what_was_lost(
    tacit: Tacit, interactions: Path, tmp_path: Path
) -> None:
    outcome = tacit("data", "convert", interactions, tmp_path / "new", "--to", "parquet")
    assert outcome.status == 0 and outcome.stderr == ""
    assert (
        f"interactions of 30 users with {load_dataset(str(interactions)).catalog.num_items} items as parquet to"
        in outcome.stdout
    )
    assert "interactions.parquet" in outcome.stdout and " kB" in outcome.stdout
    (tmp_path / "rated.csv").write_text("user,item,timestamp,rating\na,x,100,3\nb,y,207,4\n")
    (tmp_path / "users.csv").write_text("user,age\na,30\n")
    outcome = tacit("data", "convert", tmp_path / "rated.csv", tmp_path / "mind", "--to", "mind", "--lossy")
    assert "Left out: 2 values." in outcome.stdout
    assert "Beside, because files of mind cannot hold it: user attributes in users.parquet." in outcome.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--to", "xls"], "Expected a format to write in {parquet, csv, recbole, movielens, amazon-2014"),
        (["--to", "mind"], "Expected interactions without values for mind files"),
        (["--to", "csv", "--columns", "user=nobody"], "Expected column nobody in rated.csv"),
        (["--to", "csv", "--format", "steam"], "Expected a .json file of reviews at"),
        ([], "Missing option '--to'."),
    ],
)
def test_a_conversion_that_cannot_be_is_one_line_and_writes_nothing(
    tacit: Tacit, tmp_path: Path, arguments: list[str], message: str
) -> None:
    (tmp_path / "rated.csv").write_text("user,item,timestamp,rating\na,x,100,3\nb,y,207,4\n")
    outcome = tacit("data", "convert", tmp_path / "rated.csv", tmp_path / "new", *arguments)
    assert outcome.status == 2 and outcome.stderr.startswith(f"tacit: {message}") and outcome.stderr.count("\n") == 1
    assert [file.name for file in tmp_path.iterdir()] == ["rated.csv"]


def test_described_modalities_have_names_sizes_and_shares(tacit: Tacit, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("user,item,timestamp\na,x,100\nb,y,207\n")
    (tmp_path / "items.csv").write_text("item,title,genres,price\nx,X,k|l,3\ny,Y,,\nz,Z,,\nw,W,,1\n")
    described = tacit("data", "describe", tmp_path, "--json").json
    assert described["modalities"] == {
        "categories": {"kind": "labels", "size": 2, "share_of_items": 0.25},
        "price": {"kind": "number", "share_of_items": 0.5},
    }
    assert "25.0 %" in tacit("data", "describe", tmp_path).stdout


def test_clients_data_without_items_that_nobody_would_rank_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("data", "partition", "--set", "evaluation.cold_items=0.1", "--out", tmp_path / "population")
    outcome = running.run_tacit(capsys, *arguments)
    assert outcome.status == 2 and "Expected evaluation.cold_items=0 for clients' data" in " ".join(outcome.stderr.split())
    assert not (tmp_path / "population").exists()
