"""What a server proposes, in plain words, and the owner's approval of it.

Every number about privacy is computed here, from the run's settings, by the node's own code. What never lives here: whether
a request is answered (`rules.py`).
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from client.home import NodeHome
from client.node.cost import Spent
from client.node.rules import against_policy, approved_by_rule, installed_code
from client.node.settings import read_policy
from client.provisioning import installed_kit
from shared import wording
from shared.errors import ConfigError, TacitError
from shared.files import write_atomically
from shared.privacy.statement import statement_of
from shared.run_file import RunFile

_SHORTEST = 6
_NO_LIMIT = (
    "Your ledger has no limit on epsilon: nothing stops a server that asks again, or that makes another run of this file. "
    "`tacit node budget set-limit --epsilon` sets one."
)


def listed(home: NodeHome) -> list[dict[str, str]]:
    """Every proposed and approved run, the newest first."""
    found: dict[str, dict[str, str]] = {}
    policy = read_policy(home)
    paths = [*home.proposals.glob("*.json"), *home.approved.glob("*.json")]
    for path in sorted(paths, key=lambda one: -one.stat().st_mtime):
        try:
            run = _read(home, path)
        except TacitError:
            continue
        state = "approved" if (home.approved / f"{run.digest}.json").exists() else "proposed"
        if state == "proposed" and approved_by_rule(run, policy) and against_policy(run, policy) is None:
            state = "within policy"
        found.setdefault(run.digest, {"run": run.digest, "name": run.name, "purpose": run.purpose, "state": state})
    return list(found.values())


def found_run(home: NodeHome, name: str) -> RunFile:
    """A run by its file, or by the beginning of its digest.

    Raises:
        ConfigError: If there is none or more than one, or it is not signed by this node's server.
    """
    path = Path(name)
    if path.is_file():
        return _read(home, path)
    folders = () if len(name) < _SHORTEST else (home.approved, home.proposals)
    matching = {found.name: found for folder in folders for found in folder.glob(f"{name}*.json")}
    if len(matching) != 1:
        raise ConfigError(
            f"Expected a run file, or the beginning of one proposed run's digest, found {len(matching)} that fit. `tacit "
            "node approve` lists what was proposed."
        )
    (found,) = matching.values()
    return _read(home, found)


def approve(home: NodeHome, run: RunFile) -> None:
    """Approves a run: from now on the node answers it, within the policy.

    Raises:
        ConfigError: If it does not keep the policy, or its time has passed.
    """
    reason = against_policy(run, read_policy(home))
    if reason is not None:
        raise ConfigError(reason)
    if time.time() > run.valid_until:
        raise ConfigError(
            "Expected a run that is still open, got one whose time has passed. Ask the operator for a new one."
        )
    content = run.document.to_bytes()
    write_atomically(home.approved / f"{run.digest}.json", lambda stream: stream.write(content), mode=0o600)


def explained(home: NodeHome, run: RunFile) -> dict[str, Any]:
    """A run in plain words, and as values."""
    plan = run.plan
    statement = statement_of(plan, plan.events(), config=run.config, message_bytes={})
    claims = [{"against": claim.adversary, "epsilon": claim.epsilon, "promise": claim.promise} for claim in statement.claims]
    promises = [f"  Against {claim.who}: {claim.promise}" for claim in statement.claims]
    sent = [f"  {one.what}: {one.when}, {one.how}" for one in statement.sent]
    largest = sum(run.message_bytes.values())
    spent = Spent(home.ledger)
    after = spent.with_run(plan)
    # The policy's limit becomes the ledger's with the node's next message.
    limit = read_policy(home).budget.epsilon or spent.limit
    text = [
        f"Run {run.name} ({run.digest[:16]})",
        f"Purpose: {run.purpose}",
        f"Declared: {run.size.users} users on {run.size.clients} nodes, {run.num_items} items",
        f"One unit of privacy is one {plan.unit}. Rounds of training: {plan.rounds}.",
        "What is promised to each of your users:",
        *([f"  Nothing: {statement.why_not}."] if statement.why_not else promises),
        "What leaves this node:",
        *sent,
        f"  about {largest:,} bytes in all, each message at most {max(run.message_bytes.values(), default=0):,}",
        *([f"It continues run {run.continues[:16]}: of a history it counts what has come since."] if run.continues else []),
        *([f"Epsilon in your ledger: {_or_none(spent.epsilon)} now, {wording.at_most(after)} after it."] if after else []),
        *([_NO_LIMIT] if limit is None else []),
        f"Open until {time.strftime('%Y-%m-%d', time.gmtime(run.valid_until))}. Code that answers: {installed_code()[:16]}.",
    ]
    reason = against_policy(run, read_policy(home))
    if reason:
        text.append(f"It does not keep your policy: {reason}")
    return {
        "run": run.digest,
        "name": run.name,
        "purpose": run.purpose,
        "unit": plan.unit,
        "rounds": plan.rounds,
        "claims": claims,
        "message_bytes": dict(run.message_bytes),
        "continues": run.continues,
        "epsilon_spent": spent.epsilon,
        "epsilon_after": after,
        "epsilon_limit": limit,
        "against_policy": reason,
        "text": text,
    }


def _or_none(epsilon: float | None) -> str:
    return "none" if epsilon is None else wording.at_most(epsilon)


def _read(home: NodeHome, path: Path) -> RunFile:
    server = bytes.fromhex(installed_kit(home).server_key)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"Expected a run file in {path.name}, could not read it ({error.strerror}). Name another."
        ) from None
    return RunFile.read(content, server=server, where=path.name)
