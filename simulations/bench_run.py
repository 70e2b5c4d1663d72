"""Runs the benchmarks of `tacit bench` and makes one object of what they print.

Each is a process of its own, one after the other, so that none finds the memory, the threads or the warm caches of another,
and so that one that crashes costs its own rows and no other's. This process imports nothing heavy for the same reason. Never
here: which benchmarks there are (`bench.py`), or what a person sees (`bench_display.py`).
"""

from __future__ import annotations

import json
import math
import os
import platform
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from rich.console import Console

from simulations.bench import Benchmark, Measure, Record
from simulations.bench_progress import Progress
from simulations.terminal import plain

_ROOT = Path(__file__).resolve().parents[1]
_VERSIONS = ("tacit", "torch", "flwr", "ray", "opacus", "transformers", "peft", "numpy", "polars", "pfl")
# What a benchmark says about what it ran on, passed on with each of its numbers.
_CONTEXT = ("device", "threads", "data", "users", "clients", "floats", "cohort", "rounds", "local_steps")


@dataclass(frozen=True)
class Options:
    """What is passed to every benchmark that has such an option; None leaves its default."""

    repeats: int | None = None
    threads: int | None = None
    data: str | None = None


@dataclass
class Results:
    """What came of running benchmarks.

    Attributes:
        machine: What they ran on.
        rows: By measure, `measured` true and the number, or false and the `reason`.
        crashed: Benchmarks that failed.
        interrupted: Ctrl-C came before the last one ended.
        versions: Of Python and packages.
        date: When they started.
        seconds: What they took.
    """

    machine: dict[str, Any]
    versions: dict[str, str]
    rows: dict[str, dict[str, Any]] = field(default_factory=dict)
    crashed: list[str] = field(default_factory=list)
    interrupted: bool = False
    date: str = field(default_factory=lambda: datetime.now().astimezone().isoformat(timespec="seconds"))
    seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """One object: the machine, the versions, and each measure by its key."""
        about = {
            "date": self.date,
            "seconds": round(self.seconds, 1),
            "crashed": self.crashed,
            "interrupted": self.interrupted,
        }
        return {"machine": self.machine, "versions": self.versions, **about, **self.rows}


def run_benchmarks(benchmarks: Sequence[Benchmark], options: Options, *, progress: Console) -> Results:
    """Runs benchmarks one after the other, whatever becomes of each; Ctrl-C ends the running one and keeps what came before.

    Args:
        benchmarks: In this order.
        options: What is passed on.
        progress: Where to say which one runs.
    """
    results = Results(machine(), versions())
    runnable = []
    # Rows stand in the order of the list from the beginning, whichever is measured.
    for benchmark in benchmarks:
        reason = _not_runnable(benchmark, options, gpu=results.machine["gpu"])
        if reason is None:
            runnable.append(benchmark)
        results.rows.update(_not_measured(benchmark, reason or "interrupted before it was measured"))
    start = time.monotonic()
    try:
        for number, benchmark in enumerate(runnable, 1):
            title = f"{number} of {len(runnable)}: {benchmark.name} (about {benchmark.minutes:g} min)"
            with Progress(progress, title, start) as shown:
                ended = _run(_command(benchmark, options), shown)
            rows, crashed = _rows(benchmark, ended)
            results.rows.update(rows)
            results.crashed += [benchmark.name] if crashed else []
    except KeyboardInterrupt:
        results.interrupted = True
    results.seconds = time.monotonic() - start
    return results


def _not_runnable(benchmark: Benchmark, options: Options, *, gpu: str | None) -> str | None:
    if benchmark.on_gpu and gpu is None:
        return "no GPU"
    if benchmark.takes_data and options.data not in {None, "synthetic"} and not Path(str(options.data)).exists():
        return f"there is nothing at {plain(Path(str(options.data)).name)}"
    return None


def _command(benchmark: Benchmark, options: Options) -> list[str]:
    command = ["-m", f"simulations.benchmarks.{benchmark.module}", "--json", *shlex.split(benchmark.arguments)]
    if options.repeats is not None:
        command += ["--repeats", str(options.repeats)]
    if options.threads is not None:
        command += ["--threads", str(options.threads)]
    if options.data is not None and benchmark.takes_data:
        # The process starts in the root of the code, where it finds the packages.
        command += ["--data", options.data if options.data == "synthetic" else str(Path(options.data).resolve())]
    return command


@dataclass(frozen=True)
class _Ended:
    """A process that ended: its arguments, its exit status, and what it said on stdout and stderr."""

    command: list[str]
    status: int
    stdout: str
    stderr: str


