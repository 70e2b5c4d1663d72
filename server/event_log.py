"""`events.jsonl`: what happened in a run, one JSON object a line; the display, the record and the reports read it.

What was asked of clients is written before it is asked: a round that was interrupted and asked for again may have been
answered twice, and no epsilon may say less than the clients' ledgers. The same counts lie in the checkpoint
(`checkpoints.py`), which is written before each request too, so that a lost or shortened event file lowers no epsilon.

Each line names the hash of the line before it (`previous`), so whoever holds the hash of a later line (`head`) can tell
whether an earlier one was changed, left out or put in. Nodes hold such hashes: each instruction carries one
(`shared/protocol/log_heads.py`). Each line holds 32 random bytes (`salt`): without the log a head tells nothing of the
counts in it, even to who knows the head before. A chain does not prove that its last lines are there, nor who wrote it.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from shared.errors import CheckpointError
from shared.privacy.releases import ReleaseName, release_of

_PROGRESS_SECONDS = 2.0
_TAIL_BYTES = 2**16
_PREVIOUS, _SALT = "previous", "salt"
# What the first line names as the hash before it.
_START = "0" * 64


@dataclass(frozen=True)
class Asked:
    """What clients were ever asked for in a run, as `PrivacyPlan.events` takes it.

    Attributes:
        rounds: Rounds of training, repeated ones each time.
        repeated: How many of them were repetitions.
        released: How often each release beside training was asked for.
    """

    rounds: int = 0
    repeated: int = 0
    released: Mapping[ReleaseName, int] = field(default_factory=dict)

    def at_least(self, other: Asked) -> Asked:
        """The larger of both counts, one by one: each file may have lost what the other still knows."""
        names = self.released.keys() | other.released.keys()
        return Asked(
            rounds=max(self.rounds, other.rounds),
            repeated=max(self.repeated, other.repeated),
            released={name: max(self.released.get(name, 0), other.released.get(name, 0)) for name in names},
        )


class Progress(Protocol):
    """Takes the number of clients that have answered."""

    def __call__(self, count: int, stage: str = "") -> None:
        """Takes the number, and the stage of a secure sum."""


@dataclass(frozen=True)
class EventLog:
    """The event file of one run.

    Attributes:
        path: The file; it need not exist.
    """

    path: Path

    def append(self, event: str, **fields: Any) -> None:
        """Writes one event, chained to the one before it.

        Half a line that a killed process left is removed: it was not on the disk when that process would have gone on. A
        whole line that lacks its end alone is kept.
        """
        body = json.dumps({"event": event, **fields}, allow_nan=False)
        with self.path.open("ab+") as stream:
            end = _end_of_whole_lines(stream)
            stream.truncate(end)
            last = _last_line(stream, end)
            before = _hash(last) if last else _START
            line = f'{body[:-1]}, "{_SALT}": "{secrets.token_hex(32)}", "{_PREVIOUS}": "{before}"}}'
            missing = b"" if end == 0 or _last_byte(stream, end) == b"\n" else b"\n"
            stream.write(missing + f"{line}\n".encode())
            stream.flush()
            if event != "progress":
                os.fsync(stream.fileno())  # a request must not be forgotten that a client's ledger remembers

    def asking(self, purpose: str, round_number: int, instruction: str | None) -> None:
        """Writes down a request before it is sent.

        Args:
            purpose: A release, or `train`.
            round_number: 0 before training.
            instruction: Digest of what is sent; None where its state was made of exact sums.
        """
        self.append(
            "asked", purpose=purpose, **({"round_number": round_number} if round_number else {}), instruction=instruction
        )

    def progress(self, what: str, *, round_number: int, asked: int) -> Progress:
        """Returns a callback for the number of replies; it logs at most every two seconds."""
        last = time.monotonic()

        def answered(count: int, stage: str = "") -> None:
            nonlocal last
            if time.monotonic() - last >= _PROGRESS_SECONDS:
                last = time.monotonic()
                fields = {"what": what, "round_number": round_number, "clients_asked": asked}
                self.append("progress", clients_answered=count, **fields, **({"stage": stage} if stage else {}))

        return answered

    def read(self) -> list[dict[str, Any]]:
        """Every whole event; half a line at the end, left by a killed process, is none.

        Raises:
            CheckpointError: If another line is damaged: what it said was asked would be missing in every epsilon.
        """
        if not self.path.exists():
            return []
        lines = self.path.read_bytes().split(b"\n")
        events = []
        for number, line in enumerate(lines, start=1):
            event = _parsed(line)
            if event is not None:
                events.append(_said(event))
            elif line and number < len(lines):
                raise CheckpointError(
                    f"Expected one JSON object a line in {self.path.name}, found something else at line {number}. The file "
                    "is damaged, and requests to clients may be missing from it. Restore a copy, or remove the file: the "
                    "run's checkpoint counts the requests too."
                )
        return events

    @property
    def head(self) -> str:
        """The hash of the last whole line, hex, after each line was verified against the one before it.

        Raises:
            CheckpointError: If a line was changed, left out, put in or moved, or there is none.
        """
        return self.hashed()[-1][0]

    @property
    def latest(self) -> str:
        """The hash of the last whole line, hex, without a look at those before it.

        Raises:
            CheckpointError: If there is none.
        """
        if not self.path.exists():
            raise _not_chained(self.path.name)
        with self.path.open("rb") as stream:
            last = _last_line(stream, _end_of_whole_lines(stream))
        if not last:
            raise _not_chained(self.path.name)
        return _hash(last)

    def hashed(self) -> list[tuple[str, dict[str, Any]]]:
        """The hash of each whole line, hex, with its event, after each line was verified against the one before it.

        Raises:
            CheckpointError: As `head`.
        """
        lines = self.path.read_bytes().split(b"\n") if self.path.exists() else []
        if lines and _parsed(lines[-1]) is None:  # nothing, or half a line of a killed process
            del lines[-1]
        named = [(_parsed(line) or {}).get(_PREVIOUS) for line in lines]
        if not lines or named[1:] != [_hash(line) for line in lines[:-1]] or not isinstance(named[0], str):
            raise _not_chained(self.path.name)
        return [(_hash(line), _said(_parsed(line) or {})) for line in lines]

    def asked(self) -> Asked:
        """How often each purpose was ever asked for, as far as this file knows."""
        events = [event for event in self.read() if event.get("event") == "asked"]
        purposes = [event["purpose"] for event in events]
        rounds = [event["round_number"] for event in events if event["purpose"] == "train"]
        released = Counter(release_of(purpose) for purpose in purposes if purpose != "train")
        return Asked(rounds=len(rounds), repeated=len(rounds) - len(set(rounds)), released=dict(released))


def _parsed(line: bytes) -> dict[str, Any] | None:
    """One event; None for what is none."""
    try:
        event = json.loads(line)
    except ValueError:
        return None
    return event if isinstance(event, dict) and "event" in event else None


def _said(event: dict[str, Any]) -> dict[str, Any]:
    """An event without what chains it."""
    return {name: value for name, value in event.items() if name not in (_PREVIOUS, _SALT)}


def _not_chained(name: str) -> CheckpointError:
    return CheckpointError(
        f"Expected each line of {name} to follow from the line before, got another. The log was changed after it was "
        "written, or is of an earlier version; compare it with a copy."
    )


def _hash(line: bytes) -> str:
    return hashlib.sha256(line).hexdigest()


def _last_line(stream: BinaryIO, end: int) -> bytes:
    """The last line before a place where one ends; empty if there is none."""
    start, tail = end, b""
    while start and b"\n" not in tail.rstrip(b"\n"):
        start = max(0, start - _TAIL_BYTES)
        stream.seek(start)
        tail = stream.read(end - start)
    return tail.rstrip(b"\n").rpartition(b"\n")[2]


def _last_byte(stream: BinaryIO, end: int) -> bytes:
    stream.seek(end - 1)
    return stream.read(1)


def _end_of_whole_lines(stream: BinaryIO) -> int:
    """Where a new line may be written: after the last line, or before what is only half of one."""
    end = stream.seek(0, os.SEEK_END)
    start = end
    tail = b""
    while start and b"\n" not in tail:
        start = max(0, start - _TAIL_BYTES)
        stream.seek(start)
        tail = stream.read(end - start)
    last = tail.rpartition(b"\n")[2]
    return end if not last or _parsed(last) is not None else end - len(last)
