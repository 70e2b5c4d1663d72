"""What an operator may change of a run that has begun: how long an answer is waited for, and how many have to answer.

The run file that nodes approved stays as it is, and so does the plan. A change counts from the next start of the run's app
(`tacit server run --resume`), and stands in the run's events. What never lives here: how many a plan needs
(`shared/privacy/calibration.py`).
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from shared.errors import CheckpointError, ConfigError
from shared.files import write_json
from shared.privacy.plan import PrivacyPlan

_FILE: Final = "terms.json"
_LONGEST_SECONDS: Final = 7 * 86_400.0


@dataclass(frozen=True)
class Terms:
    """What was changed. (public)

    Attributes:
        deadline_seconds: Of each exchange; None: as the run file says.
        quorum: Nodes that have to answer a request; None: as the plan says.
    """

    deadline_seconds: float | None = None
    quorum: int | None = None

    @classmethod
    def of(cls, run_dir: Path) -> Terms:
        """Those of a run; nothing where none were changed.

        Raises:
            CheckpointError: If the file is damaged.
        """
        path = run_dir / _FILE
        if not path.exists():
            return cls()
        try:
            found = cls(**json.loads(path.read_text(encoding="utf-8")))
            if type(found.quorum) not in (int, type(None)) or type(found.deadline_seconds) not in (int, float, type(None)):
                raise ValueError
            return found
        except (ValueError, TypeError):
            raise CheckpointError(
                f"Expected {_FILE} as it was written, found a damaged one. Remove it, then repeat."
            ) from None

    @classmethod
    def in_force(cls, run_dir: Path, plan: PrivacyPlan) -> Terms:
        """Those of a run, if its plan allows them: the file in the run's folder may have been edited.

        Raises:
            CheckpointError: If the file is damaged.
            ConfigError: As `verify`.
        """
        found = cls.of(run_dir)
        found.verify(plan)
        return found

    def verify(self, plan: PrivacyPlan) -> None:
        """Passes what the run's plan allows.

        Raises:
            ConfigError: If a value is out of range, or the noise was calibrated for the number of answers.
        """
        seconds, quorum = self.deadline_seconds, self.quorum
        if seconds is not None and not 1.0 <= seconds <= _LONGEST_SECONDS:
            raise ConfigError(f"Expected --deadline from 1 to {_LONGEST_SECONDS:.0f} seconds, got --deadline={seconds:g}.")
        if quorum is None:
            return
        if plan.mechanism.shares_noise:
            raise ConfigError(
                f"Expected the quorum of the plan, {plan.minimum_survivors}, got --quorum={quorum}. Each client adds its "
                "share of the noise for that many answers; fewer would add too little. Propose a new run with another "
                "federation.minimum_clients."
            )
        if plan.clips_whole_updates and plan.is_private:
            raise ConfigError(
                f"Expected no quorum for a run whose noise the server adds, got --quorum={quorum}. Dropping small cohorts "
                "would tell who was in them. Leave it out."
            )
        if not 1 <= quorum <= plan.num_clients:
            raise ConfigError(f"Expected --quorum from 1 to the run's {plan.num_clients} nodes, got --quorum={quorum}.")

    def write(self, run_dir: Path) -> None:
        """Keeps what was changed before, where nothing else is said now."""
        before = asdict(Terms.of(run_dir))
        write_json(run_dir / _FILE, before | {name: value for name, value in asdict(self).items() if value is not None})


UNCHANGED: Final = Terms()
