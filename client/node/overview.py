"""What a node's owner sees: whether it runs, what it took part in, what is left of the budget, what it received last."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Mapping
from typing import Any

from client.home import NodeHome
from client.node.approval import found_run, listed
from client.node.cost import Spent
from client.node.decisions import Decisions
from client.node.rules import installed_code
from client.node.settings import read_policy, read_settings
from client.provisioning import warnings
from shared import running, wording
from shared.errors import TacitError

_DAY = 24 * 60 * 60


def overview(home: NodeHome, *, now: int) -> dict[str, Any]:
    """The state of a node.

    Args:
        home: Of the node.
        now: Seconds since 1970.

    Raises:
        ConfigError: If the node is not provisioned, or a setting is wrong.
        CheckpointError: If the log of decisions was changed.
    """
    settings, policy = read_settings(home), read_policy(home)
    log = Decisions(home.decisions)
    decisions, contributions = log.read(), log.contributions()
    sent = [one for one in decisions if one["decision"] == "sent"]
    spent = Spent(home.ledger)
    left = None if spent.limit is None else wording.at_least(max(0.0, spent.limit - (spent.epsilon or 0.0)))
    return {
        "name": settings.name,
        "running": running.process(home.running) is not None,
        "warnings": warnings(home, now=now),
        "sent": len(sent),
        "refused": len(decisions) - len(sent),
        "last_refusal": next((_refused(one) for one in reversed(decisions) if one["decision"] == "refused"), None),
        "bytes_today": sum(one["bytes"] for one in sent if one["time"] > now - _DAY),
        "runs": [_with_cost(home, run, contributions.get(run["run"], 0), spent, now) for run in listed(home)],
        "epsilon_spent": None if spent.epsilon is None else wording.at_most(spent.epsilon),
        "epsilon_left": left,
        "received": _received(home),
        "windows": list(policy.windows),
        "open_now": policy.open_at(now),
        "code": installed_code(),
        "log_head": log.head,
    }


def _refused(decision: Mapping[str, Any]) -> str:
    return f"{_moment(decision['time'])}: {decision['reason']}"


def _with_cost(home: NodeHome, row: dict[str, str], contributions: int, spent: Spent, now: int) -> dict[str, Any]:
    """A row of `listed`, and of a run that may still come what epsilon would be after it."""
    after = None
    if not contributions:
        with contextlib.suppress(TacitError):
            run = found_run(home, row["run"])
            after = spent.with_run(run.plan) if run.valid_until >= now else None
    return {**row, "contributions": contributions, "epsilon_after": None if after is None else wording.at_most(after)}


def _received(home: NodeHome) -> dict[str, str] | None:
    found = []
    for path in home.released.glob("*/received.json"):
        with contextlib.suppress(OSError, ValueError):
            found.append(json.loads(path.read_text(encoding="utf-8")))
    if not found:
        return None
    last = max(found, key=lambda one: one["received_at"])
    return {"name": last["name"], "run": last["run"], "at": _moment(last["received_at"])}


def _moment(at: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(at))
