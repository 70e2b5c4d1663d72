"""The display of a running federation: live on a terminal, one line a round elsewhere, silent when asked."""

import io
import json
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest
from rich.console import Console

from simulations.live_display import RunDisplay, follow_events

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
    assert "round 2: 1 of 8 clients answered" in "\n".join(_last_frame(display, 80))


def test_follow_events_ends_when_the_file_never_comes(tmp_path: Path) -> None:
    stop = Event()
    stop.set()
    console = _console()
    follow_events(tmp_path / "absent", RunDisplay(1, console=console), stop=stop)
    assert _text(console) == ""


def test_a_run_of_statistics_alone_shows_its_releases_and_no_rounds() -> None:
    console, clock = _console(terminal=True), Clock()
    with RunDisplay(0, title="synthetic: statistics alone", console=console, clock=clock) as display:
        display.event({"event": "asked", "purpose": "popularity"})
        display.event({"event": "asked", "purpose": "pairs"})
        clock.now += 3.0
    text = _text(console)
    assert "2 releases asked for  3 s" in text
    assert "round" not in text and "0/" not in text


def test_a_secure_sum_shows_its_release_its_stage_and_how_many_have_answered() -> None:
    event = {
        "event": "progress",
        "round_number": 0,
        "what": "pairs",
        "stage": "share",
        "clients_answered": 7,
        "clients_asked": 9,
    }
    display = RunDisplay(0, console=_console(terminal=True))
    display.event({"event": "asked", "purpose": "pairs"})
    display.event(event)
    assert "1 release asked for  0 s  pairs, stage 3 of 6: 7 of 9 clients answered" in "\n".join(_last_frame(display, 80))
    display.event({"event": "asked", "purpose": "transitions"})
    assert "answered" not in "\n".join(_last_frame(display, 80))
    rounds = RunDisplay(4, console=_console(terminal=True))
    rounds.event({**event, "what": "training", "round_number": 1})
    assert rounds._completed() == pytest.approx((2 + 7 / 9) / 6)
    rounds.event(event)  # what is asked for before training is no part of a round
    assert rounds._completed() == 0.0
