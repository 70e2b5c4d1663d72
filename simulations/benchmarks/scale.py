"""How memory and time grow with the population: the cohort engine on 10^3 to 10^6 clients of one user each.

Each size is a process of its own that opens a population on disk (written by another) and runs private rounds of the same
expected cohort, Poisson-drawn, with a ledger of all clients in one file. What is compared is the most anonymous memory that
the process ever had: files that are mapped are not in it, since the system can drop them. `--everybody` asks the whole
population in each phase, the popularity count too, in place of a cohort: time then grows with it and memory shall not.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import torch

from shared.config import RunConfig
from shared.data.catalog import ItemCatalog
from simulations.benchmarks.population_read import random_histories
from simulations.benchmarks.timing import options
from simulations.population import write_population

_ITEMS = 2000
_ROUNDS = 3


def main() -> None:
    """Measures and prints."""
    parser = options(__doc__, repeats=1)
    parser.add_argument("--users", default="1000,10000,100000", help="sizes (default 1000,10000,100000)")
    parser.add_argument("--cohort", type=int, default=512, help="clients expected in a round (default 512)")
    parser.add_argument("--everybody", action="store_true", help="ask the whole population in each phase")
    parser.add_argument("--population", default="", help="run on this folder, in this process (for itself)")
    chosen = parser.parse_args()
    if chosen.population:
        torch.set_num_threads(chosen.threads)
        print(json.dumps(_run(Path(chosen.population), chosen.cohort, everybody=chosen.everybody)))
        return
    if not chosen.json:
        print(f"scale: {_ROUNDS} rounds, {'everybody' if chosen.everybody else f'about {chosen.cohort} clients'} a round")
    smallest = None
    for users in sorted(int(size) for size in chosen.users.split(",")):
        with tempfile.TemporaryDirectory() as parent:
            catalog = ItemCatalog(
                tuple(f"item {row}" for row in range(_ITEMS)), tuple(f"a thing called {row}" for row in range(_ITEMS))
            )
            write_population(random_histories(users), catalog, None, Path(parent) / "population")
            record = _in_own_process(Path(parent) / "population", chosen)
        smallest = smallest or record["rss_anon_mb"]
        record["memory_growth"] = round(record["rss_anon_mb"] / smallest, 3)
        if chosen.json:
            print(json.dumps({"benchmark": "scale", "users": users, **record, "threads": chosen.threads}))
        else:
            print(f"  {users} users: " + ", ".join(f"{name} {value}" for name, value in record.items()))


def _in_own_process(population: Path, chosen: object) -> dict[str, float]:
    options_ = vars(chosen)
    command = [sys.executable, "-m", "simulations.benchmarks.scale", "--population", str(population)]
    command += ["--cohort", str(options_["cohort"]), "--threads", str(options_["threads"])]
    command += ["--everybody"] * options_["everybody"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"Expected the process to end well, got status {done.returncode}: {done.stderr[-500:]}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def _run(population: Path, cohort: int, *, everybody: bool) -> dict[str, object]:
    from server.app import app as server_app
    from shared.run_folder import EVENTS
    from simulations.engines.cohort import run_as_cohorts

    users = json.loads((population / "population.json").read_text(encoding="utf-8"))["num_users"]
    run_dir = population.parent / "run"
    config = RunConfig.from_mapping(
        {
            "data.population": str(population),
            "data.public_catalog": True,
            "run.out": str(run_dir),
            "federation.clients": 0,
            "privacy.mechanism": "central",
            "federation.rounds": _ROUNDS,
            "training.local_steps": 1,
            "privacy.expected_cohort": 0 if everybody or cohort >= users else cohort,
            "privacy.popularity_noise_multiplier": 10.0 if everybody else 0.0,
            "privacy.evaluation_noise_multiplier": 0.0,
            "server.learning_rate": 1e-3,
        }
    )
    with Peak() as peak:
        before = peak.now()
        run_as_cohorts(server_app, num_nodes=users, run_config=config.to_flat())
    events = [json.loads(line) for line in (run_dir / EVENTS).read_text(encoding="utf-8").splitlines()]
    rounds = [event for event in events if event["event"] == "round"]
    seconds = sum(event["seconds"] for event in rounds[1:]) / (len(rounds) - 1)
    answered = sum(event["clients_answered"] for event in rounds[1:]) / (len(rounds) - 1)
    return {
        "rss_anon_mb": round(peak.largest),
        "rss_anon_mb_before": round(before),
        "seconds_a_round": round(seconds, 3),
        "cohort": round(answered),
        "user_updates_a_second": round(answered / seconds),
    }


class Peak:
    """The most anonymous memory that this process had, looked at fifty times a second; MB."""

    def __init__(self) -> None:
        self.largest = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Peak:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def now(self) -> float:
        """At this moment."""
        found = re.search(r"RssAnon:\s*(\d+) kB", Path("/proc/self/status").read_text())
        if found is None:
            raise OSError("/proc/self/status has no RssAnon. Measure on Linux.")
        return int(found.group(1)) / 1000

    def _watch(self) -> None:
        while not self._stop.is_set():
            self.largest = max(self.largest, self.now())
            time.sleep(0.02)


if __name__ == "__main__":
    main()
