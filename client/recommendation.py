"""Recommendations on the node: from the last recommender that is worth having, and the histories that never leave.

A received recommender takes the place of the one in use unless it is worse on this node's own held-out data: each user's
last interaction, ranked against the whole catalog. That comparison stays here; the server never learns of it. Everything
works without a connection. What never lives here: the endpoint (`serving.py`), scores (`shared/model/`).
"""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from client.home import NodeHome
from client.store.settings import open_store
from shared.artifact import load_recommender
from shared.data.catalog import ItemCatalog
from shared.errors import ConfigError, DataError, NothingReceived, TacitError
from shared.files import write_json
from shared.model.recommender import Recommender
from shared.ranking import top_k
from shared.run_folder import load_catalog

_JUDGED: Final = "judged.json"
_K: Final = 10
_MOST_COMPARED: Final = 2000
# Users who are compared at a time, and the most scores in memory.
_AT_ONCE: Final = 128
_SCORES: Final = 2**24
# Standard errors of the users' differences by which a recommender has to be worse before it is not taken.
_WORSE: Final = 1.0


@dataclass
class OwnRecommender:
    """The recommender in use on a node, and its users' histories.

    Attributes:
        home: Of the node.
    """

    home: NodeHome
    _opened: tuple[str, _Opened] | None = field(default=None, repr=False)
    _one_at_a_time: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def __post_init__(self) -> None:
        self._store = open_store(self.home)

    def recommend(self, user: str, k: int) -> Sequence[dict[str, Any]]:
        """The best items for a user, without those of the history; an unknown user gets what is popular.

        Args:
            user: Whose id stays here. (private)
            k: >= 1.

        Returns:
            `rank`, `item`, `text`, `score` of each, best first.

        Raises:
            NothingReceived: If nothing was received yet.
            ConfigError: If k < 1.
            CheckpointError: If what was received is damaged.
            StoreUnavailable: If the interactions cannot be read.
        """
        _, opened = self._opened or self.refresh()
        catalog = opened.catalog
        rows = _rows(self._store.history(user), catalog)
        with self._one_at_a_time:  # what a model remembers of histories is changed by each
            scores = opened.model.score([rows.astype(np.int32)], at_once=1)[0]
        return [
            {"rank": rank, "item": catalog.ids[row], "text": catalog.texts[row], "score": float(scores[row])}
            for rank, row in enumerate(top_k(scores, rows, k=k), start=1)
        ]

    def refresh(self) -> tuple[str, _Opened]:
        """Compares what was received since, and opens what is used from now on; until it is open, the former answers.

        Raises:
            NothingReceived: If nothing was received yet.
            CheckpointError: If what was received is damaged.
        """
        digest = self.in_use()
        if self._opened is None or self._opened[0] != digest:
            self._opened = digest, _Opened.of(self.home.released / digest)
        return self._opened

    def in_use(self) -> str:
        """The digest of the run whose recommender is used; whatever was received since is compared first.

        Raises:
            NothingReceived: If nothing was received.
        """
        judged = _judged(self.home)
        for digest in _received(self.home):
            if digest not in judged["seen"]:
                self._judge(digest, judged)
        if judged["current"] is None:
            raise NothingReceived(
                "Expected a received recommender on this node, found none. It comes at the end of a run that this node was "
                "connected to."
            )
        return str(judged["current"])

    def roll_back(self) -> str:
        """Uses the recommender before the current one; returns its digest.

        Raises:
            ConfigError: If there is none.
        """
        self.in_use()
        judged = _judged(self.home)
        before = [digest for digest in judged["used"][:-1] if (self.home.released / digest).is_dir()]
        if not before:
            raise ConfigError("Expected an earlier recommender on this node, found none. There is nothing to go back to.")
        judged |= {"current": before[-1], "used": before}
        write_json(self.home.released / _JUDGED, judged)
        self._opened = None
        return str(before[-1])

    def _judge(self, digest: str, judged: dict[str, Any]) -> None:
        """Compares a new recommender with the one in use and notes which is used."""
        current = judged["current"]
        taken = True
        try:
            new = _Opened.of(self.home.released / digest)
            if current is not None and (self.home.released / current).is_dir():
                taken = not self._is_worse(new, _Opened.of(self.home.released / current))
        except TacitError:
            taken = False  # damaged; the one in use stays
        judged["seen"] = [*judged["seen"], digest]
        if taken:
            judged |= {"current": digest, "used": [*judged["used"], digest]}
            self._opened = None
        write_json(self.home.released / _JUDGED, judged)

    def _is_worse(self, new: _Opened, old: _Opened) -> bool:
        """Whether the users' held-out interactions are ranked lower by the new one, beyond chance. (stays on the node)"""
        new_rows, old_rows = self._all_rows(new.catalog), self._all_rows(old.catalog)
        users = sorted(set(new_rows) & set(old_rows))[:_MOST_COMPARED]
        users = [user for user in users if len(new_rows[user]) > 1 and len(old_rows[user]) > 1]
        if not users:
            return False
        found, before = new.qualities([new_rows[user] for user in users]), old.qualities([old_rows[user] for user in users])
        differences = [one - other for one, other in zip(found, before, strict=True)]
        mean = sum(differences) / len(differences)
        spread = math.sqrt(sum((one - mean) ** 2 for one in differences) / len(differences) ** 2)
        return mean < -_WORSE * spread

    def _all_rows(self, catalog: ItemCatalog) -> dict[str, NDArray[np.int64]]:
        """Each user's items of a catalog as its rows, in time order. (private)"""
        table = self._store.read().sort("timestamp", maintain_order=True)
        found: dict[str, list[str]] = {}
        for user, item in table.select("user", "item").iter_rows():
            found.setdefault(user, []).append(item)
        return {user: _rows(items, catalog) for user, items in found.items()}


