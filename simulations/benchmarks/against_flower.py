"""Private user-updates a second, ours against a stock Flower app on Ray: the same model, users, cohort and cores.

Both train one user a client with one local step, `--cohort` clients a round, and each runs in a process of its own, in
turns: `tacit simulate` from its command line, and `stock_flower` (per-client Opacus training as Flower's own examples write
it). Neither evaluates, and ours releases no popularity count. From each pair of runs come two ratios: of the rates after
start-up (rounds 2 and on), and of the rates over the whole life of the processes, interpreter and imports included.

Both have `--threads` cores: torch's threads for us, Ray actors of one thread for Flower. Our cohorts are Poisson draws, so
rates count the clients that answered. The first turn of each is short and not counted: it pays for reading files into
memory. The texts of the catalog are encoded before, once for both.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from shared.config import parse_assignments
from simulations.benchmarks.stock_flower.task import load_model, num_users
from simulations.benchmarks.timing import Spread, options, seconds

ENGINE = "cohort"
TARGETS = {"speedup_over_stock_flower": 3.0, "speedup_over_stock_flower_with_startup": 8.0}
_ROOT = Path(__file__).resolve().parents[2]
_QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TOKENIZERS_PARALLELISM": "false",
}
# FedAvg over noised updates; without effect on the time, and small enough that nothing overflows.
_STOCK_TRAINING = {"lr": 1.0, "max-grad-norm": 0.1, "noise-multiplier": 1.0}


@dataclass(frozen=True)
class Rates:
    """One run.

    Attributes:
        after_startup: User-updates a second in rounds 2 and on.
        with_startup: User-updates a second of the whole process.
        startup_seconds: The process's life without rounds 2 and on.
        total_seconds: The process's life.
    """

    after_startup: float
    with_startup: float
    startup_seconds: float
    total_seconds: float

    @classmethod
    def of(cls, updates: list[int], round_seconds: list[float], *, total_seconds: float) -> Rates:
        """From the updates and seconds of each round (two or more), and of the whole process."""
        later = sum(round_seconds[1:])
        return cls(sum(updates[1:]) / later, sum(updates) / total_seconds, total_seconds - later, total_seconds)


def main() -> None:
    """Measures and prints."""
    chosen = parse()
    data = Path(chosen.data)
    if chosen.data != "synthetic" and not data.exists():
        print(f"against_flower: not measured, there is nothing at {data.name}. Give --data PATH, or 'synthetic'.")
        return
    if chosen.data != "synthetic":
        chosen.data = str(data.resolve())  # the runs have working directories of their own
    settings = task_settings(chosen)
    load_model(json.dumps(settings))  # encodes the catalog's texts into the cache that both read

    def ours(rounds: int) -> Rates:
        return our_run(settings, chosen, rounds=rounds)

    def stock(rounds: int) -> Rates:
        return stock_run(settings, chosen, rounds=rounds)

    ours(2), stock(2)
    pairs = in_turns(ours, stock, repeats=chosen.repeats, rounds=chosen.rounds)
    record = record_of(pairs, settings, chosen)
    if chosen.json:
        print(json.dumps({key: as_json(value) for key, value in record.items()}))
    else:
        show(record)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The options; by default those of the command line."""
    parser = options(__doc__, repeats=5)
    parser.add_argument("--data", default="synthetic", help="file, folder or 'synthetic'")
    parser.add_argument("--set", action="append", default=[], metavar="section.key=value", help="repeatable, for both")
    parser.add_argument("--cohort", type=int, default=64, help="clients a round (default 64)")
    parser.add_argument("--rounds", type=int, default=20, help="rounds of one run, two or more (default 20)")
    parser.add_argument("--engine", default=ENGINE, help=f"ours (default {ENGINE})")
    chosen = parser.parse_args(arguments)
    if chosen.rounds < 2:
        parser.error(f"Expected --rounds >= 2, got --rounds={chosen.rounds}. Start-up is told from the rest by round 1.")
    return chosen


def record_of(pairs: list[tuple[Rates, Rates]], settings: dict[str, Any], chosen: argparse.Namespace) -> dict[str, Any]:
    """What was measured and on what."""
    model = load_model(json.dumps(settings))
    return {
        "benchmark": "against_flower",
        **speedups(pairs),
        "targets": TARGETS,
        "ours": rates_of([pair[0] for pair in pairs]),
        "stock_flower": rates_of([pair[1] for pair in pairs]),
        "repeats": len(pairs),
        "engine": chosen.engine,
        "cohort": chosen.cohort,
        "rounds": chosen.rounds,
        "cores": chosen.threads,
        "data": Path(chosen.data).name,
        "users": num_users(json.dumps(settings)),
        "items": model.num_items,
        "trained_parameters": model.attached.size,
        "device": str(model.device),
    }


def task_settings(chosen: argparse.Namespace) -> dict[str, Any]:
    """The keys of `RunConfig` that both sides share: data, model, adapter."""
    return {"data.path": chosen.data, "adapter.kind": "ffa", **parse_assignments(chosen.set)}


