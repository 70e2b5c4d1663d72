"""Every known trap of private federated training has a named test; this list says which, and fails if one is gone.

A trap is a mistake that ordinary tests do not notice: the result still looks private. Each named test fails when the
remedy is taken out.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

TESTS = Path(__file__).parent.parent

TRAPS = {
    "an empty Poisson batch crashes, or shrinks the noise": (
        "client/test_dp_sgd.py",
        "test_an_empty_batch_moves_the_adapter_by_noise_alone",
    ),
    "rows are clipped where users should be": (
        "client/test_per_user_gradients.py",
        "test_rows_that_are_not_users_are_refused",
    ),
    "users are coupled by in-batch negatives": (
        "client/test_dp_sgd.py",
        "test_user_losses_depend_on_their_own_row_alone",
    ),
    "norms in bfloat16 overshoot the bound": (
        "client/test_dp_sgd.py",
        "test_bfloat16_keeps_the_clip_bound",
    ),
    "DoRA's magnitudes bypass the hooks": (
        "client/test_per_user_gradients.py",
        "test_dora_is_refused",
    ),
    "negatives drawn from other users": (
        "client/test_negatives.py",
        "test_sampled_losses_of_a_user_do_not_depend_on_who_else_is_in_the_batch",
    ),
    "LoRA on an embedding, trainable tokens": (
        "client/test_per_user_gradients.py",
        "test_whatever_is_trained_beside_loras_linear_layers_is_refused",
    ),
    "gradient checkpointing": (
        "client/test_backbone_families.py",
        "test_checkpointed_gradients_equal_kept_ones_with_weights_of_each_users_own_too",
    ),
    "a weight used twice bypasses the hooks": (
        "client/test_per_user_gradients.py",
        "test_a_layer_that_runs_twice_is_refused_and_never_bypassed",
    ),
    "a tied weight bypasses the hooks": (
        "client/test_per_user_gradients.py",
        "test_a_tied_weight_is_refused",
    ),
    "the sampling rate is rounded": (
        "client/test_dp_sgd.py",
        "test_the_sampling_rate_is_not_rounded",
    ),
    "noise that can be predicted": (
        "shared/test_randomness.py",
        "test_a_secret_source_never_repeats_and_ignores_every_seed",
    ),
    "a fork repeats the noise": (
        "shared/test_randomness.py",
        "test_two_processes_never_draw_the_same_secret_stream",
    ),
    "the closed form is another gradient": (
        "client/test_per_user_gradients.py",
        "test_closed_form_gradients_equal_opacus_and_a_loop_of_single_user_backward_passes",
    ),
    "clipping misses a shape, zero, NaN or infinity": (
        "client/test_dp_sgd.py",
        "test_one_user_moves_the_clipped_sum_by_at_most_the_bound_for_every_shape",
    ),
    "a whole update escapes the bound": (
        "shared/test_update.py",
        "test_clip_bounds_the_norm_for_every_shape_and_every_value",
    ),
    "a faulty user raises, and others see it": (
        "client/test_app.py",
        "test_a_client_whose_data_is_missing_replies_like_any_other_and_counts_the_fault",
    ),
    "a client chooses its weight": (
        "server/test_rounds.py",
        "test_weights_are_uniform_whatever_a_client_says",
    ),
    "rounding to integers exceeds the sensitivity": (
        "shared/test_secagg_encoding.py",
        "test_every_encoding_has_an_integer_norm_within_the_sensitivity",
    ),
    "shares of noise do not add up": (
        "statistical/test_discrete_noise.py",
        "test_shares_of_skellam_noise_add_up_to_the_whole",
    ),
    "correlated noise is saved and replayed": (
        "shared/test_privacy_banded.py",
        "test_correlated_noise_is_never_saved_copied_or_sent",
    ),
    "participations closer than the bands": (
        "client/test_dp_sgd.py",
        "test_a_user_never_takes_part_twice_within_the_minimum_separation",
    ),
    "fixed-size cohorts accounted as Poisson": (
        "shared/test_privacy_accounting.py",
        "test_a_sample_of_fixed_size_is_refused_under_every_relation",
    ),
    "replace-one without the doubled sensitivity": (
        "shared/test_privacy_accounting.py",
        "test_epsilon_of_one_replaced_and_sampled_unit_agrees_with_numerical_integration",
    ),
    "a capped cohort accounted as Poisson": (
        "shared/test_privacy_accounting.py",
        "test_a_capped_sample_accounted_as_plain_sampling_would_be_below_an_explicit_pair_of_data_sets",
    ),
    "a ledger that under-counts after a crash": (
        "shared/test_privacy_ledger_crashes.py",
        "test_a_process_killed_at_any_statement_never_leaves_an_event_uncounted",
    ),
    "data is read before the budget is reserved": (
        "client/test_budget.py",
        "test_the_budget_is_reserved_before_any_history_is_read",
    ),
    "a plan that promises less than the node's own": (
        "client/test_app.py",
        "test_a_plan_that_differs_from_the_nodes_own_is_refused_before_data_is_read",
    ),
    "a reply that says more than the allow-list": (
        "shared/test_protocol.py",
        "test_a_reply_holds_nothing_but_the_allow_list",
    ),
    "an exact number in what is released": (
        "system/test_mechanisms.py",
        "test_the_release_report_holds_no_exact_number_of_the_research_record",
    ),
}


@pytest.mark.parametrize("trap", TRAPS)
def test_every_trap_has_its_named_test(trap: str) -> None:
    file, name = TRAPS[trap]
    tree = ast.parse((TESTS / file).read_text(encoding="utf-8"))
    assert name in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
