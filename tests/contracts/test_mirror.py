"""Each source file has its test file at the same place below `tests/`; an exception stands here with where it is tested.

An exception is a file whose behavior is that of something larger: a format that a whole data set shows, a command, a page,
a protocol between client and server.
"""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
PACKAGES = ("client", "server", "shared", "simulations")

# Whole folders, as the beginning of a path.
GROUPS = {
    "simulations/bench": "tests/simulations",  # programs that measure; their arithmetic and their tables are tested
    "simulations/commands/": "tests/system/test_command_line.py",  # arguments of commands, as people give them
    "client/commands/": "tests/client/test_cli.py",
    "server/commands/": "tests/system/test_provisioning.py",
    "simulations/examples/": "tests/system/test_examples.py",
    "shared/config/": "tests/shared/config/test_config.py",  # a setting, its section, its checks and its loading are one
}
# Readers of other people's formats: a file of each, read as a whole and damaged in every way.
FORMATS = {
    "tests/shared/data/readers/test_formats.py": ("columns", "dataset", "movielens", "recbole", "tables", "tabular"),
    "tests/shared/data/readers/test_others.py": ("amazon", "goodreads", "mind", "modalities", "steam"),
    "tests/shared/data/readers/test_rows.py": ("fields", "opening"),
    "tests/shared/data/readers/test_damage.py": ("kinds",),
    "tests/shared/data/readers/test_convert.py": ("huggingface", "unrolling", "writing"),
}
ELSEWHERE = {
    **{f"shared/data/readers/{name}.py": test for test, names in FORMATS.items() for name in names},
    # What a client does with a message, from the message to the reply.
    "client/admission.py": "tests/client/test_app.py",
    "client/answering.py": "tests/client/test_app.py",
    "client/batch.py": "tests/client/test_app.py",
    "client/statistics/question.py": "tests/system/test_new_statistic.py",
    "client/statistics/statistic.py": "tests/system/test_new_statistic.py",
    "client/statistics/blending.py": "tests/client/statistics/test_comparisons.py",
    "client/statistics/selection.py": "tests/client/statistics/test_comparisons.py",
    "client/training/gradients.py": "tests/client/training/test_dp_sgd.py",
    "client/commands/provisioning.py": "tests/system/test_provisioning.py",
    # The ledger's tables, written by the one and read by the other.
    "client/ledger/rows.py": "tests/client/ledger/test_ledger.py",
    "client/ledger/view.py": "tests/client/ledger/test_ledger.py",
    # What a server does with the answers of a whole federation.
    "server/continuing.py": "tests/system/test_continued_runs.py",
    "server/cli.py": "tests/system/test_command_line.py",
    "server/model_card.py": "tests/server/test_export.py",
    "server/reporting/release_report.py": "tests/server/test_rounds.py",
    "server/statistics/pairs.py": "tests/server/statistics/test_updates.py",
    "server/statistics/popularity.py": "tests/server/statistics/test_updates.py",
    "server/statistics/statistic.py": "tests/server/statistics/test_updates.py",
    "server/statistics/transitions.py": "tests/server/statistics/test_updates.py",
    "server/statistics/weighing.py": "tests/server/statistics/test_updates.py",
    # Parts of a page.
    "server/reporting/document.py": "tests/server/reporting/test_page.py",
    "server/reporting/frontier_page.py": "tests/simulations/test_frontier.py",
    "server/reporting/protection.py": "tests/server/reporting/test_release_page.py",
    "server/reporting/svg.py": "tests/server/reporting/test_charts.py",
    "server/reporting/parts_template.py": "tests/server/reporting/test_page.py",
    "server/reporting/release_template.py": "tests/server/reporting/test_release_page.py",
    "server/reporting/style.py": "tests/server/reporting/test_page.py",
    # Secure sums through messages.
    "client/session.py": "tests/system/test_secure_sums.py",
    "server/masked_sum.py": "tests/system/test_secure_sums.py",
    "shared/protocol/secure_sums.py": "tests/system/test_secure_sums.py",
    "simulations/engines/messages.py": "tests/system/test_secure_sums.py",
    # A federation of processes.
    **{
        f"client/node/{name}.py": "tests/system/test_deployment.py"
        for name in (
            "model_process",
            "overview",
            "own_client",
            "preflight",
            "runtime",
        )
    },
    "client/node/approval.py": "tests/client/node/test_worker.py",
    "client/node/cost.py": "tests/system/test_federation_of_nodes.py",
    **{
        f"server/{name}.py": "tests/system/test_deployment.py"
        for name in ("flower_commands", "preflight", "superlink_process")
    },
    "server/observer.py": "tests/server/test_rounds.py",
    "server/polling.py": "tests/server/test_membership.py",
    "server/provisioning/departures.py": "tests/client/node/test_leaving.py",
    "shared/bundle.py": "tests/shared/test_run_file.py",
    "shared/provisioning/leaving.py": "tests/client/node/test_leaving.py",
    "shared/protocol/refusals.py": "tests/shared/protocol/test_distribution.py",
    # Types, constants and what is seen from outside of a process alone.
    "shared/artifact.py": "tests/server/test_export.py",
    "shared/command_line/environment.py": "tests/system/test_flwr_run.py",
    "shared/command_line/output.py": "tests/system/test_command_line.py",
    "shared/command_line/interruption.py": "tests/system/test_interrupt_and_resume.py",
    "shared/errors.py": "tests/system/test_command_line.py",
    "shared/public_facts.py": "tests/server/test_public_facts.py",
    "shared/run_folder.py": "tests/simulations/test_simulate.py",
    "shared/versions.py": "tests/simulations/test_record.py",
    "shared/data/parquet.py": "tests/shared/data/test_typed_columns.py",
    "shared/model/families.py": "tests/shared/model/test_backbone_configs.py",
    "shared/model/frozen_weights.py": "tests/client/training/test_backbone_families.py",
    "shared/model/statistics.py": "tests/server/statistics/test_updates.py",
    # One accountant over several files, against the exact numbers; the plan that a configuration makes.
    "shared/privacy/calibration.py": "tests/shared/privacy/test_plan.py",
    "shared/privacy/events.py": "tests/shared/privacy/test_accounting.py",
    "shared/privacy/loss_distribution.py": "tests/shared/privacy/test_accounting.py",
    "shared/privacy/renyi.py": "tests/shared/privacy/test_accounting.py",
    # Simulations, as a whole and as a person sees them.
    "shared/audit/document.py": "tests/shared/audit/test_verification.py",
    "simulations/audits/display.py": "tests/simulations/audits/test_audit.py",
    "simulations/audits/local_steps.py": "tests/simulations/audits/test_twin.py",
    "simulations/audits/witness.py": "tests/simulations/audits/test_twin.py",
    "simulations/engines/copied_data.py": "tests/simulations/engines/test_held_out.py",
    "simulations/engines/twin.py": "tests/simulations/audits/test_twin.py",
    "simulations/assignment.py": "tests/simulations/test_population.py",
    "simulations/cli.py": "tests/system/test_command_line.py",
    "simulations/comparison/display.py": "tests/simulations/test_frontier.py",
    "simulations/comparison/runs.py": "tests/simulations/test_frontier.py",
    "simulations/data_display.py": "tests/system/test_data_commands.py",
    "simulations/engines/cohort.py": "tests/system/test_cohort_engine.py",
    "simulations/feasibility.py": "tests/shared/model/test_memory.py",
    "simulations/federation.py": "tests/system/test_flower_engine.py",
    "simulations/frontier_picture.py": "tests/simulations/test_frontier.py",
    "simulations/frontier_results.py": "tests/simulations/test_frontier.py",
    "simulations/frontier_run.py": "tests/simulations/test_frontier.py",
    "simulations/growing.py": "tests/system/test_continued_runs.py",
    "simulations/lifetime.py": "tests/system/test_continued_runs.py",
    "simulations/plan_display.py": "tests/simulations/test_privacy_plan.py",
    "simulations/plan_record.py": "tests/simulations/test_privacy_plan.py",
    "simulations/worlds/vocabularies.py": "tests/simulations/worlds/test_synthetic.py",  # a table of words
    "simulations/worlds/worlds.py": "tests/simulations/worlds/test_synthetic.py",
}


