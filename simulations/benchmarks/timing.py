"""Two things timed side by side: how the benchmarks measure and how they say it.

A machine's speed changes while it runs, so absolute times of different runs do not compare. Here A and B
are run in turns within one process, each pair gives one ratio, and what is reported is the median of the
ratios with the smallest and the largest. The first turn of each is not counted: it pays for caches, memory
and lazy set-up.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Spread:
    """Median, smallest and largest of several measurements."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of one value or more."""
        return cls(statistics.median(values), min(values), max(values))

    def __str__(self) -> str:
        return f"{self.median:.3g} [{self.low:.3g}, {self.high:.3g}]"


@dataclass(frozen=True)
class Comparison:
    """A against B.

    Attributes:
        a: Time of A, in `unit`.
        b: Time of B, in `unit`.
        ratio: A / B, pair by pair.
        repeats: Pairs measured.
        unit: Of the times.
    """

    a: Spread
    b: Spread
    ratio: Spread
    repeats: int
    unit: str


def compare(
    a: Callable[[], object], b: Callable[[], object], *, repeats: int, per: float = 1.0, unit: str = "s"
) -> Comparison:
    """Times two functions in turns; which one goes first alternates.

    Args:
        a: What is judged.
        b: What it is compared with.
        repeats: Pairs, >= 1.
        per: What a call's seconds are divided by to give `unit`, e.g. the number of steps in it.
        unit: Name of the unit.
    """
    a(), b()
    pairs = []
    for turn in range(repeats):
        if turn % 2:
            seconds_b = seconds(b)
            seconds_a = seconds(a)
        else:
            seconds_a = seconds(a)
            seconds_b = seconds(b)
        pairs.append((seconds_a / per, seconds_b / per))
    return Comparison(
        Spread.of([pair[0] for pair in pairs]),
        Spread.of([pair[1] for pair in pairs]),
        Spread.of([pair[0] / pair[1] for pair in pairs]),
        repeats,
        unit,
    )


def seconds(call: Callable[[], object]) -> float:
    """How long one call takes."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def options(description: str | None, *, repeats: int) -> argparse.ArgumentParser:
    """The options that every benchmark has."""
    parser = argparse.ArgumentParser(description=(description or "").split("\n\n")[0])
    parser.add_argument("--repeats", type=int, default=repeats, help=f"pairs to measure (default {repeats})")
    parser.add_argument("--threads", type=int, default=2, help="torch's threads (default 2)")
    parser.add_argument("--json", action="store_true", help="print JSON alone")
    return parser


def show(name: str, comparison: Comparison, *, a: str, b: str, target: float | None, as_json: bool, **details: Any) -> None:
    """Prints one comparison.

    Args:
        name: Of the benchmark.
        comparison: What was measured.
        a: Name of A.
        b: Name of B.
        target: Largest median ratio that is aimed at; None where there is none.
        as_json: Print JSON.
        details: What was measured on.
    """
    if as_json:
        record = {"benchmark": name, "target_ratio": target, **asdict(comparison), **details}
        record["a"]["name"], record["b"]["name"] = a, b
        print(json.dumps(record))
        return
    aim = "" if target is None else f" (target <= {target:g})"
    print(f"{name}: {a} / {b} = {comparison.ratio}{aim}, {comparison.repeats} pairs, median [min, max]")
    print(f"  {a}: {comparison.a} {comparison.unit}   {b}: {comparison.b} {comparison.unit}")
    for key, value in details.items():
        print(f"  {key}: {value}")
