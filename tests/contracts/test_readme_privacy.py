"""What the pages promise about privacy: each sentence of `PARTS` names the test that shows it.

A sentence of these parts that is neither in `SHOWN_BY` nor in `NO_PROMISE` fails, and so does an entry whose sentence or
test is gone: whoever changes a promise changes its test's name here.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from shared.privacy.claims import claims
from shared.privacy.plan import PrivacyPlan
from shared.privacy.sent import sent_by_a_client
from tests.plans import central_plan, distributed_plan, plain_plan, silo_plan

ROOT = Path(__file__).parent.parent.parent
# Page, and where a part of it begins and ends whose sentences promise something about privacy.
PARTS = (
    ("README.md", "[How it works](#how-it-works)\n", "## Try it"),
    ("README.md", "## What happened", "## Results"),
    ("README.md", "## Privacy\n", "## Choose your path"),
    ("SECURITY.md", "## The claim\n", "## Out of scope"),
    ("client/README.md", "## What leaves the client\n", "## In the code"),
    ("server/README.md", "## Mechanisms\n", "## Statistics first"),
    ("server/README.md", "## Checkpoints and resuming\n", "## Recommend and export"),
)
TEXTS = {page: (ROOT / page).read_text(encoding="utf-8") for page, _, _ in PARTS}

# Beginning of a sentence -> the test that fails where the sentence is not true.
SHOWN_BY = {
    "A node that would refuse because of hours": (
        "test_outside_its_hours_a_node_takes_the_roster_and_says_before_anybody_is_asked_that_it_would_refuse"
    ),
    "A node that the server does not let in": ("test_a_node_that_is_not_let_in_says_why_if_it_knows_and_else_where_to_look"),
    "A node that has left signs no second statement": (
        "test_a_node_that_leaves_says_what_it_contributed_and_answers_nothing_more"
    ),
    "A client sends contributions to sums": "test_a_reply_in_the_air_holds_what_has_words_and_nothing_else",
    "By default each silo adds its own noise": "test_noise_has_the_stddev_of_the_plan",
    "All that a run releases": "test_the_plans_own_adversary_meets_the_epsilon_that_was_asked_for",
    "Against outsiders that means including or leaving it out": "test_a_claim_names_its_unit_and_relation",
    "Against an honest-but-curious server and colluding silos": "test_a_claim_names_its_unit_and_relation",
    "By default epsilon is 8 for the whole run": (
        "test_default_delta_is_a_power_of_ten_and_at_most_one_tenth_of_one_over_the_population"
    ),
    "The probability of any outcome then changes": "test_the_readme_says_what_epsilon_eight_and_one_are_worth",
    "Where every user is a client": "test_across_devices_contributions_are_masked_and_the_claim_is_against_the_server",
    "In a deployment clients mask what they send": (
        "test_across_devices_contributions_are_masked_and_the_claim_is_against_the_server"
    ),
    "In a simulation it holds against outsiders": (
        "test_noise_in_shares_protects_against_the_server_only_behind_a_secure_aggregation_that_is_not_there"
    ),
    "Where secure sums cannot be formed": (
        "test_the_server_adds_the_noise_only_where_shares_are_impossible_and_the_statement_says_why"
    ),
    "It is `central` only where secure sums cannot be formed": (
        "test_the_server_adds_the_noise_only_where_shares_are_impossible_and_the_statement_says_why"
    ),
    "A warning in plan and reports then says which": (
        "test_the_server_adds_the_noise_only_where_shares_are_impossible_and_the_statement_says_why"
    ),
    "A deployment masks contributions": "test_sums_in_the_open_are_for_simulations",
    "A run file of a deployment that would add shares": (
        "test_shares_of_noise_that_would_leave_in_the_open_are_refused_on_both_ends"
    ),
    "`tacit privacy plan` says for each adversary": (
        "test_json_has_a_claim_for_every_adversary_with_all_that_a_claim_needs"
    ),
    "The silo itself:": "test_the_device_that_holds_the_histories_is_never_claimed_to_be_shut_out",
    "A user's account follows from the user's id": "test_a_users_account_is_the_same_whoever_comes_or_goes",
    "A person with accounts in several silos": "test_a_person_with_two_accounts_is_protected_less_than_one_with_one",
    "The research record (`run.json`, `report.html`)": "test_no_message_makes_a_client_send_an_exact_metric_or_loss",
    "It is stamped NOT PRIVATE": "test_the_release_report_holds_no_exact_number_of_the_research_record",
    "Item ids, texts and vectors": "test_a_catalog_that_is_not_public_voids_every_claim_and_every_claim_names_it",
    "You are asked (`--public-catalog`": "test_a_run_without_a_terminal_says_that_the_catalog_was_not_declared",
    "Floating point, in silos": "test_a_stated_limit_qualifies_every_claim_and_voids_none",
    "Across devices noise is added to integers": "test_every_encoding_has_an_integer_norm_within_the_sensitivity",
    "How long a client takes to answer": "test_guarantee_every_reply_of_a_node_leaves_at_a_multiple_of_the_runs_bucket",
    "Silos do not need it": "test_a_silos_contribution_is_its_sum_plus_noise_of_the_whole_standard_deviation",
    "With `privacy.mechanism=central` the server is trusted": (
        "test_a_server_that_adds_the_noise_itself_is_protected_against_by_nothing"
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
    "Skellam noise (`distributed`) is proven to be within": (
        "test_epsilon_is_the_gaussians_at_a_smaller_delta_and_twice_the_distance"
    ),
    "Where the log cannot be written, no contribution": "test_a_contribution_that_cannot_be_written_down_does_not_leave",
    "A message larger than `largest_message_bytes`": "test_a_message_larger_than_the_owner_takes_is_refused_unread",
    "The node keeps the ten newest catalogs": (
        "test_the_newest_recommenders_are_kept_beside_the_one_in_use_and_the_one_before"
    ),
    "Interactions that are older than `retention_days`": (
        "test_interactions_are_deleted_once_their_time_has_come_and_once_a_day"
    ),
    "A change counts from the next message on": ("test_the_policy_of_the_moment_counts_and_one_that_cannot_be_read_refuses"),
    "It sends the count of its users' items once": ("test_every_field_of_every_reply_has_its_words_and_no_other_has"),
    "No client sends an exact loss or metric.": "test_no_message_makes_a_client_send_an_exact_metric_or_loss",
    "Each claim names the assumptions": ("test_each_line_names_the_assumptions_that_it_rests_on_and_that_fail"),
    "Where one fails, the line says `protected: false`": (
        "test_a_plan_that_does_not_protect_as_asked_says_so_first_and_ends_with_a_status_of_its_own"
    ),
    "Stated limits (floats in silos": "test_a_stated_limit_qualifies_every_claim_and_voids_none",
    "Every release is written to it before data is read": ("test_the_budget_is_reserved_before_any_history_is_read"),
    "It is bound to the owner's name for the data": "test_data_may_grow_under_a_ledger_that_goes_on_counting",
    "A plan that asks for more is refused as a whole": "test_a_plan_that_does_not_fit_is_refused_whole_and_spends_nothing",
    "A limit on epsilon alone refuses": "test_a_limit_on_epsilon_alone_excludes_what_does_not_protect_against_the_server",
    "The server learns that a plan was refused": "test_a_refusal_for_the_budget_is_the_same_whatever_other_runs_spent",
    "**Copies.** An older copy of a ledger is refused": "test_a_copy_that_was_made_before_the_last_change_is_refused",
    "A client with a fault in its data replies": (
        "test_a_client_whose_data_is_missing_replies_like_any_other_and_counts_the_fault"
    ),
    "`release.json` and `release.html` are for others": (
        "test_the_release_report_holds_no_exact_number_of_the_research_record"
    ),
    "The released round is the last one": "test_choosing_the_best_round_needs_noised_validations",
    "**Histories stay with their owner.**": "test_a_reply_in_the_air_holds_what_has_words_and_nothing_else",
    "**Each user has a proven bound.**": "test_every_release_is_in_the_ledger_of_its_own_client",
    "**The same code in a simulation and on nodes.**": "test_flwr_run_trains_and_releases_an_adapter_without_exact_metrics",
    "Each wrote a release into its ledger before": "test_the_budget_is_reserved_before_any_history_is_read",
    "Each client sent sums of bounded vectors": (
        "test_a_silos_contribution_is_its_sum_plus_noise_of_the_whole_standard_deviation"
    ),
    "The server turned the noised sums": "test_silos_counts_are_added_up_and_so_is_the_variance_of_their_noise",
    "Single contributions under `central`": "test_a_server_that_adds_the_noise_itself_is_protected_against_by_nothing",
    "`distributed` hides them only behind": "test_what_a_client_sends_is_masked_and_of_one_size",
    "With `distributed` and `secure_aggregation.simulate=sum`": (
        "test_noise_in_shares_protects_against_the_server_only_behind_a_secure_aggregation_that_is_not_there"
    ),
    "Secure aggregation is for `privacy.mechanism=distributed` alone": (
        "test_a_combination_that_is_not_in_the_table_is_refused_with_a_reason_that_says_what_to_use_instead"
    ),
    "Secure sums: the server learns how many clients survived": "test_clients_may_drop_out_at_every_stage",
    "Wrong shares end no round while": "test_wrong_shares_are_left_out_as_if_their_holders_had_dropped_out",
    "A client whose secret cannot be opened is left out": "test_guarantee_no_more_clients_are_left_out_than_may_be_corrupt",
    "They are settings of the run": (
        "test_a_node_whose_owner_asks_for_safer_assumptions_refuses_before_it_joins_a_secure_sum"
    ),
    "`shared/protocol/messages.py` lists each field": "test_every_field_of_every_reply_has_its_words_and_no_other_has",
    "`tacit privacy plan` prints the list": "test_the_size_of_a_contribution_stands_beside_it_where_it_is_known",
    "Under its own noise nothing tells it from the others": (
        "test_a_client_whose_data_is_missing_replies_like_any_other_and_counts_the_fault"
    ),
    "`show` prints two epsilons": "test_show_says_what_was_spent_to_those_who_know_the_participation_and_to_others",
    "`export` writes all events": "test_export_writes_the_same_to_a_file_and_to_standard_output",
    "A silo's account follows from its number": "test_a_ledger_of_one_kind_takes_no_accounts_of_another",
    "A server that asks under another run's name": "test_each_line_names_the_assumptions_that_it_rests_on_and_that_fail",
    "A file is added whole or not at all": "test_order_duplicates_and_pieces_do_not_matter",
    "A run trains on what it would train on": ("test_the_rows_are_those_that_a_simulation_makes_of_the_same_interactions"),
    "Items that the run's catalog lacks": "test_unknown_items_are_counted_and_left_out",
    "`forget` deletes one user": (
        "test_after_forgetting_no_file_holds_the_id_or_an_interaction_of_the_user_or_a_ciphertext_of_one"
    ),
    "The ledger keeps what": "test_forgetting_leaves_what_was_spent_in_the_ledger",
    "Encrypted, the files show": "test_an_encrypted_database_shows_no_user_no_item_and_no_time",
    "No other address than loopback": "test_no_other_address_than_loopback_is_listened_on",
    "A request is added whole": "test_a_wrong_request_gets_one_line_quotes_nothing_and_changes_nothing",
    "Its worker reads the run file": "test_code_in_the_bundle_is_never_run",
    "It checks the server's signature": "test_what_is_not_a_run_of_this_server_is_refused",
    "What was sent and refused stands in": "test_no_line_is_changed_left_out_repeated_or_moved",
    "A refusal is signed": "test_a_refusal_is_signed_by_the_node_that_the_roster_knows",
    "`policy.toml`, in the node's folder": "test_without_a_policy_every_run_is_approved_by_hand",
    "Once a contribution to a secure sum has left": (
        "test_a_sum_is_not_left_after_its_contribution_although_the_day_is_used_up"
    ),
    "A received recommender is used unless": "test_a_worse_recommender_is_not_taken_and_a_better_one_is",
    "Under Flower, a node names its own files": (
        "test_the_name_that_a_device_was_started_with_is_what_its_ledger_is_bound_to"
    ),
    "They win over the configuration of the run": (
        "test_the_ledger_that_a_device_was_started_with_wins_over_what_a_run_asks_for"
    ),
    "Limits in a ledger hold only where the device names it": (
        "test_the_ledger_that_a_device_was_started_with_wins_over_what_a_run_asks_for"
    ),
    "A reply leaves at a multiple of": "test_every_reply_leaves_at_a_multiple_of_the_bucket",
    "It learns that a client refused a plan": (
        "test_a_refusal_that_travels_to_the_server_says_nothing_of_other_runs_or_of_the_data"
    ),
    "A reply that is not finite": "test_a_silos_reply_that_is_no_finite_update_is_left_out_of_the_mean",
    "A checkpoint holds noised state only": "test_nothing_but_noised_values_depends_on_one_users_history",
    "`tacit simulate --resume RUN` goes on": (
        "test_a_run_that_was_killed_continues_to_the_same_adapter_and_pays_for_every_round"
    ),
    "The plan's epsilon is a ceiling": "test_a_repeated_round_takes_the_place_of_the_last_one",
    "A run's folder is claimed before": "test_a_folder_that_another_process_writes_is_refused_until_that_process_has_died",
    "An audit runs a copy of the run with made-up users": "test_a_correct_run_passes_and_every_release_of_it_is_read",
    "Nothing of the copy is released, and nobody's ledger is charged.": (
        "test_the_run_itself_is_left_as_it_was_and_its_clients_were_charged_nothing"
    ),
    "What it gets right is a lower bound on epsilon": (
        "test_power_a_planted_bug_fails_the_audit_and_the_probe_that_is_meant_for_it_says_so"
    ),
    "`tacit audit run` and `verify` end with status 3": (
        "test_audit_run_of_a_run_whose_ledger_lacks_a_release_ends_with_3_and_says_which"
    ),
    "Of correct runs at most one in twenty fails.": "test_correct_runs_seldom_fail",
    "A run that claims nothing always fails.": "test_an_unprotected_run_always_fails",
    "Research records beside the audit are NOT PRIVATE": (
        "test_guarantee_a_research_record_is_no_part_of_the_audit_and_is_stamped_not_private"
    ),
    "Each line of the run's log names the hash of the line before it": "test_a_run_whose_log_was_changed_is_not_audited",
    "A plain sum gives the union": "test_plain_sums_leak_the_union_of_the_items_and_not_whose_each_is",
    "The noise of the whole sum hides": "test_under_the_full_noise_of_the_sum_items_are_found_by_chance",
    "In the study one of 100 correct runs failed.": "test_correct_runs_seldom_fail",
    "Each audit states the power of its own tests": "test_the_table_of_an_audit_is_at_the_level_of_its_own_probes",
    "`tacit simulate --audit` fixes canaries, coins, guesses, level and code": (
        "test_an_audit_that_did_not_follow_its_plan_is_found_even_if_its_author_signed_it"
    ),
    "An audit made afterwards says so,": "test_a_plan_in_the_log_that_the_audit_did_not_follow_is_said",
    "`verify` requires one attack on each claim": (
        "test_numbers_that_do_not_follow_from_one_another_are_found_even_if_their_author_signed_them"
    ),
    "The audit compares the contributions of up to 64 real users": (
        "test_power_a_missing_bound_on_real_users_alone_fails_the_audit"
    ),
    "In a deployment server and nodes write the last hash of each other's log": (
        "test_a_contribution_and_the_log_name_each_others_heads"
    ),
    "`tacit audit reconcile RUN_DIR NODE_LOG...` compares logs offline": (
        "test_the_command_ends_with_1_where_logs_differ_and_says_what_they_cannot_prove"
    ),
    "A run of a deployment is audited on its server": (
        "test_a_deployments_run_is_audited_with_made_up_users_and_says_what_only_nodes_could_try"
    ),
    "In a simulation clients have no log.": "test_a_simulation_has_nothing_to_compare",
    "A contribution carries the hash of the log's last line": "test_a_contribution_and_the_log_name_each_others_heads",
    "The hashes tell nothing of the logs": "test_guarantee_a_head_tells_nothing_of_what_is_logged",
    "Each audit lists what was not tried": "test_what_is_skipped_is_told_with_the_reason",
    "Rounds of training are read too": "test_a_correct_run_passes_and_every_release_of_it_is_read",
}

# Sentences of the same parts that promise nothing about privacy, or say that something is not protected.
NO_PROMISE = (
    "The model is loaded when `/recommend` is asked first.",
    "A recommender that comes later is compared and opened",
    "An adversary who knows everything but the coins guesses them.",
    "A lower bound can refute a promise and never proves one.",
    "A signature says who wrote an audit",
    "It cannot find an author who runs other code",
    "The page lists these limits.",
    "In each row 60 users are attacked",
    "The command is `make soak",
    "The demo spread 3,000 users",
    "The demo trains no adapter",
    "The simulator measured exact metrics",
    "`release.html` beside it is the report for others.",
    "Add-or-remove compares with and without the user",
    "**What is not protected.**",
    "The client and the screen:",
    "The screen: recommendations shown",
    "A history that is sent to a server",
    "The remedy used (sums of several samples) is not a proof.",
    "The server and a client's neighbors know",
    "A client that breaks the protocol can shift a sum",
    "It can also end a round",
    "The assumptions are about each cohort",
    "Settings that were tuned",
    "Settings tuned on exact metrics",
    '"Silos" are `dp-sgd` and `dp-ftrl-silo`',
    '"Amplification" means',
    "It does not hold against an adversary who knows who took part.",
    "The device owns its ledger.",
    "The owner of the device sets the limits.",
    "A device cannot verify that sampling.",
    "**Accounts.** In a simulation one file holds",
    "Data that grow may put a user into another silo's account",
    "A node's folder that is copied and run twice has two ledgers",
    "A node keeps its interactions in a database of its own",
    "Copies of the files, and what a disk keeps",
    "The key lies in the same folder",
    "An application of the same machine logs",
    "The node has the last word.",
    "That comparison stays on the node.",
    "What runs on a node is `client/` and `shared/`",
    "The server knows public constants",
    "A round of silos needs half of them",
    "[The client's page]",
    "`run.resume=true` does the same",
    "[A finished run continues on grown data]",
    "`run.json` and `report.html` are the research record",
)


def _sentences() -> list[str]:
    """The sentences of the parts about privacy, without code and tables."""
    parts = []
    for page, start, end in PARTS:
        text = TEXTS[page]
        parts.append(text[text.index(start) + len(start) : text.index(end, text.index(start) + len(start))])
    text = "\n\n".join(parts)
    text = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    text = re.sub(r"^(?:[|#]|!\[|<!--).*$", "", text, flags=re.MULTILINE)
    blocks = (" ".join(block.split()) for block in re.split(r"\n\s*\n|^(?:\*|\d\.) ", text, flags=re.MULTILINE))
    return [part for block in blocks for part in re.split(r"(?<=[.:])\s+(?=[A-Z`*\[])", block) if part]


def _tests() -> set[str]:
    trees = (ast.parse(path.read_text(encoding="utf-8")) for path in (ROOT / "tests").rglob("test_*.py"))
    return {node.name for tree in trees for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def test_every_promise_is_still_on_its_page_and_its_test_exists() -> None:
    sentences, tests = _sentences(), _tests()
    gone = [start for start in (*SHOWN_BY, *NO_PROMISE) if not any(found.startswith(start) for found in sentences)]
    assert not gone, "the pages do not say this any more: take it off the table, or put it back"
    missing = {name for name in SHOWN_BY.values() if name not in tests}
    assert not missing, "these tests are gone: name those that show the promise now"


def test_every_sentence_about_privacy_is_shown_by_a_test_or_promises_nothing() -> None:
    known = (*SHOWN_BY, *NO_PROMISE)
    unknown = [found for found in _sentences() if not found.startswith(known)]
    assert not unknown, "name the test that shows each of these, in SHOWN_BY"


def test_the_readme_says_what_epsilon_eight_and_one_are_worth() -> None:
    import math

    from shared import wording

    text = " ".join(TEXTS["README.md"].split())
    after = {eps: 100 * 0.01 / (0.01 + 0.99 * math.exp(-eps)) for eps in (8.0, 1.0)}
    assert f"at most a factor of {wording.factor(math.exp(8.0))} (e^8), plus delta" in text
    assert f"right with at most {wording.significant(after[8.0], up=True, digits=2)} % after" in text
    assert f"at epsilon 1 with at most {wording.significant(after[1.0], up=True, digits=2)} %" in text
    for eps in after:
        row = f"| {eps:.0f} | {wording.factor(math.exp(eps))} (e^{eps:.0f}), plus delta |"
        assert f"{row} {wording.significant(after[eps], up=True, digits=2)} % |" in TEXTS["SECURITY.md"]


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
def test_the_clients_page_says_of_each_mechanism_what_the_reports_say_that_a_client_sends(row: str, plan: object) -> None:
    said = {sent.how for sent in sent_by_a_client(plan) if sent.what.startswith("the ") and "rank" not in sent.what}  # type: ignore[arg-type]
    (how,) = said
    assert f"| {row} | {how} |" in TEXTS["client/README.md"]


@pytest.mark.parametrize(
    ("column", "plan"),
    [(3, silo_plan(adversary="server")), (4, distributed_plan(secure_aggregation="masked"))],
)
def test_the_table_of_adversaries_says_what_the_claims_say(column: int, plan: PrivacyPlan) -> None:
    """A cell begins with `holds` where the claim is one of protection, and names its relation."""
    rows = {
        "outsider": "outsider", "server": "honest-but-curious server", "active-server": "active server, invented clients",
        "colluding-clients": "colluding clients", "own-device": "owner of the client",
    }  # fmt: skip
    relations = {"add-or-remove-one": "holds (add-or-remove)", "zero-out": "holds (zero-out)"}
    for claim in claims(plan, plan.events()):
        (row,) = [line for line in TEXTS["README.md"].splitlines() if line.startswith(f"| {rows[claim.adversary]} |")]
        cell = row.split("|")[column].strip()
        assert cell == relations[claim.relation] if claim.protected else cell.startswith("does not hold"), claim.adversary
