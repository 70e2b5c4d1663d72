"""One run of a frontier: its epsilon, its seed, and the configuration that these make of the common one."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from shared.config import RunConfig


@dataclass(frozen=True)
class FrontierRun:
    """One run of a frontier.

    Attributes:
        epsilon: Its bound; infinity without privacy.
        seed: Of data, skew and initialization; noise is secret unless the run is reproducible.
        free: Whether it is the free baseline.
        with_limit: Whether item-kNN is measured on its data too.
    """

    epsilon: float
    seed: int
    free: bool
    with_limit: bool = False

    @property
    def name(self) -> str:
        """What its folder is called."""
        return f"epsilon-{_number(self.epsilon)}-seed-{self.seed}" + ("-free" if self.free else "")

    @property
    def label(self) -> str:
        """What it is called in a line of progress."""
        return f"epsilon {_number(self.epsilon)}, seed {self.seed}" + (", free baseline" if self.free else "")

    def config(self, base: RunConfig) -> RunConfig:
        """The configuration of the run."""
        values: dict[str, Any] = {
            "privacy.epsilon": self.epsilon,
            "run.seed": self.seed,
            "run.resume": False,
            "evaluation.baselines": "item_knn" if self.with_limit else "none",
        }
        if self.free or math.isinf(self.epsilon):
            values["evaluation.released_round"] = "last"
        if self.free:
            values |= {"statistics.releases": "blending", "federation.rounds": 0}
        return base.with_values(values)


def _number(epsilon: float) -> str:
    """All digits, so that two epsilons never share a folder."""
    return repr(float(epsilon)).removesuffix(".0")
