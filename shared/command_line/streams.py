"""The standard streams as a command finds them: any encoding, closed, full, or no reader left.

Lives here: what makes every print and every rich console safe, at the entry point alone. Work must not fail because its
report cannot be shown, so a stream that cannot take more is emptied into nothing, and the command says so at its end.
Never here: what is printed.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO


class LastingStream:
    """A text stream that takes everything.

    Characters that its encoding lacks are replaced; what cannot be written is dropped, and `error` says why.
    """

    def __init__(self, stream: TextIO, *, replace: str) -> None:
        self._stream = stream
        self.error: OSError | None = None
        with contextlib.suppress(AttributeError, OSError, ValueError):  # not every stream has this method
            stream.reconfigure(errors=replace)  # type: ignore[attr-defined]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Writes, or drops what cannot be written."""
        with self._lasting():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Flushes, or drops what cannot be written."""
        with self._lasting():
            self._stream.flush()

    @contextlib.contextmanager
    def _lasting(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.error = self.error or error
            with contextlib.suppress(OSError, ValueError):
                # What is buffered would fail again at exit, and libraries write to the descriptor themselves.
                nothing = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nothing, self._stream.fileno())
                os.close(nothing)

    @property
    def lost(self) -> str:
        """Why output was lost, "" where none was; a reader who closed the pipe has enough of it."""
        if self.error is None or self.error.errno == errno.EPIPE:
            return ""
        return self.error.strerror or type(self.error).__name__


def occupy_standard_descriptors() -> None:
    """Opens nothing in the place of standard streams that are closed.

    Otherwise the next file that is opened gets the number of one, and what any library prints is written into it.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number: this one


@contextlib.contextmanager
def lasting_output() -> Iterator[LastingStream]:
    """Puts lasting streams in the place of standard output and error; both are flushed at the end.

    A standard input that is closed, which Python has as None, is an empty one.

    Yields:
        Standard output.
    """
    before = sys.stdin, sys.stdout, sys.stderr
    if sys.stdin is None:
        sys.stdin = open(os.devnull, encoding="utf-8")  # noqa: PTH123, SIM115
    out, err = (
        LastingStream(stream or open(os.devnull, "w", encoding="utf-8"), replace=replace)  # noqa: PTH123, SIM115
        for stream, replace in zip(before[1:], ("replace", "backslashreplace"), strict=True)
    )
    sys.stdout, sys.stderr = out, err
    try:
        yield out
    finally:
        out.flush()
        err.flush()
        sys.stdin, sys.stdout, sys.stderr = before
