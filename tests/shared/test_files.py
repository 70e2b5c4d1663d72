"""Atomic writes: a reader sees the old file or the new one, whatever goes wrong in between."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path
from typing import IO

import pytest

from shared.config import read_toml
from shared.errors import ConfigError
from shared.files import read_text, require_unicode, verify_owner_alone, write_atomically, write_json


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


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_text_of_any_editor_is_read_without_its_byte_order_mark(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "text").write_bytes("rounds = 1 # é".encode(encoding))
    assert read_text(tmp_path / "text") == "rounds = 1 # é"
    (tmp_path / "run.toml").write_bytes('[federation]\r\nrounds = 1\r\n[run]\r\nname = "é"\r\n'.encode(encoding))
    assert read_toml(tmp_path / "run.toml") == {"federation": {"rounds": 1}, "run": {"name": "é"}}


def test_a_name_that_is_no_unicode_is_refused_in_one_line() -> None:
    require_unicode("a folder", "café")
    with pytest.raises(ConfigError) as caught:
        require_unicode("a folder", os.fsdecode(b"caf\xe9"))
    assert str(caught.value).startswith(r"Expected a folder in UTF-8, got other bytes in 'caf\udce9'. Rename")
    str(caught.value).encode()


def test_a_secrets_file_is_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_text("secret", encoding="utf-8")
    for mode in (0o600, 0o400):
        path.chmod(mode)
        verify_owner_alone(path)
    for mode in (0o640, 0o604, 0o620, 0o601, 0o666):
        path.chmod(mode)
        with pytest.raises(ConfigError, match="Expected secret to be readable for its owner alone"):
            verify_owner_alone(path)
