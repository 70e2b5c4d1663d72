"""The terminal display: live on a terminal, one line a round elsewhere, silent when asked."""

import io
import json
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest
from rich.console import Console

from shared.config import RunConfig
from shared.privacy.statement import statement_of
from simulations.display import (
    RunDisplay,
    follow_events,
    plain,
    print_description,
    print_doctor,
    print_recommendations,
    print_summary,
)
from tests.plans import plain_plan

RECORD_FILE = Path(__file__).parents[1] / "server" / "reporting" / "record.json"


@pytest.fixture
def record() -> dict[str, Any]:
    return json.loads(RECORD_FILE.read_text(encoding="utf-8"))


def _console(width: int = 80, *, terminal: bool = False, height: int = 40) -> Console:
    return Console(file=io.StringIO(), width=width, height=height, force_terminal=terminal, color_system=None)


def _text(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


class Clock:
    """Seconds that move when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_display_on_a_pipe_prints_one_line_a_round(record: dict[str, Any]) -> None:
    console = _console()
    with RunDisplay(20, console=console) as display:
        for row in record["rounds"][:2]:
            display.progress(row["round_number"], 3, 8)
            display.round_finished(row)
        display.message("evaluating")
    assert _text(console).splitlines() == [
        "round  1/20  loss 7.268  HR 0.1082  NDCG 0.0584  epsilon 2.91  clients 8/8  12.0 s",
        "round  2/20  loss 7.147  HR 0.1099  NDCG 0.0622  epsilon 3.52  clients 8/8  11.5 s",
        "evaluating",
    ]


def test_display_writes_to_stderr_and_leaves_stdout_alone(
    record: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    with RunDisplay(20) as display:
        display.round_finished(record["rounds"][0])
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("round  1/20")


def test_display_is_silent_when_quiet(record: dict[str, Any]) -> None:
    console = _console(terminal=True)
    with RunDisplay(20, title="t", quiet=True, console=console) as display:
        display.message("m")
        display.progress(1, 1, 8)
        display.round_finished(record["rounds"][0])
    assert _text(console) == ""


def _last_frame(display: RunDisplay, width: int, height: int = 40) -> list[str]:
    console = _console(width, height=height)
    console.print(display._render())
    return _text(console).splitlines()


@pytest.mark.parametrize("width", [80, 120])
def test_live_table_fits_the_terminal_and_keeps_the_last_rounds(record: dict[str, Any], width: int) -> None:
    console = _console(width, terminal=True)
    display = RunDisplay(30, title="ml-100k", console=console)
    for row in record["rounds"]:
        display.round_finished(row)
    display.progress(21, 4, 8)
    lines = _last_frame(display, width)
    assert all(len(line) <= width for line in lines)
    shown = [int(line.split()[0]) for line in lines if line[:8].strip().isdigit()]
    assert shown == list(range(6, 21))
    text = "\n".join(lines)
    assert "5 earlier rounds not shown" in text
    assert "HR@10" in text and "NDCG@10" in text and "epsilon" in text
    assert "20/30 rounds" in text
    assert "round 21: 4 of 8 clients answered" in text


def test_live_table_fits_a_low_terminal(record: dict[str, Any]) -> None:
    display = RunDisplay(30, title="t", console=_console(80, terminal=True, height=14))
    for row in record["rounds"]:
        display.round_finished(row)
    assert len(_last_frame(display, 80, 14)) <= 14


def test_live_display_leaves_the_finished_table_on_the_screen(record: dict[str, Any]) -> None:
    console = _console(100, terminal=True)
    with RunDisplay(2, title="ml-100k", console=console) as display:
        display.message("cached")
        for row in record["rounds"][:2]:
            display.round_finished(row)
    final = _text(console)
    assert "cached" in final
    assert "all rounds finished" in final.splitlines()[-2]
    assert "\x1b[?25h" in final


def test_live_display_gives_the_terminal_back_after_an_error(record: dict[str, Any]) -> None:
    console = _console(100, terminal=True)
    with pytest.raises(KeyboardInterrupt), RunDisplay(9, console=console) as display:
        display.round_finished(record["rounds"][0])
        raise KeyboardInterrupt
    assert "\x1b[?25h" in _text(console).splitlines()[-1]
    assert "all rounds finished" not in _text(console)


def test_epsilon_column_says_off_without_privacy(record: dict[str, Any]) -> None:
    console = _console()
    with RunDisplay(20, is_private=False, console=console) as display:
        display.round_finished({**record["rounds"][0], "epsilon_spent": None})
    assert "epsilon off" in _text(console)


def test_seconds_left_follow_the_recent_rounds() -> None:
    clock = Clock()
    display = RunDisplay(10, console=_console(), clock=clock, quiet=True)
    assert display.seconds_left() is None
    for number in range(1, 5):
        clock.now += 10.0
        display.round_finished({"round_number": number, "seconds": 10.0})
    assert display.seconds_left() == pytest.approx(60.0)
    clock.now += 4.0
    assert display.seconds_left() == pytest.approx(56.0)
    clock.now += 600.0
    assert display.seconds_left() == pytest.approx(50.0)


def test_rounds_of_an_earlier_process_do_not_count_for_the_time_left() -> None:
    earlier = [{"round_number": 1, "seconds": 1000.0}]
    display = RunDisplay(10, finished=earlier, console=_console(), clock=Clock(), quiet=True)
    assert display.seconds_left() is None
    display.round_finished({"round_number": 2, "seconds": 10.0})
    assert display.seconds_left() == pytest.approx(80.0)


def test_display_survives_a_row_that_holds_nothing() -> None:
    console = _console()
    with RunDisplay(3, console=console) as display:
        display.round_finished({})
        display.round_finished({"round_number": 2, "training_loss": float("nan"), "validation": None})
    assert "nan" not in _text(console).lower()
    assert len(_text(console).splitlines()) == 2


def test_follow_events_shows_what_another_process_writes(record: dict[str, Any], tmp_path: Path) -> None:
    console, stop, path = _console(), Event(), tmp_path / "events.jsonl"
    display = RunDisplay(20, console=console)
    thread = Thread(target=follow_events, args=(path, display), kwargs={"stop": stop, "poll_seconds": 0.01})
    thread.start()
    line = json.dumps({"event": "round", **record["rounds"][0]})
    with path.open("w", encoding="utf-8") as stream:
        stream.write(line[:30])
        stream.flush()
        stream.write(line[30:] + '\nno json\n[1]\n{"event": "unknown"}\n')
        stream.write('{"event": "progress", "round_number": 2, "clients_answered": 1, "clients_asked": 8}\n')
        stream.write('{"event": "message", "text": "done"}\n')
    stop.set()
    thread.join(timeout=60)
    assert not thread.is_alive()
    assert [line[:12] for line in _text(console).splitlines()] == ["round  1/20 ", "done"]
    assert display._within == (2, 1, 8)


def test_follow_events_ends_when_the_file_never_comes(tmp_path: Path) -> None:
    stop = Event()
    stop.set()
    console = _console()
    follow_events(tmp_path / "absent", RunDisplay(1, console=console), stop=stop)
    assert _text(console) == ""


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
    assert _text(console).endswith("Everything that is needed is here.\n")


def test_plain_keeps_letters_and_drops_commands() -> None:
    assert plain("Amélie\t\x1b]0;x\x07 ‮abc") == "Amélie  ]0;x   abc"
