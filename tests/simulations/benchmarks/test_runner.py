"""`tacit bench`: real benchmarks as processes, each outcome a row, and what a person and a script get from it."""

from __future__ import annotations

import io
import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from rich.console import Console

from simulations.benchmarks import against_pfl, runner, suite
from simulations.benchmarks.runner import run_benchmarks
from simulations.benchmarks.suite import BENCHMARKS, Benchmark, Measure, choose
from tests import running

# The quickest one; what it measures is of no matter here.
QUICK = "--parameters 100 --repeats 2"
NOISE = Benchmark(
    "noise",
    "noise_cost",
    QUICK,
    0.1,
    (
        Measure("fast_enough", "fast enough", "a", "continuous noise", "ms", at_most=1e9),
        Measure("too_slow", "too slow", "b", "integer noise", "ms", at_most=0.0),
        Measure("large_enough", "large enough", "ratio", "continuous noise", at_least=0.0),
        Measure("too_small", "too small", "ratio", "continuous noise", at_least=1e9),
        Measure("aimless", "aimless", "parameters", ""),
    ),
)
BROKEN = Benchmark(
    "broken", "noise_cost", "--parameters -1", 0.1, (Measure("broken", "broken", "a", "nobody", at_most=1.0),)
)


def _run(*benchmarks: Benchmark, **options: Any) -> tuple[dict[str, Any], str]:
    said = io.StringIO()
    return run_benchmarks(benchmarks, Console(file=said, width=80), **options), said.getvalue()


def _only(*names: str) -> list[Benchmark]:
    return choose(",".join(names), everything=False)


