"""SIGTERM and SIGHUP end a command as Ctrl-C does: what was finished is kept, and the status names the signal.

Lives here: the handlers, installed by the entry point. Never here: what a command does when it is interrupted; it sees a
KeyboardInterrupt in every case.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass

INTERRUPTED = 130
_SIGNALS = (signal.SIGTERM, signal.SIGHUP)


@dataclass
class Interruption:
    """Which signal came last.

    Attributes:
        status: Exit status of a command that was interrupted: 128 + the number of the signal.
    """

    status: int = INTERRUPTED


@contextlib.contextmanager
def signals_interrupt() -> Iterator[Interruption]:
    """Turns SIGTERM and SIGHUP into KeyboardInterrupt; signals that the parent ignores (`nohup`) stay ignored."""
    interruption = Interruption()
    if threading.current_thread() is not threading.main_thread():
        yield interruption
        return

    def interrupt(number: int, _: object) -> None:
        interruption.status = 128 + number
        raise KeyboardInterrupt

    before = {number: signal.getsignal(number) for number in _SIGNALS}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, interrupt)
    try:
        yield interruption
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
