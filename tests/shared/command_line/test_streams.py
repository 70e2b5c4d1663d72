"""Streams that cannot take the output: an encoding without its characters, a full disk, no reader, no stream at all."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from shared.command_line.streams import LastingStream, lasting_output
from simulations import cli
from tests import running
from tests.running import FinishedRun

WORDS = "Café ▁ – Ω −1 日本\udce9"
FULL = Path("/dev/full")
needs_a_full_device = pytest.mark.skipif(not FULL.exists(), reason="needs /dev/full")


@pytest.fixture(scope="module")
def foreign_letters(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Interactions whose items have letters of several scripts."""
    path = running.write_interactions(tmp_path_factory.mktemp("letters") / "interactions.csv")
    path.write_text(path.read_text(encoding="utf-8").replace(",w1 w2 ", ",日本 Café – "), encoding="utf-8")
    return path


def _run(monkeypatch: pytest.MonkeyPatch, encoding: str, *arguments: object) -> tuple[int, str, str]:
    """Runs a command in this process with streams of an encoding, as PYTHONIOENCODING would make them."""
    streams = [io.TextIOWrapper(io.BytesIO(), encoding=encoding) for _ in range(2)]
    monkeypatch.setattr(sys, "stdout", streams[0])
    monkeypatch.setattr(sys, "stderr", streams[1])
    monkeypatch.setattr(sys, "argv", ["tacit", *map(str, arguments)])
    status = 0
    try:
        cli.run()
    except SystemExit as error:
        status = int(error.code or 0)
    finally:
        monkeypatch.undo()
    texts = []
    for stream in streams:
        stream.flush()
        texts.append(stream.buffer.getvalue().decode(encoding))  # type: ignore[attr-defined]
    return status, texts[0], texts[1]


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
@pytest.mark.parametrize("command", ["describe", "preview", "recommend", "plan", "config", "doctor", "unknown"])
@pytest.mark.parametrize("flags", [(), ("--json",)])
def test_a_command_ends_as_ever_on_a_terminal_of_any_encoding(
    monkeypatch: pytest.MonkeyPatch,
    foreign_letters: Path,
    finished_run: FinishedRun,
    tiny_bert: str,
    encoding: str,
    command: str,
    flags: tuple[str, ...],
) -> None:
    arguments: dict[str, list[object]] = {
        "describe": ["data", "describe", foreign_letters],
        "preview": ["data", "preview", foreign_letters],
        "recommend": ["recommend", finished_run.folder, "--history", "thing-1", "-k", 30],
        "plan": ["privacy", "plan", "--users", 500],
        "config": ["config", "--set", f"run.name={WORDS[:-1]}"],
        "doctor": ["doctor", "--backbone", tiny_bert],
        "unknown": ["data", "describe", f"nowhere/{WORDS}"],
    }
    status, out, err = _run(monkeypatch, encoding, *arguments[command], *flags)
    assert status == (2 if command == "unknown" else 0), err
    assert "Traceback" not in err
    if flags:
        value = json.loads(out)
        assert out.isascii()
        if command == "config":
            assert value["run.name"] == WORDS[:-1]
        if command == "preview":
            assert "日本" in json.dumps(value, ensure_ascii=False)
    elif command == "unknown":
        assert err.count("\n") == 1 and "nowhere/Caf" in err


def test_a_run_ends_as_ever_on_a_terminal_without_its_letters(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, foreign_letters: Path, tiny_bert: str
) -> None:
    arguments = ["simulate", *running.flags(tiny_bert), "--data", foreign_letters, "--out", tmp_path / "run"]
    status, out, err = _run(monkeypatch, "ascii", *arguments, "--set", f"run.name={WORDS[:-1]}", "--baselines", "popularity")
    assert status == 0, err
    assert "popularity" in out
    assert "round 2/2" in err


@pytest.mark.parametrize("columns", ["1", "20", "nonsense"])
def test_a_narrow_or_dumb_terminal_is_written_to(
    monkeypatch: pytest.MonkeyPatch, finished_run: FinishedRun, tmp_path: Path, foreign_letters: Path, columns: str
) -> None:
    for command in (
        ["recommend", finished_run.folder, "--history", "thing-1"],
        ["data", "preview", foreign_letters],
        ["data", "describe", foreign_letters],
        ["privacy", "plan", "--users", 500],
    ):
        for name, value in {"COLUMNS": columns, "TERM": "dumb", "NO_COLOR": "1"}.items():
            monkeypatch.setenv(name, value)
        status, out, err = _run(monkeypatch, "utf-8", *command)
        assert (status, err) == (0, "") and out and "\x1b" not in out


