"""Claims on folders, between real processes."""

from __future__ import annotations

import errno
import fcntl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from shared.errors import ConfigError
from shared.folder_claim import CLAIM, claimed, contents, new_folder, publish
from tests import running

_HOLD = """
import sys, time
from pathlib import Path
from shared.folder_claim import claimed
with claimed(Path(sys.argv[1]), lambda folder: None):
    print("held", flush=True)
    time.sleep(300)
"""
_COMPETE = """
import sys, time
from pathlib import Path
from shared.folder_claim import claimed, contents, new_folder
from shared.errors import ConfigError

def unused(folder):
    if contents(folder):
        raise ConfigError("used")

sys.stdin.readline()
try:
    if sys.argv[2] == "new":
        with new_folder(Path(sys.argv[1])) as folder:
            (folder / "mine").touch(exist_ok=False)
            print(folder.name)
    else:
        with claimed(Path(sys.argv[1]), unused):
            (Path(sys.argv[1]) / "mine").touch(exist_ok=False)
            print("won")
except ConfigError:
    print("refused")
"""


def _anything(folder: Path) -> None:
    """No content is refused."""


def _unused(folder: Path) -> None:
    if contents(folder):
        raise ConfigError("used")


@contextmanager
def _held_by_another(folder: Path) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(folder)], cwd=running.ROOT, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def test_a_folder_that_another_process_writes_is_refused_until_that_process_has_died(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    message = "Expected a folder that no other process writes, found one at work in run/"
    with _held_by_another(folder) as other:
        with pytest.raises(ConfigError, match=message), claimed(folder, _anything):
            raise AssertionError("two writers")
        assert other.poll() is None
    # Killed: its file is still there, its lock is not.
    assert (folder / CLAIM).exists()
    with claimed(folder, _unused):
        (folder / "mine").touch()
    assert [path.name for path in folder.iterdir()] == ["mine"]


@pytest.mark.parametrize("how", ["same", "new"])
def test_of_processes_that_start_together_each_has_a_folder_of_its_own(tmp_path: Path, how: str) -> None:
    """Eight processes start at one signal; `touch(exist_ok=False)` fails where two were in one folder."""
    arguments = [sys.executable, "-c", _COMPETE, str(tmp_path / "out"), how]
    processes = [
        subprocess.Popen(arguments, cwd=running.ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(8)
    ]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    said = sorted(process.communicate(timeout=60)[0].strip() for process in processes)
    if how == "same":
        assert said == ["refused"] * 7 + ["won"]
    else:
        assert said == sorted(["out", *(f"out-{number}" for number in range(2, 9))])


def test_a_folder_is_checked_again_under_the_claim(tmp_path: Path) -> None:
    seen = []

    def check(folder: Path) -> None:
        seen.append((folder / CLAIM).exists())

    with claimed(tmp_path, check):
        pass
    assert seen == [False, True]


def test_a_refused_claim_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="later"), claimed(tmp_path / "a" / "b", _anything):
        raise ConfigError("later")
    with pytest.raises(ConfigError, match="later"), new_folder(tmp_path / "runs" / "one"):
        raise ConfigError("later")
    assert list(tmp_path.iterdir()) == []


def test_a_process_claims_again_what_it_holds(tmp_path: Path) -> None:
    with claimed(tmp_path, _anything), claimed(tmp_path, _unused):
        assert (tmp_path / CLAIM).exists()
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_the_way_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("precious")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ConfigError, match="found a file in its way"), claimed(folder, _anything):
            raise AssertionError("claimed a file")
    assert (tmp_path / "file").read_text() == "precious"


def test_a_finished_folder_is_published_under_its_claim_and_never_over_files(tmp_path: Path) -> None:
    prepared, folder = tmp_path / "prepared", tmp_path / "out"
    prepared.mkdir()
    (prepared / "new").touch()
    with claimed(folder, _unused):
        (folder / "others").touch()
        with pytest.raises(ConfigError, match="found files that were written meanwhile"):
            publish(prepared, folder)
        (folder / "others").unlink()
        publish(prepared, folder)
    assert [path.name for path in folder.iterdir()] == ["new"]


def test_a_file_system_without_locks_keeps_new_folders_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def without_locks(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", without_locks)
    with claimed(tmp_path / "a", _unused):
        pass
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / CLAIM).touch()
    with pytest.raises(ConfigError, match="found one at work in b/"), claimed(tmp_path / "b", _unused):
        raise AssertionError("two writers")
