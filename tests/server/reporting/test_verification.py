"""A release report's epsilons follow from its own events, or it is refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from server.reporting.records import parse_release
from server.reporting.verification import verify_release
from shared.errors import PrivacyError, TacitError

REPORTS_FILE = Path(__file__).with_name("release.json")


@pytest.fixture
def reports() -> dict[str, dict[str, Any]]:
    return json.loads(REPORTS_FILE.read_text(encoding="utf-8"))


@pytest.mark.parametrize("kind", ["central", "silo", "distributed", "not_private"])
def test_a_report_as_it_was_written_is_accepted(reports: dict[str, Any], kind: str) -> None:
    verify_release(parse_release(reports[kind]))


def _smaller(report: dict[str, Any], *path: Any) -> None:
    here = report
    for step in path[:-1]:
        here = here[step]
    here[path[-1]] = here[path[-1]] * 0.9


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (("claims", 0, "epsilon"), "against outsider with every released adapter where the events give 8.00"),
        (("claims", 3, "epsilon"), "against clients colluding with one another where the events give 77.18"),
        (("delta_curve", 0, "epsilon"), "at delta=1e-3 where the events give"),
        (("group", "epsilon"), "of 2 accounts where the events give 18.30"),
        (("events", 0, "noise_multiplier"), "follow from the events in release.json"),
    ],
)
def test_an_epsilon_that_does_not_follow_from_the_events_refuses_the_report(
    reports: dict[str, Any], path: tuple[Any, ...], message: str
) -> None:
    _smaller(reports["central"], *path)
    with pytest.raises(PrivacyError) as caught:
        verify_release(parse_release(reports["central"]))
    assert message in str(caught.value)
    assert caught.value.exit_status == 1


def test_a_smaller_epsilon_everywhere_is_refused_too(reports: dict[str, Any]) -> None:
    report = reports["silo"]
    for holder in (report, report["spending"]):
        for key in ("epsilon", "epsilon_of_this_run", "together"):
            if key in holder:
                holder[key] = 1.0
    for claim in report["claims"][:4]:
        claim["epsilon"] = 1.0
    with pytest.raises(PrivacyError, match=r"got epsilon=1\.00 against outsider .* where the events give 8\.00"):
        verify_release(parse_release(report))


def test_an_epsilon_over_rounds_above_that_of_the_run_is_refused(reports: dict[str, Any]) -> None:
    report = reports["central"]
    report["epsilon_over_rounds"][-1]["epsilon"] = 9.0
    with pytest.raises(PrivacyError, match=r"Expected epsilon over rounds of at most that of the run"):
        verify_release(parse_release(report))


@pytest.mark.parametrize("part", ["minimum_survivors", "colluding_clients"])
def test_shares_that_no_plan_has_are_an_error_of_one_line(reports: dict[str, Any], part: str) -> None:
    report = reports["distributed"]
    report["mechanism"][part] = 0 if part == "minimum_survivors" else 10_000
    with pytest.raises(TacitError, match=r"as many colluding clients as survivors"):
        verify_release(parse_release(report))