def test_letters_that_a_stream_lacks_are_replaced() -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="latin-1")
    print(WORDS, file=LastingStream(stream, replace="replace"))  # type: ignore[call-overload]
    stream.flush()
    assert stream.buffer.getvalue().decode("latin-1") == "Café ? ? ? ?1 ???\n"  # type: ignore[attr-defined]


@needs_a_full_device
def test_what_a_full_disk_loses_is_told_and_later_writes_go_nowhere() -> None:
    with FULL.open("w", encoding="utf-8") as full:
        stream = LastingStream(full, replace="replace")
        for _ in range(10):
            print("x" * 10_000, file=stream)  # type: ignore[call-overload]
        stream.flush()
        assert stream.lost == "No space left on device"
        os.write(full.fileno(), b"a library's own output")


def test_a_reader_that_closed_the_pipe_has_enough_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w", encoding="utf-8") as pipe:
        stream = LastingStream(pipe, replace="replace")
        print("x", file=stream)  # type: ignore[call-overload]
        stream.flush()
        assert (type(stream.error), stream.lost) == (BrokenPipeError, "")


def test_the_streams_of_before_come_back(capsys: pytest.CaptureFixture[str]) -> None:
    before = sys.stdout, sys.stderr
    with pytest.raises(RuntimeError, match="fault"), lasting_output():
        print("shown")
        raise RuntimeError("fault")
    assert (sys.stdout, sys.stderr) == before
    assert capsys.readouterr().out == "shown\n"


def _in_a_shell(line: str, **changes: str) -> subprocess.CompletedProcess[str]:
    tacit = f"{sys.executable} {running.ROOT / 'tacit.py'}"
    return subprocess.run(
        ["bash", "-c", f"set -o pipefail; {line}".replace("TACIT", tacit)], capture_output=True, text=True, timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1", **changes},
    )  # fmt: skip


def _arguments(backbone: str, data: Path, out: Path) -> str:
    return " ".join(map(str, ["simulate", *running.flags(backbone), "--data", data, "--out", out]))


@pytest.mark.soak
def test_a_run_whose_reader_leaves_at_once_is_finished(tmp_path: Path, foreign_letters: Path, tiny_bert: str) -> None:
    done = _in_a_shell(f"TACIT {_arguments(tiny_bert, foreign_letters, tmp_path / 'run')} 2>&1 | head -1")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == 1 and "Traceback" not in done.stderr
    assert json.loads((tmp_path / "run" / "run.json").read_text(encoding="utf-8"))["status"] == "complete"


@needs_a_full_device
def test_a_run_whose_output_has_no_place_is_finished_and_other_commands_fail_in_one_line(
    tmp_path: Path, foreign_letters: Path, tiny_bert: str
) -> None:
    done = _in_a_shell(f"TACIT {_arguments(tiny_bert, foreign_letters, tmp_path / 'run')} > /dev/full")
    assert done.returncode == 0
    assert done.stderr.splitlines()[-1] == "tacit: The output could not be written: No space left on device."
    assert json.loads((tmp_path / "run" / "run.json").read_text(encoding="utf-8"))["status"] == "complete"
    done = _in_a_shell("TACIT config > /dev/full")
    assert (done.returncode, done.stderr) == (1, "tacit: The output could not be written: No space left on device.\n")


@pytest.mark.soak
@pytest.mark.parametrize("closed", ["<&-", "<&- >&- 2>&-"])
def test_a_run_without_standard_streams_is_finished(
    tmp_path: Path, foreign_letters: Path, tiny_bert: str, closed: str
) -> None:
    settings = running.flags(tiny_bert, data__public_catalog=None, privacy__epsilon="inf")
    arguments = " ".join(map(str, ["simulate", *settings, "--data", foreign_letters, "--out", tmp_path / "run"]))
    done = _in_a_shell(f"TACIT {arguments} {closed}")
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "run" / "run.json").read_text(encoding="utf-8"))["status"] == "complete"
