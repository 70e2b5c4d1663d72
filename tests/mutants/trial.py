"""One trial: tests run in a child process on a copy of the repository, and what became of them.

The parent has imported the libraries that every test needs (`preload`) and none of the project; a child starts as a fork of
it, so that a trial costs its tests and not the start of torch. What never lives here: which trials there are (`run.py`).
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import Phase, settings

# What the tests import anyway, and takes seconds.
_LIBRARIES = (
    *("torch", "transformers", "opacus", "peft", "polars", "scipy.stats", "dp_accounting", "flwr.app", "flwr.serverapp"),
    *("flwr.clientapp", "hypothesis", "safetensors", "pydantic", "typer", "rich", "jinja2", "cryptography"),
)
# A patch that fails with one of these was mistyped: the tests saw no wrong program.
_MISTYPED = (
    *("NameError", "ImportError", "ModuleNotFoundError", "SyntaxError", "IndentationError", "UnboundLocalError"),
    *("AttributeError", "TypeError"),
)
# Where pytest failed, if no test itself did: no test said that the program is wrong.
_ELSEWHERE = {"collect": "not collected", "setup": "not set up", "teardown": "not torn down"}


@dataclass(frozen=True)
class Result:
    """What became of the tests of a trial.

    Attributes:
        status: `red` (a test failed), `green` (all passed), or what kept them from saying either.
        test: The first test that failed.
        seconds: From start to end.
        passed: The tests that passed.
    """

    status: str
    test: str
    seconds: float
    passed: tuple[str, ...] = ()


class Recorder:
    """Takes note of what pytest reports: a pytest plugin."""

    def __init__(self) -> None:
        self.passed: list[str] = []
        self.failure: tuple[str, str, str] | None = None

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Takes note of what passed."""
        if report.when == "call" and report.passed:
            self.passed.append(report.nodeid)

    def pytest_exception_interact(self, node: Any, call: Any, report: Any) -> None:
        """Keeps the first failure: the test, the error's type, and in what."""
        if self.failure is None:
            self.failure = node.nodeid, call.excinfo.type.__name__, getattr(report, "when", "collect")


def preload() -> None:
    """Imports what all trials need, once, in the parent."""
    os.environ.update({"OMP_NUM_THREADS": "1", "FLWR_TELEMETRY_ENABLED": "0", "HF_HUB_OFFLINE": "1"})
    for library in _LIBRARIES:
        importlib.import_module(library)


class Trial:
    """Tests that run in a child process.

    Args:
        copy: The copy of the repository, the child's working folder.
        tests: Files or node ids.
        stops: Whether the first failure ends it.
        log: Where the output goes; the result lies beside it.
        timeout_seconds: After which it is killed.
    """

    def __init__(self, copy: Path, tests: Sequence[str], *, stops: bool, log: Path, timeout_seconds: float) -> None:
        self.copy = copy
        self._start = time.monotonic()
        self._timeout_seconds = timeout_seconds
        self._log = log
        sys.stdout.flush()
        self._process = os.fork()
        if self._process == 0:
            _child(copy, tests, stops=stops, log=log)

    def result(self) -> Result | None:
        """What came of it; None while it runs."""
        seconds = time.monotonic() - self._start
        process, _ = os.waitpid(self._process, os.WNOHANG)
        if process == 0 and seconds < self._timeout_seconds:
            return None
        self.end()
        if process == 0:
            return Result("timed out", "", seconds)
        try:
            found = json.loads(self._log.with_suffix(".json").read_text(encoding="utf-8"))
        except (FileNotFoundError, json.JSONDecodeError):
            return Result("crashed", "", seconds)
        return Result(found["status"], found["test"], seconds, tuple(found["passed"]))

    def end(self) -> None:
        """Kills what is left of the child and its own children."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self._process, 0)


def _child(copy: Path, tests: Sequence[str], *, stops: bool, log: Path) -> None:
    """Never returns."""
    status = 1
    try:
        os.setsid()
        with log.open("w", encoding="utf-8") as stream:
            os.dup2(stream.fileno(), 1)
            os.dup2(stream.fileno(), 2)
        found = _run(copy, tests, stops=stops)
        log.with_suffix(".json").write_text(json.dumps(found), encoding="utf-8")
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _run(copy: Path, tests: Sequence[str], *, stops: bool) -> dict[str, Any]:
    here = Path(__file__).resolve().parent.parent.parent
    # The checkout's own modules must not be what is tested.
    for name in [name for name in sys.modules if name.split(".")[0] == "tests"]:
        del sys.modules[name]
    sys.path[:] = [str(copy), *(entry for entry in sys.path if Path(entry or ".").resolve() not in (here, copy))]
    os.chdir(copy)
    recorder = Recorder()
    # One example that fails is enough here; looking for the smallest takes minutes.
    settings.register_profile("mutants", deadline=None, derandomize=True, phases=(Phase.explicit, Phase.generate))
    # No thread waits for a terminal here, and the cache of an earlier trial is of another program.
    options = ["-q", "--tb=short", "--hypothesis-profile=mutants", "-p", "no:cacheprovider", "-p", "no:xdist"]
    arguments = [*options, *(["-x"] if stops else []), *tests]
    exit_code = int(pytest.main(arguments, plugins=[recorder]))
    elsewhere = [name for name in ("shared", "client", "server", "simulations") if _is_elsewhere(name, copy)]
    if elsewhere:
        return {"status": f"tested the {elsewhere[0]} of another folder", "test": "", "passed": []}
    status, test = _judged(exit_code, recorder)
    return {"status": status, "test": test, "passed": recorder.passed}


def _is_elsewhere(name: str, copy: Path) -> bool:
    module = sys.modules.get(name)
    return module is not None and copy.resolve() not in Path(str(module.__file__)).resolve().parents


def _judged(exit_code: int, recorder: Recorder) -> tuple[str, str]:
    test, error, where = recorder.failure or ("", "", "")
    if error in _MISTYPED:
        return f"mistyped ({error})", test
    if where in _ELSEWHERE:
        return f"{_ELSEWHERE[where]} ({error})", test
    if exit_code == pytest.ExitCode.TESTS_FAILED:
        return "red", test
    if exit_code == pytest.ExitCode.OK:
        return ("green" if recorder.passed else "no test ran"), ""
    return f"pytest ended with {exit_code}", test
