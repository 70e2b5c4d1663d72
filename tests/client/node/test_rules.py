"""The owner's rules: each refuses what it is for, and what else is asked passes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from client.home import NodeHome
from client.node.rules import Day, Refused, against_policy, installed_code, on_power, verify_now, verify_run
from client.node.settings import Policy
from shared.errors import PolicyRefused
from tests.run_files import DEVICES, NOW, SILOS, run_file

DAY = 24 * 60 * 60


def _policy(**rules: Any) -> Policy:
    return Policy.model_validate(rules)


@pytest.mark.parametrize(
    ("rules", "kept", "broken"),
    [
        ({"purposes": ["films", "books"]}, SILOS, None),
        ({"secure_aggregation": True}, DEVICES, SILOS),
        (
            {"noise_on_this_node": True},
            SILOS,
            {**DEVICES, "privacy.mechanism": "central", "secure_aggregation.simulate": "sum"},
        ),
        ({"code": [installed_code()]}, SILOS, None),
    ],
)
def test_each_rule_refuses_what_it_is_for(
    rules: dict[str, Any], kept: dict[str, Any], broken: dict[str, Any] | None
) -> None:
    assert against_policy(run_file(kept), _policy(**rules)) is None
    if broken is not None:
        reason = against_policy(run_file(broken), _policy(**rules))
        assert reason is not None
        assert reason.startswith("Expected ")


def test_another_purpose_and_other_code_are_refused() -> None:
    assert against_policy(run_file(purpose="Train an advertising model"), _policy(purposes=["films"])) is not None
    assert against_policy(run_file(), _policy(code=["0" * 64])) is not None


def test_a_run_that_promises_nothing_is_approved_by_hand_alone(tmp_path: Path) -> None:
    home, policy = NodeHome(tmp_path), _policy(approve="within-policy")
    verify_run(home, run_file(), policy, now=NOW)
    nothing = run_file({**SILOS, "privacy.epsilon": float("inf")})
    with pytest.raises(Refused, match="the owner of this node approved"):
        verify_run(home, nothing, policy, now=NOW)
    nothing.document.write(home.approved / f"{nothing.digest}.json")
    verify_run(home, nothing, policy, now=NOW)


def test_proposals_are_kept_and_too_many_push_the_oldest_out(tmp_path: Path) -> None:
    home = NodeHome(tmp_path)
    for number in range(103):
        with pytest.raises(Refused, match="approved"):
            verify_run(home, run_file(name=f"run-{number}"), Policy(), now=NOW)
        newest = max(home.proposals.glob("*.json"), key=lambda path: path.stat().st_mtime_ns)
        os.utime(newest, (10**9 + number, 10**9 + number))
    names = {path.stem for path in home.proposals.glob("*.json")}
    assert len(names) == 100
    assert run_file(name="run-102").digest in names
    assert run_file(name="run-0").digest not in names


def test_hours_amounts_and_bytes_of_a_day() -> None:
    day = Day()
    limited = _policy(releases_per_day=2, bytes_per_day=1000)
    verify_now(limited, day, now=NOW, size=1000)
    day.add(NOW, 600)
    verify_now(limited, day, now=NOW, size=400)
    with pytest.raises(Refused, match="bytes a day"):
        verify_now(limited, day, now=NOW, size=401)
    day.add(NOW + 1, 10)
    with pytest.raises(Refused, match="contributions a day") as caught:
        verify_now(limited, day, now=NOW + DAY - 1, size=1)
    assert caught.value.why == "not-now"
    assert isinstance(caught.value, PolicyRefused)
    verify_now(limited, day, now=NOW + DAY, size=900)
    midnight = NOW // DAY * DAY
    with pytest.raises(Refused, match="owner's hours"):
        verify_now(_policy(windows=["22:00-23:00"]), Day(), now=midnight, size=1)
    verify_now(_policy(windows=["22:00-23:00"]), Day(), now=midnight + 22 * 3600, size=1)


def test_a_busy_machine_refuses_where_the_owner_says_so() -> None:
    load = os.getloadavg()[0] / (os.cpu_count() or 1)
    verify_now(_policy(idle=load + 1000), Day(), now=NOW, size=1)
    if load > 0:
        with pytest.raises(Refused, match="to be idle"):
            verify_now(_policy(idle=load / 1000), Day(), now=NOW, size=1)


@pytest.mark.parametrize(
    ("supplies", "expected"),
    [
        ({}, True),
        ({"BAT0": ("Battery", None)}, False),
        ({"BAT0": ("Battery", None), "AC": ("Mains", "1")}, True),
        ({"BAT0": ("Battery", None), "AC": ("Mains", "0")}, False),
        ({"AC": ("Mains", "0")}, True),
    ],
)
def test_external_power_is_what_the_kernel_says(
    tmp_path: Path, supplies: dict[str, tuple[str, str | None]], expected: bool
) -> None:
    for name, (kind, online) in supplies.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "type").write_text(kind + "\n")
        if online is not None:
            (tmp_path / name / "online").write_text(online + "\n")
    assert on_power(tmp_path) is expected
