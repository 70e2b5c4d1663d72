"""The mark beside a ledger: how far it had come, so that an older copy in its place is noticed.

A ledger that is restored from a copy has forgotten what was spent since, and no look at the file itself can tell. What can:
a second file beside it, `NAME.mark`, which holds the revision (the number of reservations and changed limits, counted in the
ledger) of the last write, and the memory of a process that has the ledger open. An older copy, another ledger under the
same name, and a ledger that is missing while its mark is there are refused. Where the whole folder was restored, the mark
was restored too, and nothing on the device can tell: then the epsilon of the ledger is too low by what was spent since.

The mark never goes to a server: the revision would tell it how often other runs asked this device. It is written after the
commit, so a crash between the two leaves a mark that is behind, never one that is ahead. A mark that is torn or cannot be
written is passed over: it is a check beside the ledger, and the events themselves are on the disk.
"""

from __future__ import annotations

import hashlib
import zlib
from contextlib import suppress
from pathlib import Path

from shared.errors import PrivacyError

_SUFFIX = ".mark"
_WORDS = "tacit-ledger-mark"


class LedgerMark:
    """The mark of one ledger.

    Args:
        ledger: The path of the ledger's file.
    """

    def __init__(self, ledger: Path) -> None:
        self._ledger = ledger
        self._path = ledger.with_name(ledger.name + _SUFFIX)
        # The newest revision that this process saw, by the name that the mark has for the ledger.
        self._seen: dict[str, int] = {}

    def exists(self) -> bool:
        """Whether there is one."""
        return self._path.exists()

    def verify(self, identity: str, revision: int) -> None:
        """Raises if the ledger is not the one that was here last, or is an older copy of it.

        Args:
            identity: The ledger's random identity; the mark holds a hash of it. (private)
            revision: The ledger's revision, read while no other process can write it. (private)

        Raises:
            PrivacyError: If the ledger is another one, or older than the mark.
        """
        name = _name(identity)
        marked, newest = self._read() or (name, 0)
        if marked != name:
            raise self._refusal("is not the one that was kept here")
        if revision < max(newest, self._seen.get(name, 0)):
            raise self._refusal("is an older copy: what was spent since it was made is not in it")
        self._seen[name] = revision

    def advance(self, identity: str, revision: int) -> None:
        """Writes down how far the ledger has come, after the commit."""
        name = _name(identity)
        self._seen[name] = max(revision, self._seen.get(name, 0))
        line = f"{_WORDS} {name} {revision:020d}"
        content = f"{line} {zlib.crc32(line.encode()):08x}\n".encode()
        # In place and of one length: a full disk does not stop it, and a reader meets one whole line or the other.
        with suppress(OSError), self._path.open("r+b" if self._path.exists() else "wb") as stream:
            stream.write(content)

    def _read(self) -> tuple[str, int] | None:
        try:
            line, _, checksum = self._path.read_bytes().decode().rstrip("\n").rpartition(" ")
            words, name, revision = line.split(" ")
            if words == _WORDS and int(checksum, 16) == zlib.crc32(line.encode()):
                return name, int(revision)
        except (OSError, ValueError):
            pass
        return None

    def _refusal(self, why: str) -> PrivacyError:
        return PrivacyError(
            f"The privacy ledger {self._ledger.name} {why}. No data was read. Put the newest copy back. If it is lost, its "
            f"epsilon is too low from now on; an owner who accepts that deletes {self._path.name}."
        )


def _name(identity: str) -> str:
    """What the mark calls a ledger: its identity stays in the ledger alone."""
    return hashlib.sha256(f"{_WORDS} {identity}".encode()).hexdigest()
