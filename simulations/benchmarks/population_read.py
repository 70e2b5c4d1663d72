"""Reading a cohort of clients drawn out of a large population, against the same number out of a small one.

Whether a million users can be simulated with bounded memory depends on this: time and memory shall grow with
the cohort and not with the population. What a process keeps is measured in a process of its own that reads a
hundred cohorts: `RssAnon` of Linux, memory that is not a file's.
"""

from __future__ import annotations

import re
import tempfile
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import polars as pl

from client.store.population import open_population, read_clients
from shared.data.catalog import ItemCatalog
from shared.data.splitting import HISTORIES_SCHEMA
from simulations.benchmarks.timing import Spread, compare, options, seconds, show
from simulations.population import write_population

_NUM_ITEMS = 2000
_COHORTS = 100


def main() -> None:
    """Measures and prints."""
    parser = options(__doc__, repeats=15)
    parser.add_argument("--users", type=int, default=1_000_000, help="of the large population (default 1000000)")
    parser.add_argument("--few", type=int, default=10_000, help="of the small population (default 10000)")
    parser.add_argument(
        "--cohort", type=int, default=1000, help="clients of one user that are read at a time (default 1000)"
    )
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as parent:
        large, small = Path(parent) / "large", Path(parent) / "small"
        catalog = ItemCatalog(
            tuple(f"item {row}" for row in range(_NUM_ITEMS)), tuple(f"text {row}" for row in range(_NUM_ITEMS))
        )
        histories = random_histories(chosen.users)
        writing = seconds(partial(write_population, histories, catalog, None, large))
        write_population(histories.head(chosen.few), catalog, None, small)
        first, kept = zip(*(in_own_process(folder, chosen.cohort) for folder in [large, small] * 5), strict=True)
        comparison = compare(
            Cohorts(large, chosen.cohort).read,
            Cohorts(small, chosen.cohort).read,
            repeats=chosen.repeats,
            per=1e-3,
            unit="ms",
        )
    details = {
        f"seconds_of_a_process's_first_cohort_of_{chosen.users}": str(Spread.of(first[::2])),
        f"seconds_of_a_process's_first_cohort_of_{chosen.few}": str(Spread.of(first[1::2])),
        f"MiB_kept_after_{_COHORTS}_cohorts_of_{chosen.users}": str(Spread.of(kept[::2])),
        f"MiB_kept_after_{_COHORTS}_cohorts_of_{chosen.few}": str(Spread.of(kept[1::2])),
        "write_population_seconds": round(writing, 2),
    }
    show(
        "population_read",
        comparison,
        a=f"{chosen.cohort} of {chosen.users}",
        b=f"{chosen.cohort} of {chosen.few}",
        target=None,
        as_json=chosen.json,
        **details,
    )


def random_histories(num_users: int) -> pl.DataFrame:
    """A HISTORIES TABLE of 6 to 16 uniform items for training and one of each target."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(6, 17, num_users)
    counts = {"train": lengths, "validation": np.ones_like(lengths), "test": np.ones_like(lengths)}
    columns = []
    for name, count in counts.items():
        items = pl.lit(pl.Series(name, [pl.Series(rng.integers(0, _NUM_ITEMS, count.sum()).astype(np.int32))]))
        columns.append(items.list.slice(pl.lit(pl.Series(np.cumsum(count) - count)), pl.lit(pl.Series(count))))
    users = pl.Series("user", np.arange(num_users)).cast(pl.String).str.zfill(8)
    return pl.select(users, *columns).cast(dict(HISTORIES_SCHEMA))  # type: ignore[arg-type]


class Cohorts:
    """Random cohorts out of one population."""

    def __init__(self, folder: Path, size: int) -> None:
        self.folder, self.size = folder, size
        self.rng = np.random.default_rng(1)

    def read(self) -> None:
        """Reads the histories of another cohort."""
        read_clients(self.folder, self.rng.choice(open_population(self.folder).num_clients, self.size, replace=False))


def in_own_process(folder: Path, cohort: int) -> tuple[float, float]:
    """Seconds until a new process has its first cohort, and the MiB it has more after all of them."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_first_and_kept, folder, cohort).result()


def _first_and_kept(folder: Path, cohort: int) -> tuple[float, float]:
    cohorts = Cohorts(folder, cohort)
    before = _anonymous_mib()
    first = seconds(cohorts.read)
    for _ in range(_COHORTS - 1):
        cohorts.read()
    return first, _anonymous_mib() - before


def _anonymous_mib() -> float:
    found = re.search(r"RssAnon:\s*(\d+) kB", Path("/proc/self/status").read_text())
    if found is None:
        raise OSError("/proc/self/status has no RssAnon. Measure on Linux.")
    return int(found.group(1)) / 1024


if __name__ == "__main__":
    main()
