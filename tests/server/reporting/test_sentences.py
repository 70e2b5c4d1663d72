"""Numbers as words: rounding that never flatters, and claims that never overstate."""

import json
import math
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.reporting import sentences

RECORD_FILE = Path(__file__).with_name("record.json")


@pytest.fixture
def record() -> dict[str, Any]:
    return json.loads(RECORD_FILE.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("value", "text"),
    [(7.9613, "7.97"), (8.0, "8.00"), (8.0000000000001, "8.00"), (0.001, "0.01"), (1234.5, "1,234.50"),
     (None, "∞"), (math.inf, "∞"), (math.nan, "∞"), (0, "0.00")],
)  # fmt: skip
def test_epsilon_is_rounded_up(value: float | None, text: str) -> None:
    assert sentences.epsilon_text(value) == text


@given(st.floats(min_value=0, max_value=1e4))
def test_epsilon_never_reads_smaller_than_it_is(value: float) -> None:
    shown = float(sentences.epsilon_text(value).replace(",", ""))
    assert value - 1e-8 <= shown <= value + 0.01 + 1e-8


@pytest.mark.parametrize(
    ("value", "text"),
    [(1e-5, "1e-5"), (2.5e-6, "2.5e-6"), (1.0001e-5, "1.01e-5"), (0.01, "1e-2"), (0, "0"), (None, "–")],
)
def test_delta_is_rounded_up(value: float | None, text: str) -> None:
    assert sentences.delta_text(value) == text


@given(st.floats(min_value=1e-12, max_value=0.5))
def test_delta_never_reads_smaller_than_it_is(value: float) -> None:
    assert Decimal(sentences.delta_text(value)) >= Decimal(repr(value))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (sentences.seconds_text(4.21), "4.2 s"),
        (sentences.seconds_text(59.97), "1 min 00 s"),
        (sentences.seconds_text(192), "3 min 12 s"),
        (sentences.seconds_text(3840), "1 h 04 min"),
        (sentences.bytes_text(12), "12 B"),
        (sentences.bytes_text(327_680), "328 kB"),
        (sentences.bytes_text(1_500_000), "1.5 MB"),
        (sentences.signed_text(-0.012), "−0.0120"),
        (sentences.interval_text({"low": -0.01, "high": 0.004}), "−0.010 to 0.004"),
        (sentences.interval_text({"low": 0.01, "high": None}), ""),
        (sentences.p_value_text(0.0004), "p < 0.001"),
        (sentences.p_value_text(0.0124), "p = 0.012"),
        (sentences.count_text(100_000), "100,000"),
        (sentences.metric_text(True), "–"),
        (sentences.metric_label("ndcg@10"), "NDCG@10"),
        (sentences.metric_label("item_coverage@5"), "Item coverage@5"),
        (sentences.metric_label("auc"), "AUC"),
    ],
)
def test_numbers_are_written_for_people(text: str, expected: str) -> None:
    assert text == expected


def test_claim_sentence_names_unit_scope_relation_adversary_epsilon_and_delta(record: dict[str, Any]) -> None:
    assert sentences.claim_sentence(record) == (
        "Unit user, released: every adapter of the run, every released statistic and the released metrics: epsilon 7.97 "
        "(add-or-remove-one, delta 1e-5) against outsider with every released adapter; epsilon 7.97 (zero-out, delta 1e-5) "
        "against honest-but-curious server, active server, or clients it mints, and clients colluding with one another; "
        "no protection against the user's own silo."
    )


@pytest.mark.parametrize(
    ("is_private", "protected", "epsilon", "holds"),
    [
        (True, True, 8.0, True),
        (False, True, 8.0, False),
        (None, True, 8.0, False),
        ("yes", True, 8.0, False),
        (True, False, 8.0, False),
        (True, "yes", 8.0, False),
        (True, True, None, False),
        (True, True, math.inf, False),
        (True, True, math.nan, False),
    ],
)
def test_claim_protects_only_if_run_claim_and_epsilon_agree(
    is_private: object, protected: object, epsilon: float | None, holds: bool
) -> None:
    assert sentences.claim_protects({"is_private": is_private}, {"protected": protected, "epsilon": epsilon}) is holds


@pytest.mark.parametrize(
    ("claim", "name"),
    [
        ({"who": "the server", "adversary": "server"}, "the server"),
        ({"who": None, "adversary": "server"}, "server"),
        ({}, "adversary not stated"),
    ],
)
def test_an_adversary_is_named_in_words_or_by_its_key(claim: dict[str, Any], name: str) -> None:
    assert sentences.who(claim) == name


@pytest.mark.parametrize(
    ("value", "up", "text"),
    [
        (0.8679866985642731, False, "0.867986"),
        (0.10604453870625663, True, "0.106045"),
        (8, False, "8"),
        (1000.0, True, "1,000"),
        (2.5e-7, True, "0.00000025"),
        (None, True, "–"),
    ],
)
def test_a_rounded_number_never_flatters(value: float | None, up: bool, text: str) -> None:
    assert sentences.rounded_text(value, up=up) == text


@given(st.floats(min_value=1e-6, max_value=1e6))
def test_noise_never_reads_larger_and_a_rate_never_smaller_than_it_is(value: float) -> None:
    down, up = (Decimal(sentences.rounded_text(value, up=up).replace(",", "")) for up in (False, True))
    assert down <= Decimal(repr(value)) <= up


def test_claim_sentence_without_claims_says_that_no_adversary_is_named(record: dict[str, Any]) -> None:
    record["privacy"]["claims"] = []
    assert sentences.claim_sentence(record) == (
        "Unit user, add-or-remove-one: epsilon 7.97, delta 1e-5; the record names no adversary."
    )


@pytest.mark.parametrize(
    ("low", "high", "outcome"), [(0.001, 0.02, "better"), (-0.02, -0.001, "worse"), (-0.01, 0.01, "level")]
)
def test_verdict_follows_the_interval_of_the_difference(
    record: dict[str, Any], low: float, high: float, outcome: str
) -> None:
    record["baselines"][1]["difference"]["ndcg@10"] = {"mean": (low + high) / 2, "low": low, "high": high}
    found = sentences.verdict(record)
    assert found is not None
    assert found.outcome == outcome
    assert found.baseline.key == "text_similarity"


def test_verdict_without_the_free_baseline_is_none(record: dict[str, Any]) -> None:
    record["baselines"] = [row for row in record["baselines"] if row["key"] != "text_similarity"]
    assert sentences.verdict(record) is None
    assert sentences.quality_sentence(record) == "Test NDCG@10 is 0.0629, and 49 % of the best achievable."


def test_best_value_needs_two_models(record: dict[str, Any]) -> None:
    rows = sentences.model_rows(record)
    assert sentences.best_value(rows, "test", "ndcg@10") == 0.105
    assert sentences.best_value(rows[:1], "test", "ndcg@10") is None
