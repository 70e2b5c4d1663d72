"""`node.toml` and `policy.toml`: what an owner may write, and how a slip is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from client.home import NodeHome
from client.node.settings import Policy, read_policy, read_settings
from shared.errors import ConfigError

GOOD = 'name = "shop-1"\nserver = "fl.example.org:8443"\n'
HOUR = 3600


def _home(folder: Path, *, settings: str = GOOD, policy: str = "") -> NodeHome:
    home = NodeHome(folder)
    home.settings.write_text(settings)
    if policy:
        home.policy.write_text(policy)
    return home


def test_without_a_policy_every_run_is_approved_by_hand(tmp_path: Path) -> None:
    home = _home(tmp_path)
    assert read_settings(home).server == "fl.example.org:8443"
    assert read_policy(home) == Policy()
    assert read_policy(home).approve == "by-hand"


def test_a_budget_becomes_limits_of_the_ledger(tmp_path: Path) -> None:
    policy = read_policy(_home(tmp_path, policy='[budget]\nepsilon = 8\nmechanism = ["dp-sgd"]\nmax_rounds = 10\n'))
    assert policy.budget.limits() == {"epsilon": 8.0, "mechanisms": ("dp-sgd",), "rounds_at_most": 10}


@pytest.mark.parametrize(
    ("settings", "policy", "says"),
    [
        ('name = "shop-1"\n', "", "Expected server in node.toml to be there"),
        (GOOD + "poll_seconds = 0\n", "", "Expected poll_seconds in node.toml to be >= 0.05"),
        (GOOD + 'nmae = "x"\n', "", "Expected nmae in node.toml to be a known key"),
        (GOOD + 'server = "twice:1"\n', "", "syntax error"),
        (GOOD, 'approve = "always"\n', "Expected approve in policy.toml to be 'by-hand' or 'within-policy'"),
        (GOOD, 'windows = ["22-06"]\n', "Expected windows in policy.toml to be HH:MM-HH:MM"),
        (GOOD, "[budget]\nepsilon = -1\n", "Expected budget.epsilon in policy.toml to be > 0"),
        (GOOD, "bytes_per_day = -1\n", "Expected bytes_per_day in policy.toml to be >= 0"),
    ],
)
def test_a_slip_is_told_in_one_line(tmp_path: Path, settings: str, policy: str, says: str) -> None:
    home = _home(tmp_path, settings=settings, policy=policy)
    with pytest.raises(ConfigError) as caught:
        read_settings(home)
        read_policy(home)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("windows", "open_hours"),
    [
        ((), range(24)),
        (("09:00-17:00",), range(9, 17)),
        (("22:00-06:00",), [*range(22, 24), *range(6)]),
        (("01:00-02:00", "23:00-00:00"), [1, 23]),
        (("05:00-05:00",), []),
    ],
)
def test_windows_are_hours_of_the_day(windows: tuple[str, ...], open_hours: list[int]) -> None:
    policy = Policy(windows=windows)
    day = 1_800_000_000 // (24 * HOUR) * 24 * HOUR
    for extra in (0, 365 * 24 * HOUR):
        assert [hour for hour in range(24) if policy.open_at(day + extra + hour * HOUR)] == sorted(open_hours)
