"""The policy that is in force: what the owner's file says now, without a restart of the node.

A changed `[budget]` becomes limits of the ledger before the next message is answered. What never lives here: what a rule
means (`settings.py`), and whether a message is answered (`rules.py`).
"""

from __future__ import annotations

import contextlib
from dataclasses import replace

from client.home import NodeHome
from client.ledger.ledger import Ledger
from client.node.settings import Policy, read_policy


class PolicyInForce:
    """The policy of a node, read again when its file has changed.

    Args:
        home: Of the node.
    """

    def __init__(self, home: NodeHome) -> None:
        self._home = home
        self._read: tuple[tuple[int, ...], Policy] | None = None

    def __call__(self) -> Policy:
        """The policy.

        Raises:
            ConfigError: If the file is damaged, or a value is out of range.
            PrivacyError: If the ledger, whose limits changed, cannot be used.
        """
        stamp = self._stamp()
        if self._read is None or self._read[0] != stamp:
            policy = read_policy(self._home)
            _apply_budget(self._home, policy)
            self._read = stamp, policy
        return self._read[1]

    def _stamp(self) -> tuple[int, ...]:
        """What tells whether the file has changed."""
        try:
            found = self._home.policy.stat()
        except FileNotFoundError:
            return ()
        return found.st_mtime_ns, found.st_size, found.st_ino


def _apply_budget(home: NodeHome, policy: Policy) -> None:
    """Makes the policy's `[budget]` the limits of everyone in the ledger; without one the ledger keeps its limits."""
    limits = policy.budget.limits()
    if limits:
        with contextlib.closing(Ledger(home.ledger)) as ledger:
            ledger.change_policy(lambda before: replace(before, **limits))
