"""What `tacit privacy plan --json` prints, as types: the statement of privacy of a run that has not started, and its price.

Never here: how a value is found (`privacy_plan.py`), and how it looks (`plan_display.py`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from server.reporting.records import Record
from shared.privacy.statement import Facts, Share, Statement


class PlannedData(Facts):
    """The data that a plan is for; every number is a public constant."""

    name: str
    users: int
    clients: int


class PlannedNoise(Facts):
    """Where noise is added in training, and how much."""

    where: str
    noise_multiplier: float
    in_the_mean: float | None = Field(description="Of one coordinate of a round's mean, over the clip norm.")
    share_multiplier: float | None = Field(description="Of one client's share of the noise, where it comes in shares.")


class Knob(Facts):
    """One setting changed by itself, and the noise of the plan that results."""

    knob: str
    noise_multiplier: float | None = Field(description="Null where no plan results.")
    noise_in_the_mean: float | None = Field(description="Over that of the plan as it is.")
    why_not: str | None


class PlanRecord(Record, Statement):
    """A plan: the statement of privacy of the run, its noise, and what other settings would cost."""

    schema_: Literal["tacit-plan-2"] = Field("tacit-plan-2", alias="schema")
    data: PlannedData
    noise: PlannedNoise
    division: tuple[Share, ...]
    knobs: tuple[Knob, ...]


class RefusedPlan(Record):
    """A configuration whose epsilon is out of reach: the reason, and what to change."""

    schema_: Literal["tacit-plan-2"] = Field("tacit-plan-2", alias="schema")
    data: PlannedData
    refused: str
    error: str
    exit_status: int
    delta: float
    knobs: tuple[Knob, ...]


def parse_plan(explained: Mapping[str, Any]) -> PlanRecord | RefusedPlan:
    """The plan of a JSON object that `privacy_plan.explain` made."""
    kind: type[PlanRecord | RefusedPlan] = RefusedPlan if "refused" in explained else PlanRecord
    return kind.model_validate_json(json.dumps(explained))
