"""Epsilons follow from the events in the file, for every mechanism, and one that does not is named."""

from __future__ import annotations

import json
from typing import Any

import pytest

from shared.errors import PrivacyError
from shared.privacy.recomputation import epsilons_after, epsilons_at, verify_statement
from shared.privacy.statement import Statement, statement_of
from tests.shared.privacy.test_statement import CONFIG, PLANS


def _changed(name: str, *path: Any, value: Any) -> Statement:
    plan = PLANS[name]
    held = statement_of(plan, plan.events(), config=CONFIG, earlier=plan.events()[:1]).model_dump(mode="json")
    here = held
    for step in path[:-1]:
        here = here[step]
    here[path[-1]] = value(here[path[-1]]) if callable(value) else value
    return Statement.model_validate_json(json.dumps(held))


@pytest.mark.parametrize("name", PLANS)
def test_every_epsilon_of_a_statement_follows_from_its_events_under_every_mechanism(name: str) -> None:
    plan = PLANS[name]
    for earlier in ([], plan.events()):
        verify_statement(statement_of(plan, plan.events(), config=CONFIG, earlier=earlier), name="release.json")


def _less(value: float) -> float:
    return value * 0.99


@pytest.mark.parametrize(
    ("path", "which"),
    [
        (("claims", 0, "epsilon"), "against outsider with every released adapter"),
        (("claims", 3, "epsilon"), "against clients colluding with one another"),
        (("epsilon",), "of the run"),
        (("epsilon_of_this_run",), "of this run alone"),
        (("rdp_cross_check",), "of the Rényi cross-check"),
        (("group", "epsilon"), "of 2 accounts"),
        (("per_client", "with_amplification"), "of one client"),
        (("per_client", "known_participation"), "of one client, without amplification,"),
    ],
)
@pytest.mark.parametrize("change", [_less, lambda value: value * 1.01])
def test_an_epsilon_that_does_not_follow_from_the_events_is_named_with_what_they_give(
    path: tuple[Any, ...], which: str, change: Any
) -> None:
    with pytest.raises(PrivacyError) as caught:
        verify_statement(_changed("central, sampled", *path, value=change), name="release.json")
    message = str(caught.value)
    assert message.startswith("Expected epsilons that follow from the events in release.json, got epsilon=")
    assert f" {which} where the events give " in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("key", "value"), [("noise_multiplier", lambda value: value / 2), ("steps", lambda value: value + 1)]
)
def test_events_that_cost_more_than_is_said_are_noticed(key: str, value: Any) -> None:
    for part in ("events", "earlier_events"):
        with pytest.raises(PrivacyError, match="follow from the events"):
            verify_statement(_changed("silo", part, 0, key, value=value), name="release.json")


def test_epsilons_at_other_deltas_fall_as_delta_grows() -> None:
    plan = PLANS["central"]
    statement = statement_of(plan, plan.events(), config=CONFIG)
    small, same, large = epsilons_at(statement, [1e-6, 1e-4, 1e-3])
    assert small is not None and large is not None and small > same > large  # type: ignore[operator]
    assert same == statement.epsilon
    nothing = statement_of(PLANS["plain"], [], config=CONFIG)
    assert epsilons_at(nothing, [1e-6]) == [None]


@pytest.mark.parametrize("name", PLANS)
def test_epsilons_after_each_release_grow_and_end_at_the_epsilon_of_the_run(name: str) -> None:
    plan = PLANS[name]
    for earlier in ([], plan.events()[:1]):
        statement = statement_of(plan, plan.events(), config=CONFIG, earlier=earlier)
        after = epsilons_after(statement, most=2)
        numbers, values = [number for number, _ in after], [value for _, value in after]
        assert numbers == sorted(set(numbers)) and (numbers or [0])[-1] == sum(event.steps for event in statement.events)
        if statement.epsilon is None:
            assert set(values) <= {None}
            continue
        found = [value for value in values if value is not None]
        assert found == sorted(found) and len(found) == len(values)
        assert found[-1] == pytest.approx(statement.epsilon, rel=1e-9) and found[0] > 0.0


@pytest.mark.parametrize(
    ("path", "value", "which"),
    [
        (("claims", 0, "promise"), "Nobody learns anything.", "promise of the claim against outsider"),
        (("claims", 0, "statement"), lambda text: text + " Or so.", "statement of the claim against outsider"),
        (("claims", 0, "who"), "everybody", "who of the claim against outsider"),
        (("claims", 0, "factor"), 2.0, "factor of the claim against outsider"),
        (("claims", 0, "guess"), 0.02, "guess of the claim against outsider"),
        (("claims", 0, "scope"), "everything", "scope of the claim against outsider"),
        (("claims", 3, "relation"), "add-or-remove-one", "relation or delta of the claim against clients colluding"),
        (("claims", 0, "unit"), "window", "unit, relation or delta of the claim against outsider"),
        (("claims", 4, "promise"), "Full protection.", "promise of the claim against the person or program"),
        (("mechanism", "unit"), "window", "unit, relation or delta of the mechanism"),
        (("mechanism", "delta"), 1e-12, "unit, relation or delta of the mechanism"),
        (("releases", 0, "noise_multiplier"), lambda value: 2 * value, "noise of a release or of training"),
        (("mechanism", "noise_multiplier"), lambda value: 2 * value, "noise of a release or of training"),
        (("target_epsilon",), 0.5, "epsilon that was asked for"),
        (("not_kept",), "NOT PROTECTED.", "sentence about what is not kept"),
        (("not_protected",), lambda texts: texts[1:], "list of what is not protected"),
    ],
)
def test_a_promise_in_words_that_does_not_follow_from_its_epsilon_is_named(
    path: tuple[Any, ...], value: Any, which: str
) -> None:
    with pytest.raises(PrivacyError, match=f"Expected sentences and numbers that follow .* got another .*{which}"):
        verify_statement(_changed("central, sampled", *path, value=value), name="release.json")