def our_run(settings: dict[str, Any], chosen: argparse.Namespace, *, rounds: int) -> Rates:
    """`tacit simulate`, every user a client."""
    values = {
        **settings,
        "federation.engine": chosen.engine,
        "federation.rounds": rounds,
        "federation.clients": 0,
        "privacy.mechanism": "central",
        "training.local_steps": 1,
        "privacy.expected_cohort": chosen.cohort,
        "privacy.popularity_noise_multiplier": 0.0,
        "privacy.evaluation_noise_multiplier": 0.0,
        "evaluation.every_rounds": rounds,
        "evaluation.baselines": "none",
    }
    with tempfile.TemporaryDirectory() as folder:
        assignments = [part for key, value in values.items() for part in ("--set", f"{key}={json.dumps(value)}")]
        command = [
            str(_ROOT / "tacit.py"),
            "simulate",
            "--quiet",
            "--public-catalog",
            "--out",
            f"{folder}/run",
            *assignments,
        ]
        total = seconds(lambda: _python(command, threads=chosen.threads))
        return our_rates(Path(folder) / "run" / "events.jsonl", total_seconds=total)


def our_rates(events: Path, *, total_seconds: float) -> Rates:
    """Reads what the server wrote; a round's `seconds` are all that it does in it."""
    rounds = [json.loads(line) for line in events.read_text(encoding="utf-8").splitlines()]
    rounds = [event for event in rounds if event["event"] == "round"]
    return Rates.of(
        [event["clients_answered"] for event in rounds], [event["seconds"] for event in rounds], total_seconds=total_seconds
    )


def stock_run(settings: dict[str, Any], chosen: argparse.Namespace, *, rounds: int) -> Rates:
    """The stock app in a process that starts Ray anew."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        run_config = {
            "task": json.dumps(settings),
            "cohort": chosen.cohort,
            "num-server-rounds": rounds,
            "actors": chosen.threads,
            "report": str(report),
            **_STOCK_TRAINING,
        }
        command = ["-m", "simulations.benchmarks.stock_flower", json.dumps(run_config)]
        total = seconds(lambda: _python(command, threads=1))
        return stock_rates(json.loads(report.read_text(encoding="utf-8")), cohort=chosen.cohort, total_seconds=total)


def stock_rates(report: dict[str, Any], *, cohort: int, total_seconds: float) -> Rates:
    """Rates of a run that did what it should.

    Raises:
        SystemExit: If a client failed or the adapter did not move or is not finite: such a run is no peer.
    """
    answered, ends = report["answered"], report["round_ends"]
    if set(answered) != {cohort} or not report["moved"]:
        raise SystemExit(
            f"Expected {cohort} answers in every round of the stock app and a finite adapter that moved, got "
            f"answers={answered}, moved={report['moved']}. Run the app alone to see why; its times mean nothing."
        )
    spans = [later - earlier for earlier, later in itertools.pairwise(ends)]
    return Rates.of(answered, spans, total_seconds=total_seconds)


def in_turns(
    ours: Callable[[int], Rates], stock: Callable[[int], Rates], *, repeats: int, rounds: int
) -> list[tuple[Rates, Rates]]:
    """Pairs of runs; which one goes first alternates."""
    pairs = []
    for turn in range(repeats):
        if turn % 2:
            theirs = stock(rounds)
            pairs.append((ours(rounds), theirs))
        else:
            pairs.append((ours(rounds), stock(rounds)))
    return pairs


def speedups(pairs: list[tuple[Rates, Rates]]) -> dict[str, Spread]:
    """Our rate over the stock app's, pair by pair."""
    return {
        "speedup_over_stock_flower": Spread.of([ours.after_startup / stock.after_startup for ours, stock in pairs]),
        "speedup_over_stock_flower_with_startup": Spread.of(
            [ours.with_startup / stock.with_startup for ours, stock in pairs]
        ),
    }


def rates_of(runs: list[Rates]) -> dict[str, Spread]:
    """Every attribute of the runs with its spread."""
    return {name: Spread.of([asdict(run)[name] for run in runs]) for name in asdict(runs[0])}


def as_json(value: Any) -> Any:
    """Spreads as JSON objects, at any depth."""
    if isinstance(value, Spread):
        return asdict(value)
    return {key: as_json(inner) for key, inner in value.items()} if isinstance(value, dict) else value


def show(record: dict[str, Any]) -> None:
    """Prints a record for people."""
    for name, target in TARGETS.items():
        print(f"{name} = {record[name]} (target >= {target:g}), {record['repeats']} pairs, median [min, max]")
    for side in ("ours", "stock_flower"):
        rates = record[side]
        print(
            f"  {side}: {rates['after_startup']} updates/s after start-up, {rates['startup_seconds']} s without "
            f"rounds 2 and on, {rates['total_seconds']} s in all"
        )
    for key in ("engine", "cohort", "rounds", "cores", "data", "users", "items", "trained_parameters", "device"):
        print(f"  {key}: {record[key]}")


def _python(arguments: list[str], *, threads: int) -> None:
    """Runs Python in the repository's root, its output in a file: a pipe would be held open by what Ray leaves behind.

    Raises:
        SystemExit: If it fails, with what it said.
    """
    environment = {**os.environ, **_QUIET, "OMP_NUM_THREADS": str(threads)}
    with tempfile.TemporaryFile("w+", encoding="utf-8") as said:
        command = [sys.executable, *arguments]
        status = subprocess.run(command, cwd=_ROOT, env=environment, stdout=said, stderr=said, check=False).returncode
        if status:
            said.seek(0)
            raise SystemExit(f"The run failed with status {status}:\n{said.read()[-2000:]}")


if __name__ == "__main__":
    main()
