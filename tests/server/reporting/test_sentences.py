"""The claims of a run in one sentence: promise first, then a bound for each adversary, and none where nothing is claimed."""

import json
from pathlib import Path
from typing import Any

import pytest

from server.reporting import sentences
from server.reporting.records import RunRecord, parse_run
from shared.config import RunConfig
from shared.privacy.statement import statement_of
from tests.plans import central_plan, distributed_plan, plain_plan, silo_plan

RECORD_FILE = Path(__file__).with_name("record.json")
CONFIG = RunConfig.from_mapping({"data.public_catalog": True})


@pytest.fixture
def record() -> dict[str, Any]:
    return json.loads(RECORD_FILE.read_text(encoding="utf-8"))


def _said(plan: Any) -> str:
    return sentences.claim_sentence(statement_of(plan, plan.events(), config=CONFIG))


def test_claim_sentence_names_unit_scope_relation_adversary_epsilon_and_delta(record: dict[str, Any]) -> None:
    assert sentences.claim_sentence(parse_run(record).privacy) == (
        "Against honest-but-curious server: Emptying one user's full history, with the client still replying, changes the "
        "probability of any outcome by at most a factor of 2,893 (e^7.97), plus 0.00001. A guess about that user improves "
        "from 1 % to at most 97 %. Unit user, released: every adapter of the run, every released statistic and the released "
        "metrics: epsilon 7.97 (add-or-remove-one, delta 1e-5) against outsider with every released adapter; epsilon 7.97 "
        "(zero-out, delta 1e-5) against honest-but-curious server and clients colluding with one another; no protection "
        "against active server, or clients it mints, and the person or program that runs the user's own client."
    )


def test_claim_sentence_starts_with_what_is_not_kept() -> None:
    assert _said(distributed_plan()).startswith("NOT PROTECTED against honest-but-curious server, contrary to the plan, ")


def test_claim_sentence_of_a_run_without_privacy_holds_no_epsilon() -> None:
    for plan in (plain_plan(), silo_plan(reproducible=True)):
        said = _said(plan)
        assert said.startswith("NOT PRIVATE: ") and said.endswith(".")
        assert "Unit" not in said


def test_claim_sentence_calls_a_bound_above_twenty_no_meaningful_protection() -> None:
    said = _said(central_plan(noise_multiplier=0.25))
    assert said.startswith(
        "Against outsider with every released adapter: No meaningful protection: epsilon 49.09 is above 20"
    )
    assert "; no meaningful protection, epsilon 49.09 (zero-out, delta 1e-4), against clients colluding" in said


@pytest.mark.parametrize("is_private", [True, False])
def test_continued_sentence_names_the_run_before_and_no_epsilon_without_privacy(
    record: dict[str, Any], is_private: bool
) -> None:
    assert sentences.continued_sentence(parse_run(record)) == ""
    before = {"manifest_digest": "ab" * 32, "config_digest": "", "catalog_digest": "", "round_number": 3, "epsilon": 5.001,
              "delta": 1e-5, "runs": 1}  # fmt: skip
    run = parse_run({**record, "continues": before})
    if not is_private:
        plan = plain_plan()
        nothing = statement_of(plan, [], config=CONFIG).model_dump(mode="json")
        run = parse_run({**run.as_json(), "privacy": {**nothing, "ledger": None}})
    said = sentences.continued_sentence(run)
    assert said.startswith("Continues the model released as abababababab (1 earlier run(s))")
    assert ("which claimed epsilon 5.01" in said) is is_private
    assert isinstance(run, RunRecord)