@dataclass(frozen=True, eq=False)
class _Opened:
    """A received recommender, opened."""

    model: Recommender
    catalog: ItemCatalog

    @classmethod
    def of(cls, folder: Path) -> _Opened:
        """Opens it after every digest.

        Raises:
            CheckpointError: If a file is missing or damaged.
        """
        try:
            return cls(load_recommender(folder), load_catalog(folder))
        except DataError as error:
            raise ConfigError(str(error)) from None

    def qualities(self, users: Sequence[NDArray[np.int64]]) -> list[float]:
        """NDCG@10 of each user's last item, ranked against all that the user had not before. (private)"""
        at_once = max(1, min(_AT_ONCE, _SCORES // self.catalog.num_items))
        found = []
        for start in range(0, len(users), at_once):
            some = users[start : start + at_once]
            scores = self.model.score([rows[:-1].astype(np.int32) for rows in some])
            found += [_quality(own, rows[:-1], int(rows[-1])) for own, rows in zip(scores, some, strict=True)]
        return found


def _quality(scores: NDArray[np.float32], history: NDArray[np.int64], target: int) -> float:
    own = scores[target]
    scores[history] = -math.inf
    rank = 1 + int((scores > own).sum())
    return 1.0 / math.log2(1 + rank) if rank <= _K and target not in history else 0.0


def _rows(items: Sequence[str], catalog: ItemCatalog) -> NDArray[np.int64]:
    """The items that a catalog has, as its rows. (private)"""
    return np.array([row for item in items if (row := catalog.row_of.get(item)) is not None], dtype=np.int64)


def _received(home: NodeHome) -> list[str]:
    """Digests of all runs whose recommender is here, in the order of receipt."""
    found = []
    for path in home.released.glob("*/received.json"):
        try:
            at = json.loads(path.read_text(encoding="utf-8"))["received_at"]
        except (OSError, ValueError, KeyError):
            continue
        found.append((at, path.parent.name))
    return [digest for _, digest in sorted(found)]


def _judged(home: NodeHome) -> dict[str, Any]:
    """Which recommenders were looked at, which were used, and which is."""
    try:
        found = json.loads((home.released / _JUDGED).read_text(encoding="utf-8"))
        if set(found) == {"current", "used", "seen"}:
            return dict(found)
    except (OSError, ValueError):
        pass
    return {"current": None, "used": [], "seen": []}