def _run(command: list[str], progress: Progress) -> _Ended:
    """Runs Python to its end; its output goes to files, because a pipe would be held open by what Ray leaves behind."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        process = None
        try:
            with _ctrl_c_held_back():
                # In a process group of its own, so that Ctrl-C reaches it once, from here, and with it all that it started.
                process = subprocess.Popen(
                    [sys.executable, *command], cwd=_ROOT, stdin=subprocess.DEVNULL, stdout=out, stderr=err, process_group=0
                )
            while process.poll() is None:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(0.5)
                progress.tick()
        except BaseException:
            if process is not None:
                _stop(process)
            raise
        out.seek(0), err.seek(0)
        said, complaints = (stream.read().decode("utf-8", errors="replace") for stream in (out, err))
        return _Ended(command, process.returncode, said, complaints)


@contextmanager
def _ctrl_c_held_back() -> Iterator[None]:
    """Raises what Ctrl-C raises at the end: in the midst of starting a process it would leave one that nobody knows."""
    pressed: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: pressed.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if pressed:
        raise KeyboardInterrupt


def _stop(process: subprocess.Popen[bytes], *, grace_seconds: float = 10.0) -> None:
    """Gently at first: what is interrupted removes its temporary files, and Ray its processes."""
    try:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            process.wait(grace_seconds)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _rows(benchmark: Benchmark, ended: _Ended) -> tuple[dict[str, dict[str, Any]], bool]:
    """The rows of a benchmark, and whether it crashed. One that says that a peer is not here did not."""
    if ended.status:
        return _not_measured(benchmark, _failure(ended)), True
    records, absent = _printed(ended.stdout)
    rows = _not_measured(benchmark, absent or f"it printed no such number. To see what: {_by_hand(ended)}")
    found = {measure.key: _find(measure, records) for measure in benchmark.measures}
    for measure in benchmark.measures:
        spread_and_record = found[measure.key]
        if spread_and_record is not None:
            rows[measure.key] = _row(benchmark, measure, *spread_and_record)
    return rows, not absent and None in found.values()


def _printed(stdout: str) -> tuple[list[Record], str]:
    """The JSON objects among the lines, and why something was not measured, where a benchmark says so."""
    records: list[Record] = []
    reasons = []
    for line in stdout.splitlines():
        try:
            value = json.loads(line)
        except ValueError:
            value = {"not_measured": line} if "not measured, " in line else None
        if isinstance(value, dict):
            records.append(value)
            reasons += [str(value["not_measured"])] if value.get("not_measured") else []
    return records, plain(reasons[-1].partition("not measured, ")[2] or reasons[-1]) if reasons else ""


def _failure(ended: _Ended) -> str:
    """Why a process failed, in one line: the last one that it said, which in Python names the exception."""
    name = signal.Signals(-ended.status).name if ended.status < 0 else f"status {ended.status}"
    said = [line.strip() for line in ended.stderr.splitlines() if line.strip()] or ["it said nothing"]
    return f"failed ({name}): {plain(said[-1])[:300].rstrip('.')}. To see all: {_by_hand(ended)}"


def _by_hand(ended: _Ended) -> str:
    return f"python {shlex.join(ended.command)}"


def _at(record: object, path: str) -> Any:
    for part in path.split("."):
        record = record.get(part) if isinstance(record, Mapping) else None
    return record


def _find(measure: Measure, records: Sequence[Record]) -> tuple[dict[str, float], Record] | None:
    """The spread of a measure and the record that it is from; None where it is in none."""
    if callable(measure.value):
        try:
            return _spread(measure.value(records)), records[-1]
        except (LookupError, TypeError, ValueError, ZeroDivisionError):
            return None
    for record in records:
        if measure.where is None or _at(record, measure.where[0]) == measure.where[1]:
            with suppress(LookupError, TypeError, ValueError):
                return _spread(_at(record, measure.value)), record
    return None


def _spread(value: Any) -> dict[str, float]:
    """Median, low and high, all alike where there is one number.

    Raises:
        LookupError: If something is missing.
        TypeError: If it is no number.
        ValueError: If it is not finite.
    """
    names = ("median", "low", "high")
    spread = {name: float(value[name] if isinstance(value, Mapping) else value) for name in names}
    if not all(map(math.isfinite, spread.values())):
        raise ValueError("Expected a finite number.")
    return spread


def _row(benchmark: Benchmark, measure: Measure, spread: dict[str, float], record: Record) -> dict[str, Any]:
    about = _about(benchmark, measure)
    if spread["high"] < 0:
        # A difference of times that is never positive says that the two do not fit each other, and not that a target is met.
        reason = f"all of it below zero, median {spread['median']:.3g} {measure.unit}".rstrip()
        return {"measured": False, "reason": f"{reason}: negative difference, discarded", "met": None, **about}
    low = -math.inf if measure.at_least is None else measure.at_least
    high = math.inf if measure.at_most is None else measure.at_most
    return {
        "measured": True,
        **spread,
        "repeats": measure.repeats or record.get("repeats", 1),
        "met": None if about["target"] is None else low <= spread["median"] <= high,
        **about,
        **{name: record[name] for name in _CONTEXT if name in record},
    }


def _not_measured(benchmark: Benchmark, reason: str) -> dict[str, dict[str, Any]]:
    return {
        measure.key: {"measured": False, "reason": reason, "met": None, **_about(benchmark, measure)}
        for measure in benchmark.measures
    }


def _about(benchmark: Benchmark, measure: Measure) -> dict[str, Any]:
    target = measure.at_most if measure.at_least is None else measure.at_least
    side = None if target is None else "at most" if measure.at_least is None else "at least"
    return {
        "target": target, "target_is": side, "unit": measure.unit, "against": measure.against,
        "label": measure.label, "benchmark": benchmark.name,
    }  # fmt: skip


def machine() -> dict[str, Any]:
    """What the benchmarks run on; `load` is the mean number of busy processes of the last minute, before the first one."""
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1024**3, 1),
        "gpu": _gpu(),
        "load": round(os.getloadavg()[0], 2),
    }


def _cpu_model() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return plain(line.partition(":")[2]).strip()
    return platform.processor() or platform.machine()


def _gpu() -> str | None:
    """The GPU that torch would use; asked in another process, because one that looked keeps memory of the GPU."""
    asked = "import torch; print(torch.cuda.get_device_name(0) if torch.cuda.is_available() else '')"
    answer = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=False)
    return plain(answer.stdout.strip()) or None


def versions() -> dict[str, str]:
    """Of Python and of the packages that matter for speed; those that are not installed are left out."""
    found = {"python": platform.python_version()}
    for name in _VERSIONS:
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found
