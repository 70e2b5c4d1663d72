"""An append-only log whose lines hang together: each holds the hash of the line before it.

A line is canonical JSON (RFC 8785) with a number from 0, the hash of the line before, a salt, and a body, so that no field
can hold a line break that forges a record. The salt is 32 random bytes: without the log a head tells nothing of a body, even
to who knows the head before. Whoever holds a later hash can tell whether an earlier line was changed, left out or put
in. A chain cannot prove that its last lines are there: for that somebody else has to hold a hash (`head`).

What never lives here: what a body says.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from shared.errors import CheckpointError
from shared.signing import canonical, parsed

# What the first line names as the hash before it.
START = "0" * 64
_BLOCK = 2**16


@dataclass(frozen=True)
class HashChain:
    """One log.

    Attributes:
        path: The file; it need not exist.
    """

    path: Path

    def append(self, body: Mapping[str, Any]) -> str:
        """Adds a record, on disk before this returns; several processes may append.

        Half a line that a killed process left is removed: its record was never said to be there.

        Returns:
            The hash of the new line, hex.

        Raises:
            CheckpointError: If the last line is damaged.
            OSError: If it cannot be written; the log is then as it was.
        """
        with self._locked() as stream:
            number, before, end = self._last(stream)
            line = canonical({"number": number, "previous": before, "salt": secrets.token_hex(32), "body": body})
            stream.truncate(end)
            stream.seek(end)
            try:
                stream.write(line + b"\n")
                stream.flush()
                os.fsync(stream.fileno())
            except OSError:
                with contextlib.suppress(OSError):
                    stream.truncate(end)
                raise
            return _hash(line)

    @property
    def head(self) -> str:
        """The hash of the last line; of nothing, where there is none.

        Raises:
            CheckpointError: If the last line is damaged.
        """
        if not self.path.exists():
            return START
        with self.path.open("rb") as stream:
            return self._last(stream)[1]

    def read(self) -> list[dict[str, Any]]:
        """All bodies, after every line was verified against the one before.

        Raises:
            CheckpointError: If a line was changed, left out, put in or moved.
        """
        return [body for _, body in self.hashed()]

    def hashed(self) -> list[tuple[str, dict[str, Any]]]:
        """The hash of each line, hex, with its body, after every line was verified against the one before.

        Raises:
            CheckpointError: As `read`.
        """
        if not self.path.exists():
            return []
        before, found = START, []
        lines = self.path.read_bytes().split(b"\n")
        for number, line in enumerate(lines[:-1]):  # after the last line break there may be half a line
            record = _parsed(line)
            if record is None or record["number"] != number or record["previous"] != before:
                raise CheckpointError(
                    f"Expected line {number + 1} of {self.path.name} to follow from the line before, got another. The log "
                    "was changed after it was written; compare it with a copy."
                )
            before = _hash(line)
            found.append((before, record["body"]))
        return found

    @contextlib.contextmanager
    def _locked(self) -> Iterator[IO[bytes]]:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "rb+") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            yield stream

    def _last(self, stream: IO[bytes]) -> tuple[int, str, int]:
        """The next number, the hash of the last whole line, and where it ends."""
        end = start = stream.seek(0, os.SEEK_END)
        tail = b""
        while start and tail.count(b"\n") < 2:
            start = max(0, start - _BLOCK)
            stream.seek(start)
            tail = stream.read(end - start)
        whole, line_break, half = tail.rpartition(b"\n")
        if not line_break:
            return 0, START, 0
        line = whole.rpartition(b"\n")[2]
        record = _parsed(line)
        if record is None:
            raise CheckpointError(
                f"Expected a whole record at the end of {self.path.name}, found a damaged one. Restore a copy, or set the "
                "file aside: a new one begins then."
            )
        return record["number"] + 1, _hash(line), end - len(half)


def linked(bodies: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The same records as values, for a document that holds a whole log: each names the hash of the one before it."""
    records: list[dict[str, Any]] = []
    for number, body in enumerate(bodies):
        records.append({"number": number, "previous": head_of(records), "body": dict(body)})
    return records


def head_of(records: Sequence[Mapping[str, Any]]) -> str:
    """The hash of the last record; of nothing, where there is none."""
    return _hash(canonical(dict(records[-1]))) if records else START


def verify_linked(records: Sequence[Mapping[str, Any]], head: str) -> None:
    """Raises unless each record follows from the one before, and the last is the one of that hash.

    Raises:
        CheckpointError: If one was changed, left out, put in or moved.
    """
    intact = [dict(record) for record in records] == linked([record.get("body", {}) for record in records])
    if not intact or head_of(records) != head:
        raise CheckpointError(
            "Expected records that follow from one another, got others. The log was changed after it was written; compare "
            "it with a copy."
        )


def _hash(line: bytes) -> str:
    return hashlib.sha256(line).hexdigest()


def _parsed(line: bytes) -> dict[str, Any] | None:
    """A record; None for what is none, or not in its canonical form."""
    try:
        record = parsed(line)
        # A line of an earlier version has no salt; in a line of its own form, neither has a document's record.
        whole = set(record) | {"salt"} == {"number", "previous", "salt", "body"} and canonical(record) == line
    except (ValueError, TypeError, RecursionError, OverflowError):
        return None
    return record if whole and type(record["number"]) is int and isinstance(record["body"], dict) else None
