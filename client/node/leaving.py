"""Leaving a federation: nothing is answered any more, and a signed statement says what was contributed.

What was contributed cannot be taken back: it is in the sums, and the ledger keeps what was spent. What never lives here:
revocation by the operator (`server/provisioning/members.py`), who learns of it by the statement.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import time
from typing import Any

from client.home import NodeHome
from client.ledger.ledger import Ledger
from client.node.approval import listed
from client.node.decisions import Decisions
from client.node.settings import read_settings
from client.provisioning import installed_kit
from shared import running
from shared.folder_claim import is_claimed
from shared.provisioning.leaving import KIND
from shared.secagg.identities import read_credentials
from shared.signing import sign

_WAIT_SECONDS = 20.0
_GONE = "its run file is gone"


def leave(home: NodeHome, *, wipe: bool, now: int) -> dict[str, Any]:
    """Ends the node's part in its federation.

    Args:
        home: Of the node.
        wipe: Delete interactions and received recommenders too; ledger, log and keys stay, for whoever asks later.
        now: Seconds since 1970.

    Raises:
        ConfigError: If the node is not provisioned, or has left; its statement stays as it is.
    """
    settings = read_settings(home)
    installed_kit(home)  # without it no run can be read: a statement would say that nothing was contributed
    key = read_credentials(home.identity, home.roster).signing_key
    _end(home)
    decisions = Decisions(home.decisions)
    contributions = decisions.contributions()
    # A run file is deleted after a hundred newer ones, and unreadable without its kit; contributions to it stay listed.
    runs = {run["run"]: run for run in listed(home)}
    for digest in contributions:
        runs.setdefault(digest, {"run": digest, "name": "", "purpose": "", "state": _GONE})
    body = {
        "node": settings.name,
        "left_at": now,
        "runs": [{**run, "contributions": contributions.get(digest, 0)} for digest, run in runs.items()],
        "epsilon": _spent(home),
        "log_head": decisions.head,
    }
    document = sign(KIND, body, key)
    document.write(home.statement)
    # Without a kit and approvals the node answers nothing, whatever starts it.
    shutil.rmtree(home.approved, ignore_errors=True)
    home.kit.unlink(missing_ok=True)
    wiped = []
    if wipe:
        for name in (home.interactions, *(home.path / f"{home.interactions.name}{end}" for end in ("-wal", "-shm"))):
            if name.exists():
                name.unlink()
                wiped.append(name.name)
        for folder in (home.released, home.catalogs, home.proposals):
            if folder.exists():
                shutil.rmtree(folder)
                wiped.append(folder.name)
    return {"statement": str(home.statement), "digest": document.digest, **body, "wiped": wiped}


def _spent(home: NodeHome) -> float | None:
    """What the account that spent most has spent against somebody who knows who took part; None where nothing was."""
    if not home.ledger.exists():
        return None
    with contextlib.closing(Ledger(home.ledger)) as ledger:
        found = [ledger.epsilons(account.spent)["known_participation"] for account in ledger.accounts()]
    return max((one for one in found if one is not None), default=None)


def _end(home: NodeHome) -> None:
    """Tells the running node to end, and waits for it."""
    pid = running.process(home.running)
    if pid is None:
        return
    os.kill(pid, signal.SIGTERM)
    end = time.monotonic() + _WAIT_SECONDS
    while is_claimed(home.running) and time.monotonic() < end:
        time.sleep(0.1)
