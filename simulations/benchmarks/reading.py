"""Reading big files: rows a second and the most memory that a process ever had, Parquet and JSON lines.

The files are generated: Amazon's ids (14 and 10 characters), a time and a rating a row; a line of JSON has a text of 280
characters on the average too, as a review has. Each file is read by `load_dataset` in a process of its own, checks,
duplicates and catalog included, and memory is the system's count of its largest resident set.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import polars as pl

from shared.data.readers import load_dataset
from simulations.benchmarks.timing import options

_SLICE = 1_000_000
_FORMATS = ("parquet", "json", "csv")


def main() -> None:
    """Measures and prints."""
    parser = options(__doc__, repeats=1)
    parser.add_argument("--rows", type=int, default=25_000_000, help="interactions in each file (default 25,000,000)")
    parser.add_argument("--formats", default="parquet,json", help=f"some of {', '.join(_FORMATS)} (default parquet,json)")
    parser.add_argument("--folder", default=None, help="where to write the files, which are deleted (default: the system's)")
    parser.add_argument("--read", default="", help="read this, in this process (for itself)")
    chosen = parser.parse_args()
    if chosen.read:
        print(json.dumps(_read(chosen.read)))
        return
    for format in chosen.formats.split(","):
        with tempfile.TemporaryDirectory(dir=chosen.folder) as folder:
            started = time.monotonic()
            size = _write(Path(folder), format, chosen.rows)
            written = time.monotonic() - started
            records = [_in_own_process(folder, chosen.threads) for _ in range(chosen.repeats)]
        record = sorted(records, key=lambda found: float(str(found["seconds"])))[len(records) // 2]
        record = {"rows": chosen.rows, "file_mb": round(size / 1e6), "seconds_to_write": round(written, 1), **record}
        if chosen.json:
            print(json.dumps({"benchmark": "reading", "format": format, **record, "threads": chosen.threads}), flush=True)
        else:
            print(f"  {format}: " + ", ".join(f"{name} {value}" for name, value in record.items()), flush=True)


def _rows(rng: np.random.Generator, rows: int, total: int) -> pl.DataFrame:
    """Random interactions of as many users as there are eighths of `total`."""
    frame = pl.DataFrame(
        {
            "user": rng.integers(0, max(1, total // 8), rows),
            "item": rng.integers(0, 200_000, rows),
            "timestamp": rng.integers(1_000_000_000, 1_500_000_000, rows),
            "value": rng.integers(1, 6, rows).astype(np.float64),
        }
    )
    return frame.with_columns(
        user=pl.lit("A") + pl.col("user").cast(pl.String).str.zfill(13),
        item=pl.lit("B") + pl.col("item").cast(pl.String).str.zfill(9),
    )


def _write(folder: Path, format: str, rows: int) -> int:
    """Writes a file; gives its size in bytes."""
    rng = np.random.default_rng(0)
    slices = (_rows(rng, min(_SLICE, rows - start), rows) for start in range(0, rows, _SLICE))
    if format == "parquet":
        path = folder / "interactions.parquet"
        pl.concat(list(slices)).write_parquet(path)
        return path.stat().st_size
    path = folder / ("reviews.json" if format == "json" else "interactions.csv")
    words = "It does what it says, and for the price there is nothing to complain about, so far. " * 7
    with path.open("wb") as stream:
        for number, frame in enumerate(slices):
            if format == "csv":
                frame.write_csv(stream, include_header=number == 0)
                continue
            length = pl.Series(rng.integers(10, 550, frame.height))
            frame.select(
                pl.col("value").alias("overall"),
                pl.lit("09 1, 2016").alias("reviewTime"),
                pl.col("user").alias("reviewerID"),
                pl.col("item").alias("asin"),
                pl.lit(words).str.slice(0, length).alias("reviewText"),
                pl.col("timestamp").alias("unixReviewTime"),
            ).write_ndjson(stream)
    return path.stat().st_size


def _in_own_process(folder: str, threads: int) -> dict[str, object]:
    command = [sys.executable, "-m", "simulations.benchmarks.reading", "--read", folder, "--threads", str(threads)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "POLARS_MAX_THREADS": str(threads)})
    if done.returncode:
        raise RuntimeError(f"Expected the process to end well, got status {done.returncode}: {done.stderr[-500:]}")
    found: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return found


def _read(path: str) -> dict[str, object]:
    before = _peak_mb()
    started = time.monotonic()
    dataset = load_dataset(path)
    seconds = time.monotonic() - started
    return {
        "seconds": round(seconds, 2),
        "rows_a_second": round(dataset.interactions.num_interactions / seconds),
        "peak_mb": round(_peak_mb()),
        "peak_mb_before": round(before),
    }


def _peak_mb() -> float:
    """The largest resident set of this program; what getrusage says includes that of the program which started it."""
    found = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
    if found is None:
        raise OSError("/proc/self/status has no VmHWM. Measure on Linux.")
    return int(found.group(1)) / 1000


if __name__ == "__main__":
    main()
