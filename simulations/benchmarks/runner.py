"""Runs the benchmarks of `tacit bench` and gathers their numbers in one record.

Each benchmark runs in its own process, one after the other: none finds the memory, the threads or the warm caches of
another, and a crash costs only its own rows. For the same reason this process imports nothing heavy. Never here: the list
(`suite.py`), the table (`table.py`).
"""

from __future__ import annotations

import json
import math
import os
import platform
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from shared.versions import versions
from shared.wording import seconds_text
from simulations.benchmarks.suite import Benchmark, Measure
from simulations.terminal import plain

Record = Mapping[str, Any]

_ROOT = Path(__file__).resolve().parents[2]
_PEERS = ("ray", "pfl")
# What a benchmark ran on; each of its rows repeats it.
_CONTEXT = ("device", "threads", "data", "users", "clients", "floats", "cohort", "rounds", "local_steps")
_SPREAD = ("median", "low", "high")


def run_benchmarks(
    benchmarks: Sequence[Benchmark],
    console: Console,
    *,
    repeats: int | None = None,
    threads: int | None = None,
    data: str | None = None,
) -> dict[str, Any]:
    """Runs benchmarks one after the other; Ctrl-C ends the running one and keeps the rows of those before.

    Args:
        benchmarks: In this order.
        console: Shows the progress: on a terminal a bar, elsewhere a line before each benchmark; a line after each.
        repeats: Pairs of each benchmark; None: its own default.
        threads: Threads of torch; None: each benchmark's own default.
        data: File, folder or "synthetic", for benchmarks that take data; None: each benchmark's own default.

    Returns:
        `machine`, `versions`, `date`, `seconds`, `crashed` (names), `interrupted`, and a row for each measure by its key:
        `measured` true with `median`, `low`, `high`, `repeats` and `met`, or false with a `reason`.
    """
    about = machine()
    reasons = {one.name: _cannot_run(one, data, gpu=about["gpu"]) for one in benchmarks}
    runnable = [one for one in benchmarks if not reasons[one.name]]
    record: dict[str, Any] = {
        "machine": about,
        "versions": _versions(),
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        "seconds": 0.0,
        "crashed": [],
        "interrupted": False,
    }
    # Rows have the order of the list, measured or not.
    for one in benchmarks:
        record |= _rows(one, reasons[one.name] or "interrupted before it was measured")
    start = time.monotonic()
    columns = SpinnerColumn(), TextColumn("{task.description}", markup=False), BarColumn(), TimeElapsedColumn()
    try:
        with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
            task = bar.add_task("", total=len(runnable))
            for number, one in enumerate(runnable, 1):
                title, began = f"{number} of {len(runnable)}: {one.name} (about {one.minutes:g} min)", time.monotonic()
                bar.update(task, description=title)
                if not console.is_terminal:
                    console.print(f"{title}, {seconds_text(began - start)} so far", soft_wrap=True, highlight=False)
                rows, crashed = _run(one, _arguments(one, repeats, threads, data))
                record |= rows
                record["crashed"] += [one.name] * crashed
                taken = seconds_text(time.monotonic() - began)
                console.print(f"{title}: ended after {taken}", soft_wrap=True, highlight=False)
                bar.advance(task)
    except KeyboardInterrupt:
        record["interrupted"] = True
    record["seconds"] = round(time.monotonic() - start, 1)
    return record


def _cannot_run(benchmark: Benchmark, data: str | None, *, gpu: str | None) -> str:
    if benchmark.on_gpu and gpu is None:
        return "no GPU"
    missing = benchmark.takes_data and data not in {None, "synthetic"} and not Path(str(data)).exists()
    return f"there is nothing at {plain(Path(str(data)).name)}" if missing else ""


def _arguments(benchmark: Benchmark, repeats: int | None, threads: int | None, data: str | None) -> list[str]:
    if data not in {None, "synthetic"}:
        data = str(Path(str(data)).resolve())  # the process starts in the root of the code, where it finds the packages
    given = {"--repeats": repeats, "--threads": threads, "--data": data if benchmark.takes_data else None}
    passed = [part for name, value in given.items() if value is not None for part in (name, str(value))]
    return ["-m", f"simulations.benchmarks.{benchmark.module}", "--json", *shlex.split(benchmark.arguments), *passed]


def _run(benchmark: Benchmark, arguments: list[str]) -> tuple[dict[str, Any], bool]:
    """The rows of a benchmark, and whether it crashed. One that lacks a peer and says so did not crash."""
    status, stdout, stderr = _python(arguments)
    by_hand = f"python {shlex.join(arguments)}"
    if status:
        name = signal.Signals(-status).name if status < 0 else f"status {status}"
        # In Python the last line names the exception.
        *_, last = ["it said nothing", *(line.strip() for line in stderr.splitlines() if line.strip())]
        return _rows(benchmark, f"failed ({name}): {plain(last)[:300].rstrip('.')}. To see all: {by_hand}"), True
    records, absent = _printed(stdout)
    unprinted = f"it printed no such number. To see what: {by_hand}"
    rows = _rows(benchmark, absent or unprinted, records)
    return rows, any(row.get("reason") == unprinted for row in rows.values())


