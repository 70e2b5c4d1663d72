"""The protocol of an audit, fixed before a run begins: its digest is in the run's log before the first request.

What is fixed: how many canaries there are and of which kind, their coins by a salted commitment, the number of guesses, the
level of the gate, the code. An auditor who has seen a run can then no longer choose them by what came out. The coins lie in
the run's folder until the audit opens them; nothing of the run reads them.

What never lives here: what is attacked (`audit.py`), and whether a document followed its plan
(`shared/audit/verification.py`).
"""

from __future__ import annotations

import dataclasses
import json
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from server.event_log import EventLog
from server.observer import Observer
from server.statistics.statistic import Total
from shared.audit.gate import LEVEL
from shared.audit.judgment import claimed_against, planned, views_of
from shared.audit.verification import PLANNED, commitment_of, plan_digest, precedes_every_request
from shared.config import RunConfig
from shared.errors import CheckpointError
from shared.files import write_atomically
from shared.model.state import RecommenderState
from shared.privacy.releases import Purpose
from shared.privacy.statement import statement_of
from shared.run_folder import EVENTS
from shared.versions import code_digest
from simulations.audits.twin import Twin

PLAN: Final = "audit-plan.json"


@dataclass(frozen=True)
class AuditPlan:
    """What was fixed.

    Attributes:
        facts: What the digest is of. (public)
        coins: One a canary, 1 is in. (private until the audit is over)
        salt: Of the coins' commitment, hex. (private until the audit is over)
    """

    facts: dict[str, Any]
    coins: str
    salt: str

    @property
    def digest(self) -> str:
        """SHA-256, hex: what the run's log holds."""
        return plan_digest(self.facts)

    def with_coins(self, twin: Twin) -> Twin:
        """The twin with the canaries and coins that were fixed.

        Raises:
            CheckpointError: If the run's data, or Tacit's code, are others than they were.
        """
        found = _facts(twin, self.coins, self.salt, claims=self.facts)
        if found["code"] != self.facts.get("code"):
            raise CheckpointError(
                f"Expected the code that {PLAN} fixed before the run, got other code. Audit with the version of Tacit that "
                "made the run, or remove the file to audit without a plan: the audit then says so."
            )
        if found != self.facts:
            raise CheckpointError(
                f"Expected the canaries that {PLAN} fixed before the run, got others. The run's folder was changed since; "
                "restore it, or remove the file to audit without a plan."
            )
        included = np.array([coin == "1" for coin in self.coins])
        return dataclasses.replace(twin, canaries=dataclasses.replace(twin.canaries, included=included))


def plan_audit(run_dir: Path, config: RunConfig, *, canaries: int) -> AuditPlan:
    """Fixes the protocol of a run's audit; a run that is resumed keeps what was fixed.

    Args:
        run_dir: The run's folder, with its population.
        config: Of the run.
        canaries: How many to plant, fewer where there is no room.

    Raises:
        ConfigError: If this kind of run cannot be audited.
    """
    if (run_dir / PLAN).exists():
        return _read(run_dir)
    twin = Twin.of(run_dir, config, canaries=canaries)
    coins, salt = "".join("1" if coin else "0" for coin in twin.canaries.included), secrets.token_hex(16)
    made = AuditPlan(_facts(twin, coins, salt, claims=_claims(twin, config)), coins, salt)
    content = json.dumps(dataclasses.asdict(made)).encode()
    write_atomically(run_dir / PLAN, lambda stream: stream.write(content), mode=0o600)
    return made


def plan_before(run_dir: Path) -> AuditPlan | None:
    """The protocol that was fixed before a run began; None where there is none, or it came after the first request.

    Raises:
        CheckpointError: If the file is damaged.
    """
    if not (run_dir / PLAN).exists():
        return None
    found = _read(run_dir)
    return found if precedes_every_request(EventLog(run_dir / EVENTS).read(), found.digest) else None


@dataclass(frozen=True)
class Announced:
    """An observer of a run whose audit was planned: the run's log begins with the plan's digest.

    Attributes:
        observer: Who looks at states and sums.
        digest: Of the plan.
    """

    observer: Observer
    digest: str

    def begins(self, log: EventLog) -> None:
        """Writes the digest down, once."""
        if not any(event["event"] == PLANNED and event["audit"] == self.digest for event in log.read()):
            log.append(PLANNED, audit=self.digest)

    def summed(self, purpose: Purpose, round_number: int, total: Total) -> None:
        """As the observer."""
        self.observer.summed(purpose, round_number, total)

    def round_finished(self, state: RecommenderState, round_number: int) -> None:
        """As the observer."""
        self.observer.round_finished(state, round_number)

    def released(self, state: RecommenderState, round_number: int) -> None:
        """As the observer."""
        self.observer.released(state, round_number)


def _claims(twin: Twin, config: RunConfig) -> dict[str, Any]:
    """What will be claimed if no round has to be repeated, and how many guesses follow."""
    statement = statement_of(twin.plan, twin.plan.events(), config=config)
    views, canaries = views_of(statement), len(twin.canaries)
    return {
        "claimed": {view: claimed_against(statement, adversaries) for view, adversaries in views.items()},
        "guesses": {view: dict(planned(statement, adversaries, canaries=canaries)) for view, adversaries in views.items()},
    }


def _facts(twin: Twin, coins: str, salt: str, *, claims: dict[str, Any]) -> dict[str, Any]:
    return {
        "canaries": len(twin.canaries),
        "long_histories": int(twin.canaries.long.sum()),
        "displaced": twin.canaries.displace,
        "coins": commitment_of(coins, salt),
        "level": LEVEL,
        "claimed": claims["claimed"],
        "guesses": claims["guesses"],
        "code": code_digest(),
    }


def _read(run_dir: Path) -> AuditPlan:
    try:
        return AuditPlan(**json.loads((run_dir / PLAN).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        raise CheckpointError(f"Expected the plan of an audit in {PLAN}, found a damaged file. Restore it.") from None
