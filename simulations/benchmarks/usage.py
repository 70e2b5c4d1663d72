"""What running processes use, by Linux' /proc: processor time and memory, of a process and of all that it started."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
_PSS = re.compile(r"^Pss:\s*(\d+) kB", re.MULTILINE)


def tree(pid: int) -> list[int]:
    """The process and its descendants that run now."""
    parents: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            parents.setdefault(int(_fields(path)[1]), []).append(int(path.parent.name))
    found = [pid]
    for one in found:
        found += parents.get(one, [])
    return found


def processor_seconds(pid: int) -> float:
    """What a process has used so far, in user and kernel mode."""
    fields = _fields(Path(f"/proc/{pid}/stat"))
    return (int(fields[11]) + int(fields[12])) / _TICKS


def pss_megabytes(pid: int) -> float:
    """Proportional set size: memory of its own, and its share of what several processes hold together."""
    found = _PSS.search(Path(f"/proc/{pid}/smaps_rollup").read_text())
    if found is None:
        raise OSError("/proc/PID/smaps_rollup has no Pss. Measure on Linux, as the user of the process.")
    return int(found[1]) / 1000


def _fields(path: Path) -> list[str]:
    """Of `stat`, behind the name of the program, which may hold anything."""
    return path.read_text(errors="replace").rpartition(")")[2].split()
