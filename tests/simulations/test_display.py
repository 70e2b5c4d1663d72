"""Tables of results fit the terminal and hold what they must."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from shared.config import RunConfig
from shared.privacy.statement import statement_of
from simulations.display import print_description, print_doctor, print_recommendations, print_summary
from tests.plans import default_plan, plain_plan

RECORD_FILE = Path(__file__).parents[1] / "server" / "reporting" / "record.json"


@pytest.fixture
def record() -> dict[str, Any]:
    return json.loads(RECORD_FILE.read_text(encoding="utf-8"))


def _console(width: int = 80, *, terminal: bool = False, height: int = 40) -> Console:
    return Console(file=io.StringIO(), width=width, height=height, force_terminal=terminal, color_system=None)


def _text(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize("width", [80, 120])
def test_summary_fits_the_terminal_and_holds_every_model(record: dict[str, Any], width: int) -> None:
    console = _console(width)
    print_summary(record, console, run_dir=Path("runs/x"))
    text = _text(console)
    assert all(len(line) <= width for line in text.splitlines())
    assert "…" not in text
    labels = ("this run *", "popularity", "item-kNN", "SASRec, centralized", "best achievable")
    for part in (*labels, "0.051–0.075", "−0.0421", "p = 0.784", "0.1280"):
        assert part in text
    flowing = " ".join(text.split())
    assert "49 % of the best achievable" in flowing
    assert "the person or program that runs the user's own client." in flowing
    assert "written to runs/x" in flowing and "adapter adapter/" in flowing


def test_summary_sets_the_best_bold_and_our_row_apart(record: dict[str, Any]) -> None:
    console = Console(file=io.StringIO(), width=120, force_terminal=True, color_system="standard")
    print_summary(record, console)
    lines = _text(console).splitlines()
    own = next(line for line in lines if "this run *" in line)
    best = next(line for line in lines if "SASRec" in line)
    assert "\x1b[36m" in own
    assert "\x1b[1m0.1050" in best
    assert "\x1b[1m0.0930" not in _text(console)


def test_summary_says_that_a_run_is_not_private_or_interrupted(record: dict[str, Any]) -> None:
    config, plan = RunConfig.from_mapping({}), plain_plan()
    record["privacy"] = {**statement_of(plan, [], config=config).model_dump(mode="json"), "ledger": None}
    record.update(status="interrupted", baselines=[], metrics={})
    record["data"]["ceiling"] = None
    console = _console()
    print_summary(record, console)
    text = " ".join(_text(console).split())
    assert "The run was interrupted" in text
    assert "NOT PRIVATE: privacy is off (epsilon = inf): updates are neither clipped nor noised." in text
    assert "best achievable" not in text


def test_summary_of_a_run_without_results_prints(record: dict[str, Any]) -> None:
    console = _console()
    print_summary({**record, "rounds": [], "metrics": {}, "baselines": []}, console)
    assert "this run *" in _text(console)


def test_description_prints_nested_values_and_warnings() -> None:
    console = _console()
    print_description(
        {
            "users": 943,
            "density": 0.06305,
            "history_lengths": {"median": 65.0, "max": 737, "shortest_ten": [20, 20]},
            "positional": False,
            "time_span": None,
            "warnings": ["65 % of the interactions share their time with another."],
        },
        console,
    )
    flowing = " ".join(_text(console).split())
    assert "users 943" in flowing
    assert "density 6.305 %" in flowing
    assert "history lengths median 65 max 737 shortest ten 20, 20" in flowing
    assert "positional no time span –" in flowing
    assert flowing.endswith("▲ 65 % of the interactions share their time with another.")


def test_description_without_warnings_says_so() -> None:
    console = _console()
    print_description({"users": 1}, console)
    assert _text(console).endswith("No warnings.\n")


@pytest.mark.parametrize("width", [80, 120])
def test_recommendations_fit_and_no_text_of_an_item_reaches_the_terminal_as_a_command(width: int) -> None:
    console = _console(width)
    rows = [
        {"rank": 1, "item": "i" * 60, "text": "\x1b[31mred [bold]x[/bold]\nnext" + "y" * 200, "score": 5.1},
        {"rank": 10, "item": "42", "text": "short", "score": -0.5},
    ]
    print_recommendations(rows, console)
    text = _text(console)
    assert "\x1b" not in text
    assert "[bold]x[/bold] next" in text
    lines = text.splitlines()
    assert len(lines) == 4
    assert all(len(line) <= width for line in lines)
    assert lines[0].split() == ["rank", "item", "text", "score"]
    assert lines[3].split() == ["10", "42", "short", "−0.500"]


def test_recommendations_of_nothing_say_so() -> None:
    console = _console()
    print_recommendations([], console)
    assert _text(console) == "Nothing to recommend: the history holds the whole catalog.\n"


def test_doctor_shows_advice_for_what_fails_and_what_could_be_better() -> None:
    console = _console()
    checks = [
        {"name": "python", "value": "3.11.7", "ok": True, "advice": "never shown"},
        {"name": "CUDA", "value": "absent", "ok": None, "advice": "a GPU is faster"},
        {"name": "weights", "value": "checksum differs", "ok": False, "advice": "install them again"},
    ]
    print_doctor(checks, console)
    text = _text(console)
    assert "✗  weights  checksum differs" in text
    assert "install them again" in text
    assert "a GPU is faster" in text
    assert "shown" not in text
    assert text.endswith("1 of 3 checks need attention.\n")


def test_doctor_says_when_all_is_well() -> None:
    console = _console()
    print_doctor([{"name": "python", "value": "3.11.7", "ok": True, "advice": ""}], console)
    assert _text(console).endswith("All checks passed.\n")


def test_summary_of_statistics_alone_names_each_release_and_what_was_spent(record: dict[str, Any]) -> None:
    plan = default_plan()
    statement = statement_of(plan, plan.events(), config=RunConfig.from_mapping({"data.public_catalog": True}))
    record["privacy"] = {**statement.model_dump(mode="json"), "ledger": None}
    record["rounds"] = []
    console = _console()
    print_summary(record, console)
    text = " ".join(_text(console).split())
    assert "refinement of one of them 1 0.7922 1.58 users 57 %" in text
    assert "Spent on 9 releases: epsilon 8.00 of 8 asked for, at delta 1e-5." in text
