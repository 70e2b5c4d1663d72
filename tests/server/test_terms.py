"""What an operator may change of a run that has begun: the deadline always, the quorum where no noise depends on it."""

from __future__ import annotations

from pathlib import Path

import pytest

from server.terms import UNCHANGED, Terms
from shared.errors import CheckpointError, ConfigError
from shared.privacy.mechanism import Mechanism
from shared.privacy.plan import PrivacyPlan
from tests import plans


def test_a_change_is_kept_until_it_is_changed_again(tmp_path: Path) -> None:
    assert Terms.of(tmp_path) == UNCHANGED
    Terms(deadline_seconds=30).write(tmp_path)
    Terms(quorum=2).write(tmp_path)
    assert Terms.of(tmp_path) == Terms(30, 2)
    (tmp_path / "terms.json").write_text('{"quorum": 2, "noise": 0}')
    with pytest.raises(CheckpointError, match=r"Expected terms\.json as it was written"):
        Terms.of(tmp_path)


@pytest.mark.parametrize("content", ['{"quorum": "2"}', '{"quorum": true}', '{"deadline_seconds": "9"}', "[]", "2", "{"])
def test_what_is_of_another_type_is_damage(content: str, tmp_path: Path) -> None:
    (tmp_path / "terms.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"Expected terms\.json as it was written"):
        Terms.of(tmp_path)


@pytest.mark.parametrize("terms", [Terms(), Terms(1.0), Terms(86_400.0, 1), Terms(quorum=4)])
def test_silos_may_wait_longer_and_go_on_with_fewer(terms: Terms) -> None:
    terms.verify(plans.silo_plan(num_clients=4))


SHARES = plans.changed(plans.silo_plan(), mechanism=Mechanism.DISTRIBUTED, minimum_survivors=3)
CENTRAL = plans.changed(plans.silo_plan(), mechanism=Mechanism.CENTRAL, minimum_survivors=0)


@pytest.mark.parametrize(
    ("terms", "plan", "says"),
    [
        (Terms(0.5), plans.silo_plan(), "Expected --deadline from 1 to 604800 seconds, got --deadline=0.5"),
        (Terms(float("nan")), plans.silo_plan(), "Expected --deadline from 1"),
        (Terms(quorum=0), plans.silo_plan(), "Expected --quorum from 1 to the run's 4 nodes, got --quorum=0"),
        (Terms(quorum=5), plans.silo_plan(), "Expected --quorum from 1 to the run's 4 nodes, got --quorum=5"),
        (Terms(quorum=2), SHARES, "Each client adds its share of the noise for that many answers"),
        (Terms(quorum=2), CENTRAL, "Dropping small cohorts would tell who was in them"),
    ],
)
def test_what_the_plan_does_not_allow_is_refused_with_the_reason(terms: Terms, plan: PrivacyPlan, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        terms.verify(plan)


@pytest.mark.parametrize("plan", [SHARES, CENTRAL])
def test_what_another_hand_wrote_into_a_runs_folder_is_held_against_the_plan(plan: PrivacyPlan, tmp_path: Path) -> None:
    (tmp_path / "terms.json").write_text('{"deadline_seconds": 30.0, "quorum": null}')
    assert Terms.in_force(tmp_path, plan) == Terms(30.0)
    (tmp_path / "terms.json").write_text('{"quorum": 2}')
    with pytest.raises(ConfigError, match="got --quorum=2"):
        Terms.in_force(tmp_path, plan)
