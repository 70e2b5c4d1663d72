"""What private statistics cost: a run of rounds with them / without, and time and memory of a run of statistics alone.

`--share`: one population of 10^3 users, each a client, rounds of training with all statistics and with the prior alone, in
turns; the ratio is what statistics add. `--sums`: the same rounds and statistics under noise in shares, added up in the
open in one process, and under central noise; the ratio is what shares add. `--users`: at each size a process of its own
opens a population on disk (written by another) and releases every statistic with a head of 2,000 items, whatever a message
then weighs: no head of a real run is larger. What is compared is the most anonymous memory that the process had, as in
`scale.py`; what a population's plan costs to calibrate is in the time. Histories are uniform, so that hardly any pair of
items comes twice.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import torch

from client.store.population import CATALOG_FILE, open_population
from server.app import server_app
from shared.config import RunConfig
from shared.data.catalog import ItemCatalog
from shared.model.recommender import resident
from simulations.benchmarks.population_read import random_histories
from simulations.benchmarks.scale import Peak
from simulations.benchmarks.timing import compare, options, show
from simulations.engines.cohort import run_as_cohorts
from simulations.population import write_population

_ITEMS = _HEAD = 2000
_ALL = "pairs,transitions,refinement,blending,selection"
_USERS_IN_TURNS = 1000


@dataclass(frozen=True)
class _Ways:
    """Two ways of a run, by their settings."""

    name_of_a: str
    name_of_b: str
    a: dict[str, object]
    b: dict[str, object]
    target: float


_SHARE = _Ways("with statistics", "without", {}, {"statistics.releases": "none"}, 4 / 3)
_SUMS = _Ways(
    "noise in shares, summed in the open",
    "central noise",
    {"privacy.mechanism": "distributed"},
    {"privacy.mechanism": "central"},
    1.5,
)


def main() -> None:
    """Measures and prints."""
    parser = options(__doc__, repeats=3)
    parser.add_argument("--users", default="1000,10000,100000", help="sizes (default 1000,10000,100000); '' for none")
    parser.add_argument("--share", action="store_true", help="measure the share of a run with rounds, too")
    parser.add_argument("--sums", action="store_true", help="measure noise in shares beside central noise, too")
    parser.add_argument("--rounds", type=int, default=20, help="rounds beside the statistics, for both (default 20)")
    parser.add_argument("--epsilon", type=float, default=8.0, help="of each run (default 8)")
    parser.add_argument("--population", default="", help="run on this folder, in this process (for itself)")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    if chosen.population:
        print(json.dumps(_run(Path(chosen.population), chosen.epsilon)))
        return
    for asked, ways in ((chosen.share, _SHARE), (chosen.sums, _SUMS)):
        if asked:
            _in_turns(ways, chosen.rounds, chosen.epsilon, chosen.repeats, as_json=chosen.json, threads=chosen.threads)
    for users in (int(size) for size in chosen.users.split(",") if size):
        with tempfile.TemporaryDirectory() as parent:
            record = _in_own_process(_population(Path(parent), users), chosen.epsilon, chosen.threads)
        if chosen.json:
            print(json.dumps({"benchmark": "statistics", "users": users, **record, "threads": chosen.threads}))
        else:
            print(f"statistics, {users} users: " + ", ".join(f"{name} {value}" for name, value in record.items()))


def _in_turns(ways: _Ways, rounds: int, epsilon: float, repeats: int, *, as_json: bool, threads: int) -> None:
    """One way of a run with rounds beside another; the head is that of the population."""
    with tempfile.TemporaryDirectory() as parent:
        numbers = count()
        # A population each: a ledger composes like with like, and refuses runs whose neighboring relations differ.
        a, b = (_population(Path(parent) / name, _USERS_IN_TURNS) for name in ("a", "b"))

        def run(population: Path, way: dict[str, object]) -> None:
            settings = {"federation.rounds": rounds, "privacy.epsilon": epsilon, "statistics.releases": _ALL, **way}
            _federation(_config(population, Path(parent) / f"run-{next(numbers)}", settings))

        comparison = compare(lambda: run(a, ways.a), lambda: run(b, ways.b), repeats=repeats)
    show(
        "statistics",
        comparison,
        a=ways.name_of_a,
        b=ways.name_of_b,
        target=ways.target,
        as_json=as_json,
        users=_USERS_IN_TURNS,
        rounds=rounds,
        threads=threads,
    )


def _population(parent: Path, users: int) -> Path:
    names, texts = zip(*((f"item {row}", f"a thing called {row}") for row in range(_ITEMS)), strict=True)
    write_population(random_histories(users), ItemCatalog(names, texts), None, parent / "population")
    return parent / "population"


def _in_own_process(population: Path, epsilon: float, threads: int) -> dict[str, object]:
    command = [sys.executable, "-m", "simulations.benchmarks.statistics", "--population", str(population)]
    done = subprocess.run([*command, "--epsilon", str(epsilon), "--threads", str(threads)], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"Expected the process to end well, got status {done.returncode}: {done.stderr[-500:]}")
    found: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return found


def _run(population: Path, epsilon: float) -> dict[str, object]:
    settings = {
        "federation.rounds": 0,
        "statistics.releases": _ALL,
        "statistics.head": _HEAD,
        "privacy.epsilon": epsilon,
    }
    config = _config(population, population.parent / "run", settings)
    resident(config, ItemCatalog.load(population / CATALOG_FILE))  # texts are encoded before, as they are once a catalog
    with Peak() as peak:
        before, start, own = peak.now(), time.monotonic(), time.process_time()
        _federation(config)
        found = {"seconds": time.monotonic() - start, "processor_seconds": time.process_time() - own}
    # No other time says anything of the code where other programs share the machine.
    return {
        **{name: round(value, 1) for name, value in found.items()},
        "rss_anon_mb": round(peak.largest),
        "rss_anon_mb_before": round(before),
    }


def _config(population: Path, run_dir: Path, settings: dict[str, object]) -> RunConfig:
    fixed = {"data.population": str(population), "data.public_catalog": True, "run.out": str(run_dir)}
    devices = {"federation.clients": 0, "privacy.mechanism": "central", "training.local_steps": 1}
    return RunConfig.from_mapping({**fixed, **devices, **settings})


def _federation(config: RunConfig) -> None:
    users = open_population(config.data.population).num_users
    run_as_cohorts(server_app(), num_nodes=users, run_config=config.to_flat())


if __name__ == "__main__":
    main()
