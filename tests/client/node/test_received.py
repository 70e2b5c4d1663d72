"""What a node keeps of what a server hands out: what its owner approved, and of that the newest."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest

from client.home import NodeHome
from client.node import received
from shared.data.catalog import ItemCatalog
from shared.errors import ConfigError
from shared.protocol.distribution import Offer, is_held_record
from shared.run_file import RunFile
from tests.run_files import message, run_file

CATALOG = ItemCatalog(ids=("a", "b"), texts=("w1", "w2"))


def _run(name: str, catalog: ItemCatalog = CATALOG) -> RunFile:
    return run_file(name=name, catalog_digest=catalog.digest, num_items=catalog.num_items)


def _content(catalog: ItemCatalog, folder: Path) -> bytes:
    catalog.save(folder / "catalog.parquet")
    return (folder / "catalog.parquet").read_bytes()


def _offered(home: NodeHome, run: RunFile, files: dict[str, bytes], kind: str = "catalog") -> Any:
    asked = message(Offer(run.catalog_digest if kind == "catalog" else run.digest, files).to_record(), f"query.{kind}")
    return received.catalog(home, run, asked) if kind == "catalog" else received.released(home, run, asked, now=1)


def _released(run: RunFile, **changes: Any) -> dict[str, bytes]:
    prior = b"prior"
    manifest = {"files": {"prior.safetensors": hashlib.sha256(prior).hexdigest()}, "catalog_digest": run.catalog_digest}
    return {"prior.safetensors": prior, "manifest.json": json.dumps({**manifest, **changes}).encode()}


def test_the_newest_catalogs_are_kept_and_a_missing_one_is_said_to_be_missing(tmp_path: Path) -> None:
    home, runs = NodeHome(tmp_path / "node"), []
    for number in range(12):
        catalog = ItemCatalog(ids=("a", f"b{number}"), texts=("w1", "w2"))
        runs.append(_run("run", catalog))
        assert is_held_record(_offered(home, runs[-1], {"catalog.parquet": _content(catalog, tmp_path)}), True)
        os.utime(home.catalogs / f"{catalog.digest}.parquet", (number, number))
    assert [is_held_record(_offered(home, run, {}), True) for run in runs] == [False] * 2 + [True] * 10


@pytest.mark.parametrize("fault", ["another catalog", "no catalog", "another name", "a second file"])
def test_a_catalog_that_is_not_the_approved_one_is_not_kept(tmp_path: Path, fault: str) -> None:
    home, content = NodeHome(tmp_path / "node"), _content(CATALOG, tmp_path)
    files = {
        "another catalog": {"catalog.parquet": _content(ItemCatalog(ids=("a",), texts=("w1",)), tmp_path)},
        "no catalog": {"catalog.parquet": b"PAR1"},
        "another name": {"../policy.toml": content},
        "a second file": {"catalog.parquet": content, "more": b""},
    }[fault]
    with pytest.raises(ConfigError, match="Nothing was kept"):
        _offered(home, _run("run"), files)
    assert not home.catalogs.exists() or not list(home.catalogs.iterdir())


def test_the_newest_recommenders_are_kept_beside_the_one_in_use_and_the_one_before(tmp_path: Path) -> None:
    home = NodeHome(tmp_path / "node")
    home.catalogs.mkdir(parents=True)
    (home.catalogs / f"{CATALOG.digest}.parquet").write_bytes(_content(CATALOG, tmp_path))
    runs = [_run(f"run-{number}") for number in range(8)]
    for number, run in enumerate(runs):
        if number == 3:
            used = [runs[place].digest for place in (0, 1, 2)]
            (home.released / "judged.json").write_text(json.dumps({"current": used[2], "used": used, "seen": used}))
        assert is_held_record(_offered(home, run, _released(run), "released"), True)
        os.utime(home.released / run.digest / "received.json", (number, number))
    kept = {path.parent.name for path in home.released.glob("*/received.json")}
    assert kept == {runs[place].digest for place in (1, 2, 5, 6, 7)}


@pytest.mark.parametrize("fault", ["another digest", "an unknown file", "no manifest", "another catalog", "a changed file"])
def test_files_that_are_not_as_the_manifest_names_them_are_not_kept(tmp_path: Path, fault: str) -> None:
    home, run = NodeHome(tmp_path / "node"), _run("run")
    files = _released(run)
    if fault == "another digest":
        files = _released(run, files={"prior.safetensors": "0" * 64})
    elif fault == "an unknown file":
        files["../../policy.toml"] = b""
    elif fault == "no manifest":
        del files["manifest.json"]
    elif fault == "another catalog":
        files = _released(run, catalog_digest="0" * 64)
    else:
        files["prior.safetensors"] = b"other"
    with pytest.raises(ConfigError, match="Expected the files of a released recommender as its manifest names them"):
        _offered(home, run, files, "released")
    assert not home.released.exists()
