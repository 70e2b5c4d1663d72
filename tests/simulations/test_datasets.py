"""Sets that the project makes, found by name; files go to the readers."""

from __future__ import annotations

from pathlib import Path

import pytest

from shared.errors import ConfigError, DataError
from simulations.datasets import load_dataset, preview


def test_the_nearest_name_of_a_synthetic_set_is_suggested(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"^No file or folder at synthtic\. Did you mean 'synthetic'\?$"):
        load_dataset("synthtic")
    with pytest.raises(DataError, match=r"^No file or folder at synthtic\. Did you mean 'synthetic'\?$"):
        preview("synthtic")
    with pytest.raises(DataError, match=r"zzz\. Give a path, or 'synthetic' for the embedded set\.$"):
        load_dataset("zzz")
    with pytest.raises(ConfigError, match=r"got 'synthetic:e-comerce'\. Did you mean 'synthetic:e-commerce'\?$"):
        load_dataset("synthetic:e-comerce")


def test_a_synthetic_set_takes_no_settings_of_files() -> None:
    with pytest.raises(ConfigError, match=r"^Expected no data\.vectors with the synthetic set"):
        load_dataset("synthetic", vectors="a=b.npy")
    with pytest.raises(ConfigError, match=r"^The synthetic set has one format and no columns to map"):
        load_dataset("synthetic", format="recbole")
    with pytest.raises(ConfigError, match=r"got data\.format='recbol'\. Did you mean 'recbole'\?$"):
        load_dataset("synthetic", format="recbol")
    with pytest.raises(ConfigError, match=r"^Expected data='synthetic' with data\.format='synthetic', got data='x'"):
        load_dataset("x", format="synthetic")


def test_files_are_read_by_their_reader(tmp_path: Path) -> None:
    (tmp_path / "clicks.csv").write_text("user,item,timestamp\na,i0,1\na,i2,2\n", "utf-8")
    assert load_dataset(str(tmp_path)).interactions.num_interactions == 2
    assert preview(str(tmp_path))["interactions_looked_at"] == 2


def test_a_preview_of_the_embedded_set_and_of_no_rows() -> None:
    shown = preview("synthetic", rows=3)
    assert len(shown["interactions"]) == len(shown["items"]) == 3 and shown["format"] == "synthetic"
    with pytest.raises(ConfigError, match=r"^Expected rows >= 1, got rows=0\.$"):
        preview("synthetic", rows=0)
