"""Recommendations on a node: offline, without the history, and with the recommender that is worth having."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from safetensors.numpy import load_file, save_file

import tacit
from client.home import NodeHome
from client.recommendation import OwnRecommender
from client.store.settings import make_store
from shared.data.catalog import ItemCatalog
from shared.errors import ConfigError, NothingReceived


@pytest.fixture
def node(tmp_path: Path, finished_run: Any) -> NodeHome:
    """A node with the interactions of that run's users, and no recommender yet."""
    home = NodeHome(tmp_path)
    store = make_store(home)
    data = pl.read_csv(finished_run.data, schema_overrides={"user": pl.String, "item": pl.String})
    with store.adding() as add:
        add(data.select("user", "item", pl.col("timestamp").cast(pl.Int64)))
    return home


def _receive(
    home: NodeHome, run: Path, name: str, *, at: int, change: Callable[[np.ndarray], np.ndarray] | None = None
) -> None:
    """Puts what a run released where `client/node/received.py` would; `change` is done to the prior."""
    folder = home.released / name
    shutil.copytree(run / "adapter", folder / "adapter")
    (folder / "population").mkdir()
    shutil.copy(run / "population" / "catalog.parquet", folder / "population")
    shutil.copy(run / "config.json", folder)
    (folder / "received.json").write_text(json.dumps({"run": name, "name": name, "received_at": at}))
    if change is not None:
        path = folder / "adapter" / "prior.safetensors"
        save_file({"log_prior": change(load_file(path)["log_prior"]).astype(np.float32)}, path)
        manifest = json.loads((folder / "adapter" / "manifest.json").read_text())
        manifest["files"]["prior.safetensors"] = hashlib.sha256(path.read_bytes()).hexdigest()
        (folder / "adapter" / "manifest.json").write_text(json.dumps(manifest))


def _items(home: NodeHome, user: str, k: int = 5) -> list[str]:
    return [one["item"] for one in OwnRecommender(home).recommend(user, k)]


def test_without_a_received_recommender_there_is_nothing_to_recommend(node: NodeHome) -> None:
    with pytest.raises(NothingReceived, match="found none"):
        _items(node, "0")


def test_a_list_leaves_the_history_out_and_a_stranger_gets_what_is_popular(node: NodeHome, finished_run: Any) -> None:
    _receive(node, finished_run.folder, "first", at=1)
    data = pl.read_csv(finished_run.data, schema_overrides={"user": pl.String, "item": pl.String})
    user = data["user"][0]
    seen = set(data.filter(pl.col("user") == user)["item"])
    catalog = ItemCatalog.load(finished_run.folder / "population" / "catalog.parquet")
    every = _items(node, user, k=1000)
    assert set(every) == set(catalog.ids) - seen
    prior = load_file(node.released / "first" / "adapter" / "prior.safetensors")["log_prior"]
    assert _items(node, "nobody", k=1) == [catalog.ids[int(prior.argmax())]]
    with pytest.raises(ConfigError, match="k >= 1"):
        _items(node, user, k=0)


def test_a_node_ranks_a_history_as_its_server_does(node: NodeHome, finished_run: Any) -> None:
    _receive(node, finished_run.folder, "first", at=1)
    data = pl.read_csv(finished_run.data, schema_overrides={"user": pl.String, "item": pl.String}).sort("timestamp")
    server, own = tacit.load(finished_run.folder), OwnRecommender(node)
    for user in data["user"].unique(maintain_order=True)[:5]:
        history = data.filter(pl.col("user") == user)["item"].to_list()
        expected = [(one.rank, one.item, one.text) for one in server.recommend(history, k=10)]
        assert [(one["rank"], one["item"], one["text"]) for one in own.recommend(user, 10)] == expected


def test_the_former_recommender_answers_until_the_next_one_is_open(node: NodeHome, finished_run: Any) -> None:
    _receive(node, finished_run.folder, "first", at=1)
    own = OwnRecommender(node)
    before = own.recommend("nobody", 3)
    _receive(node, finished_run.folder, "second", at=2, change=lambda prior: prior + 1)  # the same order: no worse
    assert own.recommend("nobody", 3) == before
    assert own.refresh()[0] == "second"
    assert own.recommend("nobody", 3) != before


def test_new_interactions_count_at_once(node: NodeHome, finished_run: Any) -> None:
    _receive(node, finished_run.folder, "first", at=1)
    own = OwnRecommender(node)
    best = own.recommend("stranger", 1)[0]["item"]
    with make_store(node).adding() as add:
        add(pl.DataFrame({"user": ["stranger"], "item": [best], "timestamp": [5]}))
    assert best not in [one["item"] for one in own.recommend("stranger", 1000)]


def test_a_worse_recommender_is_not_taken_and_a_better_one_is(node: NodeHome, finished_run: Any) -> None:
    data = pl.read_csv(finished_run.data, schema_overrides={"user": pl.String, "item": pl.String}).sort("timestamp")
    last = data.group_by("user", maintain_order=True).last()["item"].value_counts()
    catalog = ItemCatalog.load(finished_run.folder / "population" / "catalog.parquet")
    # A prior that knows what came last, and one that knows what did not.
    knows = np.full(catalog.num_items, -20.0)
    for item, count in last.iter_rows():
        knows[catalog.row_of[item]] = np.log(count)
    _receive(node, finished_run.folder, "first", at=1)
    assert OwnRecommender(node).in_use() == "first"
    _receive(node, finished_run.folder, "worse", at=2, change=lambda _: -100 * knows)
    assert OwnRecommender(node).in_use() == "first"
    _receive(node, finished_run.folder, "better", at=3, change=lambda _: 100 * knows)
    own = OwnRecommender(node)
    assert own.in_use() == "better"
    assert own.roll_back() == "first"
    assert OwnRecommender(node).in_use() == "first"
    with pytest.raises(ConfigError, match="an earlier recommender"):
        OwnRecommender(node).roll_back()


def test_a_damaged_recommender_is_not_taken(node: NodeHome, finished_run: Any) -> None:
    _receive(node, finished_run.folder, "first", at=1)
    _receive(node, finished_run.folder, "damaged", at=2)
    path = node.released / "damaged" / "adapter" / "prior.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert OwnRecommender(node).in_use() == "first"
