"""Interactions into a node's own database, and out of it: a second, on one core, in clear and encrypted.

A file is generated with Amazon's ids (14 and 10 characters), 50 interactions a user. Each turn ingests it with the code of
`tacit node ingest`, and reads all of it as the histories of a run, in a process of its own that is bound to one core. Wall
time counts waiting for the disk and for other programs; processor time does not.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import polars as pl

from client.store.encryption import KEY_BYTES
from client.store.ingest import ingest
from client.store.interactions import InteractionStore
from client.store.local import LocalData
from shared.config import RunConfig
from shared.data.catalog import ItemCatalog
from simulations.benchmarks.timing import Spread, options

_ITEMS = 20_000
_A_USER = 50
_KINDS = {"clear": None, "encrypted": bytes(range(KEY_BYTES))}
_FORMATS = ("csv", "jsonl", "parquet")


def main() -> None:
    """Measures and prints."""
    parser = options(__doc__, repeats=3)
    parser.add_argument("--rows", type=int, default=500_000, help="interactions in the file (default 500,000)")
    parser.add_argument("--format", default="csv", choices=_FORMATS, help="of the file (default csv)")
    parser.add_argument("--measure", default="", help="measure this kind with the file of --folder (for itself)")
    parser.add_argument("--folder", default="", help="where the file is (for itself)")
    chosen = parser.parse_args()
    if chosen.measure:
        print(json.dumps(_measured(chosen.measure, Path(chosen.folder), chosen.format)))
        return
    with tempfile.TemporaryDirectory() as folder:
        _write(Path(folder), chosen.format, chosen.rows)
        turns = [
            {kind: _in_own_process(kind, folder, chosen.format) for kind in _KINDS} for _ in range(max(1, chosen.repeats))
        ]
    for kind in _KINDS:
        spreads = {key: Spread.of([turn[kind][key] for turn in turns]) for key in turns[0][kind]}
        if chosen.json:
            record = {key: vars(spread) for key, spread in spreads.items()}
            about = {"benchmark": "ingest", "kind": kind, "format": chosen.format, "rows": chosen.rows}
            print(json.dumps({**about, "repeats": len(turns), **record}), flush=True)
        else:
            print(f"  {kind}: " + ", ".join(f"{key} {spread}" for key, spread in spreads.items()), flush=True)


def _write(folder: Path, format: str, rows: int) -> None:
    rng = np.random.default_rng(0)
    frame = pl.DataFrame(
        {
            "user": rng.integers(0, max(1, rows // _A_USER), rows),
            "item": rng.integers(0, _ITEMS, rows),
            "timestamp": rng.integers(1_000_000_000, 1_500_000_000, rows),
        }
    ).with_columns(user=pl.lit("A") + pl.col("user").cast(pl.String).str.zfill(13), item=_item(pl.col("item")))
    path = folder / f"log.{format}"
    if format == "csv":
        frame.write_csv(path)
    elif format == "jsonl":
        frame.write_ndjson(path)
    else:
        frame.write_parquet(path)


def _item(number: pl.Expr) -> pl.Expr:
    return (pl.lit("B") + number.cast(pl.String).str.zfill(9)).alias("item")


def _in_own_process(kind: str, folder: str, format: str) -> dict[str, float]:
    command = [sys.executable, "-m", "simulations.benchmarks.ingest"]
    command += ["--measure", kind, "--folder", folder, "--format", format]
    # polars makes its threads before anything can be bound to a core.
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "POLARS_MAX_THREADS": "1"})
    if done.returncode:
        raise RuntimeError(f"Expected the process to end well, got status {done.returncode}: {done.stderr[-500:]}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def _measured(kind: str, folder: Path, format: str) -> dict[str, float]:
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    ids = pl.DataFrame({"item": range(_ITEMS)}).select(_item(pl.col("item")))["item"].to_list()
    catalog = ItemCatalog(tuple(ids), tuple(ids))
    with tempfile.TemporaryDirectory(dir=folder) as own:
        store = InteractionStore(Path(own) / "interactions.sqlite", secret=_KINDS[kind])
        store.create()
        wall, processor = time.perf_counter(), time.process_time()
        added = ingest(store, folder / f"log.{format}").added.added
        wall, processor = time.perf_counter() - wall, time.process_time() - processor
        local, began = LocalData(store, catalog, RunConfig()), time.process_time()
        local.rows(np.zeros(1, dtype=np.int64), ["train"])
        reading = time.process_time() - began
        return {
            "a_second": added / wall,
            "a_processor_second": added / processor,
            "read_a_processor_second": added / reading,
            "bytes_an_interaction": store.bytes_on_disk() / added,
        }


if __name__ == "__main__":
    main()
