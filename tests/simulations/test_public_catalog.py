"""The declaration that the catalog is public: asked, explained, recorded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from shared.config import RunConfig
from simulations.public_catalog import EXPLANATION, NOT_DECLARED, QUESTION, declared
from tests import running

PRIVATE = RunConfig.from_mapping({"data.path": "own.csv", "privacy.epsilon": 8.0})


class Person:
    """Answers, and remembers what was shown."""

    def __init__(self, answer: bool) -> None:
        self.answer, self.shown = answer, list[str]()

    def confirm(self, question: str) -> bool:
        self.shown.append(question)
        return self.answer


def ask(config: RunConfig, *, said: bool | None = None, may_ask: bool = True, answer: bool = True) -> tuple[bool, list[str]]:
    person = Person(answer)
    found, note = declared(config, said=said, may_ask=may_ask, confirm=person.confirm, tell=person.shown.append)
    return found.data.public_catalog, [*person.shown, *([note] if note else [])]


@pytest.mark.parametrize("answer", [True, False])
def test_the_question_is_explained_before_it_is_asked_and_the_answer_is_in_the_configuration(answer: bool) -> None:
    assert ask(PRIVATE, answer=answer) == (answer, [EXPLANATION, QUESTION])


@pytest.mark.parametrize("said", [True, False])
def test_whoever_has_said_it_is_not_asked(said: bool) -> None:
    assert ask(PRIVATE, said=said, answer=not said) == (said, [])


def test_where_nobody_can_answer_the_catalog_counts_as_not_public_and_that_is_said() -> None:
    assert ask(PRIVATE, may_ask=False) == (False, [NOT_DECLARED])


def test_nothing_is_asked_where_nothing_is_claimed_or_the_project_made_the_catalog() -> None:
    assert ask(PRIVATE.with_values({"privacy.epsilon": "inf"})) == (False, [])
    assert ask(PRIVATE.with_values({"data.path": "synthetic"})) == (False, [])


@pytest.mark.parametrize(("flag", "holds"), [("--public-catalog", True), ("--no-public-catalog", False), (None, False)])
def test_the_declaration_is_recorded_with_the_assumptions(
    flag: str | None, holds: bool, tiny_bert: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = running.write_interactions(tmp_path / "interactions.csv")
    settings = running.flags(
        tiny_bert, federation__rounds=1, privacy__epsilon=8.0, privacy__delta=0.001, data__public_catalog=None
    )
    flags = [flag] if flag else []
    outcome = running.run_tacit(capsys, "simulate", "--data", data, "--out", tmp_path / "run", "--json", *flags, *settings)
    assert outcome.status == (0 if holds else 3)
    assert ("NOT PROTECTED against honest-but-curious server" in outcome.stderr) is not holds
    record = outcome.json
    assert record["data"]["public_catalog"] is holds
    assumption = next(row for row in record["privacy"]["assumptions"] if "catalog" in str(row))
    assert assumption["holds"] is holds
    release = json.loads((tmp_path / "run" / "release.json").read_text(encoding="utf-8"))
    for privacy in (record["privacy"], release):
        assert any(claim["protected"] for claim in privacy["claims"]) is holds
    page = (tmp_path / "run" / "release.html").read_text(encoding="utf-8")
    first_screen = page[: page.index("<main>")]
    assert ("This run does not protect as planned." in first_screen) is not holds
    assert (assumption["text"] in first_screen) is not holds


def test_a_run_without_a_terminal_says_that_the_catalog_was_not_declared(
    tiny_bert: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = running.write_interactions(tmp_path / "interactions.csv")
    settings = running.flags(
        tiny_bert, federation__rounds=1, privacy__epsilon=8.0, privacy__delta=0.001, data__public_catalog=None
    )
    outcome = running.run_tacit(capsys, "simulate", "--data", data, "--out", tmp_path / "run", *settings)
    assert outcome.status == 3
    assert "The catalog was not declared public" in " ".join(outcome.stderr.split())
