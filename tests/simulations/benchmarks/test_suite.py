"""The list of `tacit bench`: complete, unambiguous, and chosen from by name."""

from __future__ import annotations

import importlib.util

import pytest

from shared.errors import ConfigError
from simulations.benchmarks.suite import BENCHMARKS, choose
from tests import running


def test_every_benchmark_is_a_module_that_exists() -> None:
    for benchmark in BENCHMARKS:
        assert importlib.util.find_spec(f"simulations.benchmarks.{benchmark.module}") is not None, benchmark.name


def test_every_module_of_the_benchmarks_is_in_the_list() -> None:
    """Except those that have no numbers of their own: what they share."""
    folder = running.ROOT / "simulations" / "benchmarks"
    runnable = {path.stem for path in folder.glob("*.py") if "__main__" in path.read_text(encoding="utf-8")}
    assert {benchmark.module for benchmark in BENCHMARKS} == runnable


def test_names_and_keys_are_unique_and_no_key_hides_what_else_is_in_the_object() -> None:
    names = [benchmark.name for benchmark in BENCHMARKS]
    keys = [measure.key for benchmark in BENCHMARKS for measure in benchmark.measures]
    assert len(set(names)) == len(names)
    assert len(set(keys)) == len(keys)
    assert not set(keys) & {"machine", "versions", "date", "seconds", "crashed", "interrupted"}


def test_the_default_set_takes_less_than_fifteen_minutes_by_its_own_account_and_all_adds_the_long_ones() -> None:
    default, everything = choose(None, everything=False), choose(None, everything=True)
    assert sum(benchmark.minutes for benchmark in default if not benchmark.on_gpu) < 15
    assert everything == list(BENCHMARKS)
    assert [benchmark for benchmark in everything if benchmark not in default] == [row for row in BENCHMARKS if row.long]


def test_only_takes_names_and_keys_in_the_order_of_the_list_and_long_ones_too() -> None:
    assert [row.name for row in choose("startup, scale_million,efficiency", everything=False)] == [
        "efficiency",
        "scale_million",
        "startup",
    ]
    by_key = choose("speedup_over_stock_flower_with_startup", everything=False)
    assert [row.name for row in by_key] == ["against_flower"]


@pytest.mark.parametrize("only", ["startup,nonsense", "against_flowe"])
def test_only_with_a_name_that_is_none_lists_all_there_are(only: str) -> None:
    with pytest.raises(ConfigError, match=r"^Expected --only to name benchmarks, got --only=.*\. Take some of: ") as error:
        choose(only, everything=False)
    for benchmark in BENCHMARKS:
        assert benchmark.name in str(error.value)


def test_bench_with_an_unknown_name_is_one_clear_line_and_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    outcome = running.run_tacit(capsys, "bench", "--only", "startup,nonsense")
    assert outcome.status == 2
    assert outcome.stdout == ""
    assert outcome.stderr.startswith("tacit: Expected --only to name benchmarks, got --only=nonsense. Take some of: ")
    assert outcome.stderr.count("\n") == 1
