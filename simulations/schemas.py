"""`tacit schema`: the published JSON schemas of what Tacit writes for other programs. They follow from the types."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import TypeAdapter

from server.reporting.records import ReleaseRecord, RunRecord
from simulations.plan_record import PlanRecord, RefusedPlan

File = Literal["run", "release", "plan"]


def json_schema(file: File) -> dict[str, Any]:
    """The JSON schema (draft 2020-12) of one file.

    Args:
        file: `run` for `run.json`, `release` for `release.json`, `plan` for `tacit privacy plan --json`.
    """
    kinds: dict[File, TypeAdapter[Any]] = {
        "run": TypeAdapter(RunRecord),
        "release": TypeAdapter(ReleaseRecord),
        "plan": TypeAdapter(PlanRecord | RefusedPlan),
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **kinds[file].json_schema(mode="serialization", by_alias=True),
    }
