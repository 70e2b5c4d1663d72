"""The plan of an audit: fixed once, kept over a resumption, followed by the twin, and void after the first request."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from server.event_log import EventLog
from server.observer import Unobserved
from shared.errors import CheckpointError
from shared.run_folder import load_config
from simulations.audits.planning import PLAN, Announced, AuditPlan, plan_audit, plan_before
from simulations.audits.twin import Twin
from tests.running import FinishedRun


@pytest.fixture(scope="module")
def planned(finished_run: FinishedRun, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, AuditPlan]:
    folder = tmp_path_factory.mktemp("planned") / "run"
    shutil.copytree(finished_run.folder, folder)
    return folder, plan_audit(folder, load_config(folder), canaries=20)


def test_what_was_fixed_stays_so_when_a_run_is_resumed_and_the_twin_gets_these_coins(
    planned: tuple[Path, AuditPlan],
) -> None:
    folder, plan = planned
    config = load_config(folder)
    assert plan_audit(folder, config, canaries=10) == plan
    twin = plan.with_coins(Twin.of(folder, config, canaries=20))
    assert "".join("01"[int(coin)] for coin in twin.canaries.included) == plan.coins
    assert plan.coins not in json.dumps(plan.facts)


def test_a_plan_counts_only_where_the_log_holds_it_before_the_first_request(
    planned: tuple[Path, AuditPlan], tmp_path: Path
) -> None:
    folder, plan = planned
    assert plan_before(folder) is None  # the run was over
    before = tmp_path / "run"
    before.mkdir()
    shutil.copy(folder / PLAN, before / PLAN)
    log = EventLog(before / "events.jsonl")
    for _ in range(2):  # interrupted, and begun again
        Announced(Unobserved(), plan.digest).begins(log)
    log.append("asked", purpose="popularity")
    assert [event["event"] for event in log.read()] == ["audit_planned", "asked"]
    assert plan_before(before) == plan
    (before / PLAN).unlink()
    assert plan_before(before) is None


def test_a_plan_for_other_data_or_code_and_a_damaged_one_are_refused(
    planned: tuple[Path, AuditPlan], tmp_path: Path
) -> None:
    folder, plan = planned
    twin = Twin.of(folder, load_config(folder), canaries=20)
    other = AuditPlan({**plan.facts, "canaries": 19}, plan.coins, plan.salt)
    with pytest.raises(CheckpointError, match="Expected the canaries that"):
        other.with_coins(twin)
    with pytest.raises(CheckpointError, match=r"Expected the code that .* got other code"):
        AuditPlan({**plan.facts, "code": "00" * 32}, plan.coins, plan.salt).with_coins(twin)
    (tmp_path / PLAN).write_text("{")
    with pytest.raises(CheckpointError, match="found a damaged file"):
        plan_before(tmp_path)
