"""`GET /recommend` on a node: how long an application waits for a list, at the real server, over its Unix socket.

The node has a released recommender of the default model (made-up values, so that transformer, statistics and adapter all
run), a catalog of `--items` made-up texts, and `--users` users with 50 interactions each. `tacit node serve` runs in a
process of its own. Of each turn the first requests are not counted. `logging` sends an interaction before each request, as
an application does that logs what its users do; the time of the request alone counts.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import polars as pl
from numpy.typing import NDArray

from client.home import NodeHome
from client.store.settings import make_store
from server import checkpoints
from shared.config import RunConfig
from shared.data.catalog import ItemCatalog
from shared.files import write_json
from shared.model.recommender import build
from shared.model.state import RecommenderState
from shared.model.statistics import DEFAULT_WEIGHTS, RANK_OF_PAIRS, Statistics
from shared.run_folder import CATALOG, POPULATION
from simulations.benchmarks.timing import Spread, options
from simulations.benchmarks.usage import processor_seconds

_ROOT = Path(__file__).resolve().parents[2]
_HISTORY = 50
_WARM = 20
_DIRECTIONS = 128
_KINDS = ("reading", "logging")
_WORDS = ("red", "small", "wooden", "car", "boat", "house", "film", "about", "the", "sea", "of", "night", "old", "two")


def main() -> None:
    """Measures and prints."""
    chosen = _parsed()
    with tempfile.TemporaryDirectory() as folder:
        home = NodeHome(Path(folder) / "node")
        _fill(home, items=chosen.items, users=chosen.users)
        _release(home, items=chosen.items)
        with _serving(home) as (client, pid):
            turns = [
                {kind: _turn(client, pid, chosen, seed, logs=kind == "logging") for kind in _KINDS}
                for seed in range(max(1, chosen.repeats))
            ]
    for kind in _KINDS:
        spreads = {key: Spread.of([turn[kind][key] for turn in turns]) for key in turns[0][kind]}
        about = {"benchmark": "recommend_latency", "kind": kind, "items": chosen.items, "users": chosen.users}
        about |= {"requests": chosen.requests, "repeats": len(turns)}
        if chosen.json:
            print(json.dumps({**about, **{key: vars(spread) for key, spread in spreads.items()}}), flush=True)
        else:
            print(f"  {kind}: " + ", ".join(f"{key} {spread}" for key, spread in spreads.items()), flush=True)


def _parsed() -> argparse.Namespace:
    parser = options(__doc__, repeats=3)
    parser.add_argument("--items", type=int, default=10_000, help="of the catalog (default 10,000)")
    parser.add_argument("--users", type=int, default=1000, help="of the node (default 1000)")
    parser.add_argument("--requests", type=int, default=500, help="of one turn (default 500)")
    return parser.parse_args()


def _fill(home: NodeHome, *, items: int, users: int) -> None:
    """Users with as many interactions as the model reads."""
    rng = np.random.default_rng(0)
    drawn = np.concatenate([rng.choice(items, _HISTORY, replace=False) for _ in range(users)])
    table = {"user": np.repeat(np.arange(users), _HISTORY), "item": drawn, "timestamp": np.arange(users * _HISTORY)}
    frame = pl.DataFrame(table).select(pl.col("user", "item").cast(pl.String), pl.col("timestamp").cast(pl.Int64))
    with make_store(home).adding() as add:
        add(frame)


def _release(home: NodeHome, *, items: int) -> None:
    """A recommender where `client/node/received.py` puts those that a server released."""
    rng, config = np.random.default_rng(1), RunConfig()
    texts = tuple(" ".join(rng.choice(_WORDS, 4)) for _ in range(items))
    catalog = ItemCatalog(tuple(str(item) for item in range(items)), texts)
    recommender = build(config, catalog)
    statistics = Statistics(
        weights=DEFAULT_WEIGHTS.astype(np.float32),
        factors=_made_up(rng, items, RANK_OF_PAIRS),
        directions=np.zeros((items, 0), dtype=np.float32),
        transition=_made_up(rng, _DIRECTIONS, _DIRECTIONS),
    ).to_vector()
    adapter = _made_up(rng, len(recommender.initial_adapter))
    prior = -np.log1p(np.arange(items, dtype=np.float32))
    recommender.load_state(RecommenderState(prior, adapter, statistics=statistics))
    folder = home.released / "made-up"
    manifest = {"backbone_digest": recommender.backbone_digest, "catalog_digest": catalog.digest}
    checkpoints.release(recommender, folder, manifest=manifest)
    write_json(folder / "config.json", {key: str(value) for key, value in config.to_flat().items()})
    catalog.save(folder / POPULATION / CATALOG)
    write_json(folder / "received.json", {"run": "made-up", "name": "made-up", "received_at": 1})


def _made_up(rng: np.random.Generator, *shape: int) -> NDArray[np.float32]:
    """Values of the size of learned ones."""
    return (rng.standard_normal(shape) / 100).astype(np.float32)


@contextmanager
def _serving(home: NodeHome) -> Iterator[tuple[httpx.Client, int]]:
    """`tacit node serve`, once it listens."""
    command = [sys.executable, str(_ROOT / "tacit.py"), "node", "serve", "--home", str(home.path)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        transport = httpx.HTTPTransport(uds=str(home.serving_socket), retries=0)
        with httpx.Client(transport=transport, base_url="http://localhost", timeout=300) as client:
            while process.poll() is None and not home.serving_socket.exists():
                time.sleep(0.1)
            yield client, process.pid
    finally:
        process.terminate()
        process.wait()


def _turn(client: httpx.Client, pid: int, chosen: argparse.Namespace, seed: int, *, logs: bool) -> dict[str, float]:
    """Median and 99th percentile of a turn's requests, and the server's processor time for one; milliseconds."""
    rng, taken, used = np.random.default_rng(seed), [], 0.0
    for number in range(_WARM + chosen.requests):
        user = str(rng.integers(chosen.users))
        if logs:
            row = {"user": user, "item": str(rng.integers(chosen.items)), "timestamp": 10**9 + seed * 10**6 + number}
            _answered(client.post("/interactions", json=row))
        before, start = processor_seconds(pid), time.perf_counter()
        found = _answered(client.get("/recommend", params={"user": user, "k": 10}))
        taken.append(1000 * (time.perf_counter() - start))
        used += 1000 * (processor_seconds(pid) - before)
        if len(found["items"]) != 10:
            raise RuntimeError(f"Expected 10 items, got {len(found['items'])}. Ask the server by hand to see why.")
    shares = {f"p{share}_ms": float(np.percentile(taken[_WARM:], share)) for share in (50, 99)}
    return {**shares, "processor_ms": used / len(taken)}


def _answered(response: httpx.Response) -> Any:
    response.raise_for_status()
    return response.json()


if __name__ == "__main__":
    main()
