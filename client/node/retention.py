"""Deletes interactions whose time has come while the node runs: once a day, in a process of its own that ends afterwards.

The node's worker holds no interactions and none of the libraries that read them, and waits for nobody here.
"""

from __future__ import annotations

import logging
import math
import multiprocessing
from multiprocessing.context import SpawnProcess

from client.home import NodeHome
from client.node.settings import Settings
from shared.errors import TacitError

_DAY = 24 * 60 * 60


class Retention:
    """What `[data] retention_days` of `node.toml` asks for.

    Args:
        home: Of the node.
        settings: Of the owner.
    """

    def __init__(self, home: NodeHome, settings: Settings) -> None:
        self._home, self._limited = home, bool(settings.data.get("retention_days"))
        self._last = -math.inf
        self._process: SpawnProcess | None = None

    def look(self, now: float) -> None:
        """Starts deleting, if a day has passed since it did; seconds since 1970."""
        if not self._limited or now < self._last + _DAY:
            return
        self._last = now
        self.wait()
        self._process = multiprocessing.get_context("spawn").Process(
            target=delete_expired, args=(self._home, now), daemon=True
        )
        self._process.start()

    def wait(self) -> None:
        """Waits until it is done."""
        if self._process is not None:
            self._process.join()


def delete_expired(home: NodeHome, now: float) -> None:
    """Deletes a node's interactions that are older than its owner keeps them, at a time in seconds since 1970."""
    from client.store.settings import open_store

    try:
        if home.interactions.exists():
            open_store(home, clock=lambda: now).prune()
    except TacitError as error:
        logging.getLogger("tacit.node").warning("Interactions could not be deleted: %s", error)
