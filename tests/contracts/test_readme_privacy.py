"""What the README promises about privacy: each sentence names the test that shows it.

A sentence of these parts that is neither in `SHOWN_BY` nor in `NO_PROMISE` fails, and so does an entry whose sentence or
test is gone: whoever changes a promise changes its test's name here.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from shared.privacy.sent import sent_by_a_client
from tests.plans import central_plan, distributed_plan, plain_plan, silo_plan

ROOT = Path(__file__).parent.parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")

# Beginning of a sentence -> the test that fails where the sentence is not true.
SHOWN_BY = {
    "A client sends contributions to sums": "test_a_reply_in_the_air_holds_what_has_words_and_nothing_else",
    "**The claim, with its threat model.** By default each silo adds its own noise": "test_noise_has_the_stddev_of_the_plan",
    "All that a run releases": "test_the_plans_own_adversary_meets_the_epsilon_that_was_asked_for",
    "Against outsiders that means including or leaving it out": "test_a_claim_names_its_unit_and_relation",
    "Against an honest-but-curious server and colluding silos": "test_a_claim_names_its_unit_and_relation",
    "By default epsilon is 8 for the whole run": (
        "test_default_delta_is_a_power_of_ten_and_at_most_one_tenth_of_one_over_the_population"
    ),
    "The probability of any outcome then changes": "test_the_readme_says_what_epsilon_eight_and_one_are_worth",
    "Where every user is a client": "test_a_server_that_adds_the_noise_itself_is_protected_against_by_nothing",
    "`tacit privacy plan` says for each adversary": (
        "test_json_has_a_claim_for_every_adversary_with_all_that_a_claim_needs"
    ),
    "A claim whose assumption fails is shown as not protected": ("test_the_declaration_is_recorded_with_the_assumptions"),
    "The silo itself:": "test_the_device_that_holds_the_histories_is_never_claimed_to_be_shut_out",
    "In a simulation a user's account follows from the user's id": "test_a_users_account_is_the_same_whoever_comes_or_goes",
    "A person with accounts in several silos": "test_a_person_with_two_accounts_is_protected_less_than_one_with_one",
    "The research record (`run.json`, `report.html`)": "test_no_message_makes_a_client_send_an_exact_metric_or_loss",
    "It is stamped NOT PRIVATE": "test_the_release_report_holds_no_exact_number_of_the_research_record",
    "Item ids, texts and vectors": "test_a_catalog_that_is_not_public_voids_every_claim_and_every_claim_names_it",
    "You are asked (`--public-catalog`": "test_a_run_without_a_terminal_says_that_the_catalog_was_not_declared",
    "Floating point, in silos": "test_a_stated_limit_qualifies_every_claim_and_voids_none",
    "Across devices noise is added to integers": "test_every_encoding_has_an_integer_norm_within_the_sensitivity",
    "How long a client takes to answer": "test_every_reply_leaves_at_a_multiple_of_the_bucket",
    "Silos do not need it": "test_a_silos_contribution_is_its_sum_plus_noise_of_the_whole_standard_deviation",
    "With `privacy.mechanism=central` the server is trusted": (
        "test_noise_in_shares_protects_against_the_server_only_behind_a_secure_aggregation_that_is_not_there"
    ),
    "How often a server asks": "test_each_line_names_the_assumptions_that_it_rests_on_and_that_fail",
    "A run with `--reproducible`": "test_a_reproducible_run_says_that_it_is_not_private",
    "An epsilon above 20 is called no meaningful protection": (
        "test_a_bound_above_twenty_and_a_handful_of_users_are_warned_of"
    ),
    "`[privacy]` says what is wanted": "test_the_whole_run_stays_within_the_epsilon_asked_for",
    "The noise of prior and metrics follows epsilon": (
        "test_at_epsilon_eight_the_noise_of_prior_and_metrics_is_three_and_five"
    ),
    "What is not in the table is refused": (
        "test_a_combination_that_is_not_in_the_table_is_refused_with_a_reason_that_says_what_to_use_instead"
    ),
    "Cohorts are drawn by independent coins": "test_a_sample_of_fixed_size_is_refused_under_every_relation",
    "Under `distributed` sampling lowers no epsilon": "test_sampling_hides_nobody_where_the_noise_comes_in_shares",
    "`privacy.clipping=adaptive` follows a quantile": (
        "test_taking_out_a_users_data_moves_a_contribution_by_at_most_the_bound_that_is_accounted"
    ),
    "Epsilons are exact for Gaussian noise": "test_delta_of_a_full_release_is_never_below_the_exact_one_and_close_to_it",
    "They are Renyi bounds as soon": "test_as_soon_as_one_release_is_skellam_the_renyi_bound_of_all_is_quoted",
    "**What a client sends.** The count of its users' items once": (
        "test_every_field_of_every_reply_has_its_words_and_no_other_has"
    ),
    "No client sends an exact loss or metric.": "test_no_message_makes_a_client_send_an_exact_metric_or_loss",
    "**Claims and their assumptions.** Each claim names": (
        "test_each_line_names_the_assumptions_that_it_rests_on_and_that_fail"
    ),
    "Where one fails, the line says `protected: false`": (
        "test_a_plan_that_does_not_protect_as_asked_says_so_first_and_ends_with_a_status_of_its_own"
    ),
    "Stated limits (floats in silos": "test_a_stated_limit_qualifies_every_claim_and_voids_none",
    "**The device owns its ledger.** Every release is written to it before data is read": (
        "test_the_budget_is_reserved_before_any_history_is_read"
    ),
    "It is bound to the owner's name for the data": "test_data_may_grow_under_a_ledger_that_goes_on_counting",
    "Its owner sets the limits": "test_a_plan_that_does_not_fit_is_refused_whole_and_spends_nothing",
    "A limit on epsilon alone refuses": "test_a_limit_on_epsilon_alone_excludes_what_does_not_protect_against_the_server",
    "The server learns that a plan was refused": "test_a_refusal_for_the_budget_is_the_same_whatever_other_runs_spent",
    "An older copy of a ledger is refused": "test_a_copy_that_was_made_before_the_last_change_is_refused",
    "A client whose data turns out faulty replies": (
        "test_a_client_whose_data_is_missing_replies_like_any_other_and_counts_the_fault"
    ),
    "`release.json` and `release.html` are for others": (
        "test_the_release_report_holds_no_exact_number_of_the_research_record"
    ),
    "The released round is the last one": "test_choosing_the_best_round_needs_noised_validations",
}

# Sentences of the same parts that promise nothing about privacy, or say that something is not protected.
NO_PROMISE = (
    "A federated, privacy-preserving recommender.",
    "A Flower server coordinates clients",
    "**What is not protected.**",
    "The screen: recommendations shown",
    "The remedy used (sums of several samples) is not a proof.",
    "There is no secure aggregation here.",
    "Data that grow may put a user into another silo's account",
    "Settings that were tuned",
    "**Two outputs.** `run.json` and `report.html` are the research record",
)


def _sentences() -> list[str]:
    """The sentences of the parts about privacy, without code and tables."""
    ends = (
        ("A federated, privacy-preserving", "```bash\nmake demo"),
        ("**What is not protected.**", "## Results"),
        ("## Privacy\n", "## Configuration"),
    )
    text = "\n\n".join(README[README.index(start) : README.index(end)] for start, end in ends)
    text = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    text = re.sub(r"^[|#].*$", "", text, flags=re.MULTILINE)
    blocks = (" ".join(block.split()) for block in re.split(r"\n\s*\n|\n\* ", text))
    return [part for block in blocks for part in re.split(r"(?<=[.:])\s+(?=[A-Z`*])", block) if part]


def _tests() -> set[str]:
    trees = (ast.parse(path.read_text(encoding="utf-8")) for path in (ROOT / "tests").rglob("test_*.py"))
    return {node.name for tree in trees for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def test_every_promise_is_still_in_the_readme_and_its_test_exists() -> None:
    sentences, tests = _sentences(), _tests()
    gone = [start for start in (*SHOWN_BY, *NO_PROMISE) if not any(found.startswith(start) for found in sentences)]
    assert not gone, "the README does not say this any more: take it off the table, or put it back"
    missing = {name for name in SHOWN_BY.values() if name not in tests}
    assert not missing, "these tests are gone: name those that show the promise now"


def test_every_sentence_about_privacy_is_shown_by_a_test_or_promises_nothing() -> None:
    known = (*SHOWN_BY, *NO_PROMISE)
    unknown = [found for found in _sentences() if not found.startswith(known)]
    assert not unknown, "name the test that shows each of these, in SHOWN_BY"


def test_the_readme_says_what_epsilon_eight_and_one_are_worth() -> None:
    import math

    from shared import wording

    text = " ".join(README.split())
    after = {eps: 100 * 0.01 / (0.01 + 0.99 * math.exp(-eps)) for eps in (8.0, 1.0)}
    assert f"at most a factor of {wording.factor(math.exp(8.0))} (e^8), plus delta" in text
    assert f"right with at most {wording.significant(after[8.0], up=True, digits=2)} % after" in text
    assert f"at epsilon 1 with at most {wording.significant(after[1.0], up=True, digits=2)} %" in text


@pytest.mark.parametrize(
    ("row", "plan"),
    [
        ("`dp-sgd`, `dp-ftrl-silo`", silo_plan()),
        ("`dp-sgd`, `dp-ftrl-silo`", silo_plan(mechanism="dp-ftrl-silo", min_separation=4)),
        ("`central`, `dp-ftrl-central`", central_plan()),
        ("`central`, `dp-ftrl-central`", central_plan(mechanism="dp-ftrl-central", min_separation=3)),
        ("`distributed`", distributed_plan()),
        ("none (`--epsilon inf`)", plain_plan()),
    ],
)
def test_the_readme_says_of_each_mechanism_what_the_reports_say_that_a_client_sends(row: str, plan: object) -> None:
    said = {sent.how for sent in sent_by_a_client(plan) if sent.what.startswith("the ") and "rank" not in sent.what}  # type: ignore[arg-type]
    (how,) = said
    assert f"| {row} | {how} |" in README
