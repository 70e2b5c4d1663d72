"""Which benchmark runs and for how long, while `tacit bench` runs.

Here lives what a person sees meanwhile. Never here: the table of what came out (`bench_display.py`).
"""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.text import Text


class Progress:
    """Says which benchmark runs and for how long: one line that moves on a terminal, one before and one after elsewhere."""

    def __init__(self, console: Console, title: str, start: float) -> None:
        """Prepares it.

        Args:
            console: Where to say it.
            title: The benchmark, and which one of how many.
            start: When the first one started, by `time.monotonic`.
        """
        self._console, self._title, self._all_start = console, title, start
        self._status = console.status("") if console.is_terminal else None

    def __enter__(self) -> Progress:
        self._start = time.monotonic()
        if self._status is None:
            self._say(f"{self._title}, {clock(self._start - self._all_start)} so far")
        else:
            self.tick()
            self._status.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._status is not None:
            self._status.stop()
        how = "ended" if kind is None else "stopped"
        self._say(f"{self._title}: {how} after {clock(time.monotonic() - self._start)}")

    def tick(self) -> None:
        """Moves the clock on."""
        if self._status is not None:
            now = time.monotonic()
            self._status.update(Text(f"{self._title}  {clock(now - self._start)}, {clock(now - self._all_start)} in all"))

    def _say(self, text: str) -> None:
        self._console.print(Text(text), soft_wrap=True)


def clock(seconds: float) -> str:
    """Minutes and seconds."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