def _rows(results: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {key: value for key, value in results.items() if isinstance(value, dict) and "measured" in value}


@pytest.fixture(scope="module")
def noise() -> tuple[dict[str, Any], str]:
    """One run of the quick benchmark, looked at by several tests."""
    return _run(NOISE)


@pytest.mark.parametrize("option", ["--repeats", "--threads"])
def test_bench_refuses_a_count_below_one(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    outcome = running.run_tacit(capsys, "bench", option, 0)
    assert outcome.status == 2
    assert f"Invalid value for '{option}': 0 is not in the range x>=1. See `tacit bench --help`." in outcome.stderr


def test_a_benchmark_end_to_end_is_one_json_object_with_machine_versions_and_its_row(
    capsys: pytest.CaptureFixture[str],
) -> None:
    outcome = running.run_tacit(capsys, "bench", "--only", "startup", "--repeats", 1, "--json")
    assert outcome.status == 0
    printed = outcome.json
    assert {"cpu", "cores", "memory_gib", "gpu", "load"} == set(printed["machine"])
    assert printed["machine"]["cores"] >= 1
    assert {"python", "tacit", "torch", "flwr", "opacus", "transformers", "peft", "numpy", "polars"} <= set(
        printed["versions"]
    )
    assert ("pfl" in printed["versions"]) == (against_pfl.pfl_version() is not None)
    assert printed["versions"]["python"] == ".".join(map(str, sys.version_info[:3]))
    row = printed["seconds_to_help"]
    assert row["measured"] is True
    assert 0 < row["low"] <= row["median"] <= row["high"] < 60
    assert (row["repeats"], row["target"], row["target_is"], row["unit"]) == (1, 0.5, "at most", "s")
    assert row["met"] == (row["median"] <= 0.5)
    assert row["against"] == "a bare interpreter"
    assert (printed["interrupted"], printed["crashed"]) == (False, [])
    first, last = outcome.stderr.splitlines()
    assert first == "1 of 1: startup (about 0.4 min), 0.0 s so far"
    assert last.startswith("1 of 1: startup (about 0.4 min): ended after ")


def test_a_benchmark_end_to_end_is_a_table_with_machine_versions_and_date(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    outcome = running.run_tacit(capsys, "bench", "--only", "noise_cost", "--repeats", 2)
    assert outcome.status == 0
    lines = outcome.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0].split() == ["measure", "·", "against", "median", "[low,", "high]", "n", "target", "outcome"]
    assert any(line.startswith("integer noise, an update") and re.search(r"\] ms +2 +<= 50 ", line) for line in lines)
    for name in ("machine: ", "versions: python 3.11", "date: 20"):
        assert any(line.startswith(name) for line in lines), name


def test_a_row_says_whether_its_target_is_met_by_the_median_on_the_side_it_is_meant(
    noise: tuple[dict[str, Any], str],
) -> None:
    rows = _rows(noise[0])
    assert {key: row["met"] for key, row in rows.items()} == {
        "fast_enough": True, "too_slow": False, "large_enough": True, "too_small": False, "aimless": None,
    }  # fmt: skip
    assert [rows[key]["target_is"] for key in ("too_slow", "too_small", "aimless")] == ["at most", "at least", None]


def test_a_row_has_the_spread_and_the_repeats_that_the_benchmark_printed(noise: tuple[dict[str, Any], str]) -> None:
    rows = _rows(noise[0])
    assert all(rows[key]["repeats"] == 2 for key in rows)
    assert rows["fast_enough"]["low"] < rows["fast_enough"]["high"]
    assert rows["aimless"]["low"] == rows["aimless"]["median"] == rows["aimless"]["high"] == 100


def test_a_process_that_fails_is_a_row_that_says_why_and_the_next_one_runs() -> None:
    results, said = _run(BROKEN, NOISE)
    row = results["broken"]
    assert (row["measured"], row["met"], row["target"]) == (False, None, 1.0)
    assert row["reason"].startswith("failed (status 1): ")
    assert "Error" in row["reason"]
    assert row["reason"].endswith("To see all: python -m simulations.benchmarks.noise_cost --json --parameters -1")
    assert "\n" not in row["reason"]
    assert results["fast_enough"]["measured"] is True
    assert results["crashed"] == ["broken"]
    assert [line.split(" (")[0] for line in said.splitlines()] == ["1 of 2: broken"] * 2 + ["2 of 2: noise"] * 2


@pytest.mark.parametrize("value", ["nonsense", "ratio.nonsense", "clip", "target_ratio"])
def test_a_number_that_is_not_printed_counts_as_a_crash(value: str) -> None:
    measure = Measure("absent", "absent", value, "nobody")
    results, _ = _run(Benchmark("noise", "noise_cost", QUICK, 0.1, (measure,)))
    assert results["crashed"] == ["noise"]
    assert results["absent"]["reason"].startswith("it printed no such number. To see what: python -m simulations.")


def test_a_difference_that_is_all_below_zero_is_not_measured_and_meets_no_target() -> None:
    below = Measure("below", "below", "overhead", "", "ms", at_most=0.1)
    negative, partly = ({"overhead": {"low": -1.0, "median": -0.5, "high": high}} for high in (-0.1, 0.1))
    benchmark = Benchmark("overhead", "overhead", "", 0.1, (below,))
    row = runner._rows(benchmark, "", [negative])["below"]
    assert (row["measured"], row["met"]) == (False, None)
    assert row["reason"] == "all of it below zero, median -0.5 ms: negative difference, discarded"
    assert runner._rows(benchmark, "", [partly])["below"]["met"] is True


def test_the_record_that_is_meant_is_found_among_several() -> None:
    def measure(key: str, name: str) -> Measure:
        return Measure(key, key, "clients", "", where=("a.name", name))

    arguments = "--messages 2 --owners 3 --events 3 --cohort 20 --cohort-events 40"
    many = Measure("messages", "messages", "reserve_and_sent_ms", "", "ms")
    measures = (measure("first", "one file"), measure("second", "many in one transaction"), many)
    results, _ = _run(Benchmark("ledger", "ledger_cost", arguments, 0.1, measures))
    assert [results[key]["median"] for key in ("first", "second")] == [3, 20]
    assert [results[key]["repeats"] for key in ("first", "messages")] == [1, 2]  # a spread's own count goes first


def test_data_that_is_missing_is_not_measured_and_no_crash(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    outcome = running.run_tacit(
        capsys, "bench", "--only", "efficiency,evaluation_cost", "--data", tmp_path / "none.csv", "--json"
    )
    assert outcome.status == 0
    for key in ("efficiency", "evaluation_ratio"):
        assert (outcome.json[key]["measured"], outcome.json[key]["reason"]) == (False, "there is nothing at none.csv")
    assert outcome.stderr == ""


def test_data_that_cannot_be_used_is_a_crash_with_its_clear_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "empty.csv").write_text("", encoding="utf-8")
    outcome = running.run_tacit(
        capsys, "bench", "--only", "evaluation_cost", "--data", tmp_path / "empty.csv", "--repeats", 1, "--json"
    )
    assert outcome.status == 1
    assert "DataError: Expected data in empty.csv, found an empty file." in outcome.json["evaluation_ratio"]["reason"]
    assert outcome.json["crashed"] == ["evaluation_cost"]


@pytest.mark.soak
@pytest.mark.skipif(against_pfl.pfl_version() is not None, reason="pfl is installed")
def test_a_peer_that_is_absent_is_not_measured_with_how_to_get_it_and_no_crash() -> None:
    measures = (
        *[measure for row in _only("against_pfl") for measure in row.measures],
        Measure("grid", "grid", "milliseconds_a_client.in-process grid", "pfl", "ms"),
    )
    results, _ = _run(Benchmark("against_pfl", "against_pfl", "--clients 5 --floats 100", 0.1, measures), repeats=1)
    assert results["pfl_ms_a_client"]["reason"].startswith("it is not installed. To measure it: pip install --no-deps ")
    assert results["grid"]["measured"] is True
    assert results["crashed"] == []


def test_the_rows_of_a_gpu_are_not_measured_without_one() -> None:
    on_gpu = [row for row in BENCHMARKS if row.on_gpu]
    assert {measure.key for row in on_gpu for measure in row.measures} == {
        "efficiency_gpu", "efficiency_five_steps_gpu", "speedup_over_stock_flower_gpu",
    }  # fmt: skip
    if subprocess.run(
        [sys.executable, "-c", "import torch; assert torch.cuda.is_available()"], capture_output=True
    ).returncode:
        results, said = _run(*on_gpu)
        assert {row["reason"] for row in _rows(results).values()} == {"no GPU"}
        assert (results["crashed"], said, results["machine"]["gpu"]) == ([], "", None)


@pytest.mark.parametrize(("benchmark", "status"), [(NOISE, 0), (BROKEN, 1)])
def test_bench_fails_if_a_benchmark_crashed_and_not_if_a_target_was_missed(
    benchmark: Benchmark, status: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(suite, "choose", lambda only, *, everything: [benchmark])
    outcome = running.run_tacit(capsys, "bench", "--json")
    assert outcome.status == status
    assert not all(outcome.json[measure.key]["met"] for measure in benchmark.measures)


@pytest.mark.soak
def test_ctrl_c_ends_the_running_benchmark_and_prints_what_was_measured_before() -> None:
    arguments = ("bench", "--only", "noise_cost,evaluation_cost,private_step", "--repeats", 1, "--json")
    process = subprocess.Popen(
        running.command(*arguments), cwd=running.ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("2 of 3: "):
            break
    children: list[psutil.Process] = []
    deadline = time.monotonic() + 300
    while not children and time.monotonic() < deadline:
        children = psutil.Process(process.pid).children(recursive=True)
    assert len(children) == 1
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=300)
    assert process.returncode == 130
    printed = json.loads(stdout)
    assert printed["interrupted"] is True
    assert printed["discrete_noise_ms"]["measured"] is True
    for key in ("private_step_ratio", "evaluation_ratio"):
        assert printed[key]["reason"] == "interrupted before it was measured"
    assert stderr.endswith("tacit: Interrupted. What was measured before it is printed.\n")
    assert "Traceback" not in stderr
    assert not psutil.wait_procs(children, timeout=60)[1]


def test_the_command_that_runs_benchmarks_imports_nothing_that_would_weigh_on_them() -> None:
    heavy = ("torch", "numpy", "flwr", "transformers", "polars")
    code = f"import sys, simulations.benchmarks.runner; print([name for name in {heavy} if name in sys.modules])"
    imported = subprocess.run([sys.executable, "-c", code], cwd=running.ROOT, capture_output=True, text=True, check=True)
    assert imported.stdout.strip() == "[]"
    code = "import sys, simulations.cli; print([name for name in sys.modules if name.startswith('simulations.bench')])"
    imported = subprocess.run([sys.executable, "-c", code], cwd=running.ROOT, capture_output=True, text=True, check=True)
    assert imported.stdout.strip() == "[]"


def test_versions_leave_out_a_peer_that_is_not_installed() -> None:
    found = runner._versions()
    assert "tacit" in found
    assert ("pfl" in found) == (against_pfl.pfl_version() is not None)
