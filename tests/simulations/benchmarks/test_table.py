"""The table of `tacit bench`: every outcome of a row, the reasons, the machine, at any width."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from simulations.benchmarks import runner
from simulations.benchmarks.suite import Benchmark, Measure
from simulations.benchmarks.table import print_table

RECORD = {"fast": {"median": 2.0, "low": 1.5, "high": 3.0}, "ratio": 12345.6, "repeats": 7, "data": "ml-100k"}
MEASURES = (
    Measure("fast", "fast enough", "fast", "continuous noise", "ms", at_most=1e9),
    Measure("slow", "too slow", "fast", "continuous noise", "ms", at_most=0.0),
    Measure("large", "large enough", "ratio", "a peer", at_least=3),
    Measure("aimless", "aimless", "ratio", ""),
    Measure("broken", "broken", "nowhere", "a peer", at_most=1.0),
)


def _lines(width: int, **machine: Any) -> list[str]:
    rows = runner._rows(Benchmark("noise", "noise_cost", "", 0.1, MEASURES), "it is not installed", [RECORD])
    about = {"cpu": "A CPU", "cores": 2, "memory_gib": 15.6, "gpu": None, "load": 0.5, **machine}
    record = {"machine": about, "versions": {"python": "3.11"}, "date": "2026-01-01", "seconds": 61.0, **rows}
    console = Console(file=io.StringIO(), width=width, color_system=None)
    print_table(record, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


def _words(lines: list[str], label: str) -> list[str]:
    (line,) = [line for line in lines if line.startswith(label)]
    return line.split()


@pytest.mark.parametrize("width", [80, 120])
def test_the_table_shows_every_outcome_and_fits_the_width(width: int) -> None:
    lines = _lines(width)
    assert max(map(len, lines)) <= width
    assert _words(lines, "measure")[-6:] == ["median", "[low,", "high]", "n", "target", "outcome"]
    assert _words(lines, "fast enough")[-8:] == ["2", "[1.5,", "3]", "ms", "7", "<=", "1e+09", "met"]
    assert _words(lines, "too slow")[-4:] == ["7", "<=", "0", "missed"]
    assert _words(lines, "large enough")[-5:] == ["12,346", "7", ">=", "3", "met"]
    assert _words(lines, "aimless")[1:] == ["12,346", "7", "–"]
    assert _words(lines, "broken")[-5:] == ["not", "measured", "–", "<=", "1"]


def test_the_table_is_followed_by_the_reasons_and_what_was_measured_on() -> None:
    lines = _lines(120)
    assert lines[-6:] == [
        "not measured: broken: it is not installed",
        "machine: A CPU, 2 cores, 15.6 GiB, load 0.5 before",
        "no GPU: the rows of a GPU are not measured",
        "data: ml-100k",
        "versions: python 3.11",
        "date: 2026-01-01, took 1 min 01 s",
    ]
    assert "GPU: H200" in _lines(120, gpu="H200")
