"""Atomic writes: a reader sees the old file or the new one, whatever goes wrong in between."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from typing import IO

import pytest

from shared.files import write_atomically, write_json


def test_a_file_is_written_with_its_missing_folders(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "file.bin"
    write_atomically(path, lambda stream: stream.write(b"new"))
    assert path.read_bytes() == b"new"
    assert path.stat().st_mode & 0o777 == 0o644
    assert [child.name for child in path.parent.iterdir()] == ["file.bin"]


@pytest.mark.parametrize("error", [OSError("No space left on device"), KeyboardInterrupt()])
def test_the_old_file_stays_and_nothing_is_left_behind_when_the_writer_raises(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "file.bin"
    path.write_bytes(b"old")

    def fails(stream: IO[bytes]) -> None:
        stream.write(b"half of the n")
        raise error

    with pytest.raises(type(error), match=str(error)):
        write_atomically(path, fails)
    assert path.read_bytes() == b"old"
    assert [child.name for child in tmp_path.iterdir()] == ["file.bin"]


def test_the_old_file_stays_when_the_disk_is_full(tmp_path: Path) -> None:
    """The limit on file sizes makes the kernel refuse the write, as a full disk does."""
    path = tmp_path / "file.bin"
    path.write_bytes(b"old")
    code = (
        "import resource, signal, sys; from pathlib import Path; from shared.files import write_atomically\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "write_atomically(Path(sys.argv[1]), lambda stream: stream.write(b'x' * 100_000))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, env=_environment())
    assert done.returncode == 1
    assert "OSError" in done.stderr
    assert path.read_bytes() == b"old"
    assert [child.name for child in tmp_path.iterdir()] == ["file.bin"]


def test_json_is_readable_and_holds_no_nan(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    write_json(path, {"name": "Zoë", "values": [1, 2.5, None]})
    assert path.read_text(encoding="utf-8") == '{\n "name": "Zoë",\n "values": [\n  1,\n  2.5,\n  null\n ]\n}\n'
    for value in (math.nan, math.inf):
        with pytest.raises(ValueError, match="Out of range float values are not JSON compliant"):
            write_json(path, {"value": value})
    assert "Zoë" in path.read_text(encoding="utf-8")


def _environment() -> dict[str, str]:
    import os

    return {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent.parent)}