def _python(arguments: list[str]) -> tuple[int, str, str]:
    """Exit status, stdout and stderr of Python; through files, because what Ray leaves behind would hold a pipe open."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        # In its own process group, so that Ctrl-C reaches it and all that it started once: from here.
        process = subprocess.Popen(
            [sys.executable, *arguments], cwd=_ROOT, stdin=subprocess.DEVNULL, stdout=out, stderr=err, process_group=0
        )
        try:
            process.wait()
        except BaseException:
            _stop(process)
            raise
        out.seek(0), err.seek(0)
        stdout, stderr = (stream.read().decode("utf-8", errors="replace") for stream in (out, err))
        return process.returncode, stdout, stderr


def _stop(process: subprocess.Popen[bytes], *, grace_seconds: float = 10.0) -> None:
    """Interrupts first: the process then removes its temporary files, and Ray its processes."""
    try:
        with suppress(ProcessLookupError, subprocess.TimeoutExpired):
            os.killpg(process.pid, signal.SIGINT)
            process.wait(grace_seconds)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _printed(stdout: str) -> tuple[list[Record], str]:
    """The JSON objects among the lines, and why something was not measured, where a benchmark says so."""
    records: list[Record] = []
    absent = ""
    for line in stdout.splitlines():
        with suppress(ValueError):
            if isinstance(value := json.loads(line), dict):
                records.append(value)
                line = str(value.get("not_measured") or "")
        absent = line.partition("not measured, ")[2] or absent
    return records, plain(absent)


def _rows(benchmark: Benchmark, reason: str, records: Sequence[Record] = ()) -> dict[str, Any]:
    """A row for each measure: its numbers where a record has them, else the reason for their absence."""
    return {measure.key: _row(benchmark, measure, reason, records) for measure in benchmark.measures}


def _row(benchmark: Benchmark, measure: Measure, reason: str, records: Sequence[Record]) -> dict[str, Any]:
    target, side = (measure.at_most, "at most") if measure.at_least is None else (measure.at_least, "at least")
    numbers, context = _numbers(measure, records)
    met = None
    if numbers.get("high", 0.0) < 0:
        # A difference of times that is never positive shows that the two do not match; it does not meet a target.
        reason = f"all of it below zero, median {numbers['median']:.3g} {measure.unit}".rstrip()
        numbers, context, reason = {}, {}, f"{reason}: negative difference, discarded"
    elif numbers and target is not None:
        met = numbers["median"] <= target if side == "at most" else numbers["median"] >= target
    return {
        "measured": bool(numbers),
        **(numbers or {"reason": reason}),
        "met": met,
        "target": target,
        "target_is": None if target is None else side,
        "unit": measure.unit,
        "against": measure.against,
        "label": measure.label,
        "benchmark": benchmark.name,
        **context,
    }


def _numbers(measure: Measure, records: Sequence[Record]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Spread and repeats of a measure, all finite, and what it ran on; empty where no record has it."""
    for record in records:
        value = _at(record, measure.value)
        spread = value if isinstance(value, Mapping) else dict.fromkeys(_SPREAD, value)
        numbers = {name: spread.get(name) for name in _SPREAD}
        chosen = measure.where is None or _at(record, measure.where[0]) == measure.where[1]
        if chosen and all(isinstance(number, int | float) and math.isfinite(number) for number in numbers.values()):
            repeats = spread.get("repeats", record.get("repeats", 1))
            return {**numbers, "repeats": repeats}, {name: record[name] for name in _CONTEXT if name in record}
    return {}, {}


def _at(record: object, path: str) -> Any:
    for part in path.split("."):
        record = record.get(part) if isinstance(record, Mapping) else None
    return record


def _versions() -> dict[str, str]:
    """Those of every run, and of the peers that are installed."""
    found = versions()
    for peer in _PEERS:
        with suppress(metadata.PackageNotFoundError):
            found[peer] = metadata.version(peer)
    return found


def machine() -> dict[str, Any]:
    """CPU, cores, memory, GPU, and `load`: the mean number of busy processes in the last minute."""
    return {
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1024**3, 1),
        "gpu": _gpu(),
        "load": round(os.getloadavg()[0], 2),
    }


def _cpu() -> str:
    with suppress(OSError, AttributeError):
        return plain(re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text(errors="replace"))[1])  # type: ignore[index]
    return platform.processor() or platform.machine()


def _gpu() -> str | None:
    """The GPU that torch would use; another process asks, because a process that looked keeps memory of the GPU."""
    asked = "import torch; print(torch.cuda.get_device_name(0) if torch.cuda.is_available() else '')"
    answer = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=False)
    return plain(answer.stdout.strip()) or None