def _mirror(source: str) -> Path:
    path = Path(source)
    return ROOT / "tests" / path.parent / f"test_{path.stem}.py"


def _sources() -> list[str]:
    """Every file of the product; what only says what a package holds, or what it hands on, is none."""
    files = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
    return [path.relative_to(ROOT).as_posix() for path in files if path.name != "__init__.py"]


def test_each_source_file_has_its_test_file_or_an_exception_that_says_where_it_is_tested() -> None:
    untested = [
        source
        for source in _sources()
        if not _mirror(source).exists() and source not in ELSEWHERE and not source.startswith(tuple(GROUPS))
    ]
    assert not untested, "write a test file at the same place below tests/"


@pytest.mark.parametrize("source", ELSEWHERE)
def test_an_exception_is_a_file_that_has_no_test_file_of_its_own_and_is_tested_in_one_that_exists(source: str) -> None:
    assert (ROOT / source).exists()
    assert not _mirror(source).exists(), "take it off the list"
    assert (ROOT / ELSEWHERE[source]).exists()


@pytest.mark.parametrize("group", GROUPS)
def test_a_group_of_exceptions_has_files_and_is_tested_in_a_place_that_exists(group: str) -> None:
    assert any(source.startswith(group) for source in _sources())
    assert (ROOT / GROUPS[group]).exists()
