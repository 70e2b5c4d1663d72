"""What this node's guard let out or refused: a hash-chained log that takes so much room and no more.

A log of `largest_bytes` is set aside as `decisions.1.jsonl` in the place of the one before it, and a new one begins. Its
first line names the last hash of the log that was set aside, so the hash of a later line vouches for both, and how many
contributions each run had got by then, which no later deletion takes back.

What never lives here: what is decided (`rules.py`, `guard.py`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from client.node.rules import is_contribution
from shared.errors import CheckpointError
from shared.hash_chain import HashChain

# About 25,000 decisions; a node that refuses a server all day writes a megabyte.
LARGEST_BYTES: Final = 8 * 2**20
_CONTINUED: Final = "continued"


@dataclass(frozen=True)
class Decisions:
    """The log of one node, to which one process writes.

    Attributes:
        path: The file; it need not exist.
        largest_bytes: Above, a new one begins.
    """

    path: Path
    largest_bytes: int = LARGEST_BYTES

    def append(self, body: Mapping[str, Any]) -> str:
        """Adds a decision, on disk before this returns.

        Returns:
            The head of the log, hex: the hash of the new line.

        Raises:
            CheckpointError: If the log is damaged.
            OSError: If it cannot be written.
        """
        chain, before = HashChain(self.path), HashChain(self._before)
        if self.path.exists() and self.path.stat().st_size > self.largest_bytes:
            self.read()  # whole, or it is not set aside
            counted = self.contributions()
            self.path.replace(self._before)
            self._begin(before.head, counted)
        elif not self.path.exists() and self._before.exists():  # the process ended between the two
            self._begin(before.head, self.contributions())
        return chain.append(body)

    def read(self) -> list[dict[str, Any]]:
        """All decisions that are kept, after every line of both files was verified.

        Raises:
            CheckpointError: If a line was changed, left out, put in or moved.
        """
        return [body for _, body in self.hashed()]

    def hashed(self) -> list[tuple[str, dict[str, Any]]]:
        """All decisions that are kept, each after the head of the log that ends with it, hex.

        Raises:
            CheckpointError: As `read`.
        """
        lines = [line for file in self._files() for line in file]
        return [(head, body) for head, body in lines if body["decision"] != _CONTINUED]

    def contributions(self) -> dict[str, int]:
        """How many contributions each run ever got, by its digest.

        Raises:
            CheckpointError: As `read`.
        """
        files = [[body for _, body in file] for file in self._files()]
        counted: Counter[str] = Counter()
        if files[0] and files[0][0]["decision"] == _CONTINUED:
            counted.update(files[0][0]["contributions"])
        for body in (body for file in files for body in file):
            if body["decision"] == "sent" and is_contribution(body["message_type"]):
                counted[body["run"]] += 1
        return dict(counted)

    @property
    def head(self) -> str:
        """The hash of the last line, which vouches for all before it.

        Raises:
            CheckpointError: If the last line is damaged.
        """
        return HashChain(self.path if self.path.exists() else self._before).head

    @property
    def _before(self) -> Path:
        return self.path.with_suffix(f".1{self.path.suffix}")

    def _begin(self, head: str, counted: Mapping[str, int]) -> None:
        HashChain(self.path).append({"decision": _CONTINUED, "head": head, "contributions": dict(counted)})

    def _files(self) -> list[list[tuple[str, dict[str, Any]]]]:
        """The lines of the file before, where there is one, and of this one; each follows from the other."""
        before, own = HashChain(self._before), HashChain(self.path).hashed()
        if not self._before.exists():
            return [own]
        first = own[0][1] if own else {}
        if own and (first["decision"] != _CONTINUED or first["head"] != before.head):
            raise CheckpointError(
                f"Expected {self.path.name} to follow from {self._before.name}, got another. One of them was put in the "
                "other's place; compare both with copies."
            )
        return [before.hashed(), own]
