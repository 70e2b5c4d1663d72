"""Every known trap of private federated training has mutants: programs that fall into it, each with a test that must fail.

A trap is a mistake that ordinary tests do not notice: the result still looks private. `make mutants` runs all mutants, the
test command a drawn tenth. Here is checked, in a second, that each still applies to the program as it is: a line that was
rewritten needs its mutants thought over.
"""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.mutants.mutant import patches_of, read_mutants

ROOT = Path(__file__).parent.parent.parent
MUTANTS = {mutant.name: mutant for mutant in read_mutants()}

TRAPS = {
    "an empty Poisson batch crashes, or shrinks the noise": ("an empty batch gets no noise",),
    "rows are clipped where users should be": ("rows that are not users are taken for users",),
    "users are coupled by in-batch negatives": ("a user's loss is divided by the positions of the whole batch",),
    "norms in bfloat16 overshoot the bound": (
        "norms are taken in bfloat16",
        "products are taken in the precision of the forward pass",
    ),
    "DoRA's magnitudes bypass the hooks": ("DoRA's magnitudes are trained beside the hooks",),
    "negatives drawn from other users": ("negatives depend on the batch",),
    "LoRA on an embedding, trainable tokens": ("an embedding's weights are trained unclipped",),
    "gradient checkpointing": (
        "checkpointed gradients lose the weights of each user's own",
        "Opacus' hooks record a pass that is run again",
    ),
    "a weight used twice bypasses the hooks": (
        "a layer that runs twice overwrites its gradient",
        "a weight's use outside its layer goes past clipping",
    ),
    "a tied weight bypasses the hooks": ("a tied weight is recorded once",),
    "the sampling rate is rounded": ("the sampling rate is rounded", "the number of users drawn is fixed"),
    "noise that can be predicted": (
        "a secret source uses one key",
        "noise of a private run comes from the seed",
        "the server's noise comes from the seed in a private run",
    ),
    "a fork repeats the noise": ("a secret source is seeded once a process",),
    "the closed form is another gradient": (
        "the gradient of a user is a mean over positions",
        "the gradient of a layer is off by a thousandth",
    ),
    "clipping misses a shape, zero, NaN or infinity": (
        "a user's gradient is not clipped",
        "each tensor of a gradient is clipped by itself",
        "a gradient that is not finite keeps its factor",
    ),
    "a whole update escapes the bound": ("a long update is not scaled down", "an update that is not finite stays"),
    "a faulty user raises, and others see it": ("a fault under privacy is told to the server",),
    "a client chooses its weight": ("an update weighs as much as it is long",),
    "rounding to integers exceeds the sensitivity": ("rounding may exceed the sensitivity",),
    "shares of noise do not add up": (
        "a share of the noise is half of what it should be",
        "a share of the noise is of all clients",
    ),
    "correlated noise is saved and replayed": ("correlated noise can be saved",),
    "participations closer than the bands": (
        "under DP-FTRL a user takes part in every step",
        "under DP-FTRL a client's turn comes a round early",
        "a client's separation is not asked for",
    ),
    "fixed-size cohorts accounted as Poisson": ("samples of fixed size are accounted as Poisson",),
    "replace-one without the doubled sensitivity": (
        "replacing one unit moves a sum by one contribution",
        "replacing a unit of Skellam noise moves one contribution",
    ),
    "a capped cohort accounted as Poisson": ("a capped sample is accounted as plain sampling",),
    "a ledger that under-counts after a crash": (
        "a reservation is not synced to the disk",
        "events in flight do not count",
    ),
    "data is read before the budget is reserved": ("data is read before the budget is reserved",),
    "a plan that promises less than the node's own": (
        "the plan of a server is not checked",
        "a plan with a tenth less noise is served",
    ),
    "a reply that says more than the allow-list": ("a reply carries more than the allow-list",),
    "an exact number in what is released": ("the release report holds exact metrics",),
}

# What privacy rests on: each of these files has at least three mutants.
PRIVACY_FILES = (
    *sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "shared" / "privacy").glob("[!_]*.py")),
    *sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "client" / "ledger").glob("[!_]*.py")),
    *("shared/secagg/encoding.py", "shared/randomness.py", "shared/model/state.py"),
    *(
        f"shared/secagg/{name}.py"
        for name in ("parameters", "context", "keys", "masks", "secret_sharing", "merkle", "messages")
    ),
    *("client/masking.py", "server/unmasking.py"),
    *(f"client/{name}.py" for name in ("admission", "answering", "batch", "contribution")),
    *(f"client/training/{name}.py" for name in ("clipping", "dp_sgd", "gradients", "per_example")),
    *(f"client/statistics/{name}.py" for name in ("popularity", "pairs", "transitions", "blending", "selection", "metrics")),
    *(f"server/{name}.py" for name in ("noise", "releases", "aggregation", "cohort", "rounds", "event_log", "checkpoints")),
    "server/reporting/release_report.py",
)


@pytest.mark.parametrize("trap", TRAPS)
def test_every_trap_has_mutants(trap: str) -> None:
    missing = [name for name in TRAPS[trap] if name not in MUTANTS]
    assert not missing


@pytest.mark.parametrize("file", PRIVACY_FILES)
def test_every_file_that_privacy_rests_on_has_at_least_three_mutants(file: str) -> None:
    assert Counter(mutant.file for mutant in MUTANTS.values())[file] >= 3


def test_every_mutant_applies_to_the_program_and_names_tests_that_exist() -> None:
    assert len(patches_of(list(MUTANTS.values()), ROOT)) >= 60


# The runner itself, on a program of one line.

_TABLE = """
["{name}"]
file = "half.py"
old = '''{old}'''
new = '''{new}'''
tests = ["test_half.py::{named}"]
"""
_WRONG = {"name": "half is a third", "old": "x / 2", "new": "x / 3"}
_EQUAL = {"name": "half is half", "old": "x / 2", "new": "0.5 * x"}
_STALE = {"name": "half is a quarter", "old": "x / 4", "new": "x / 8"}
_NO_MODULE = {"name": "half is nowhere", "old": "    return x / 2", "new": "    return x / 3\n\nassert half(4) == 2"}
_MISTYPED = {"name": "half is a name", "old": "x / 2", "new": "y / 2"}


def _run(
    folder: Path, *mutants: dict[str, str], test: str = "half(4) == 2", before: str = "", options: tuple[str, ...] = ()
) -> list[str]:
    """The exit status, then the lines that were printed."""
    (folder / "tables").mkdir()
    (folder / "tables" / "half.toml").write_text(
        "".join(_TABLE.format(**{"named": "test_half", **mutant}) for mutant in mutants), encoding="utf-8"
    )
    root = folder / "root"
    root.mkdir()
    (root / "half.py").write_text("def half(x):\n    return x / 2\n", encoding="utf-8")
    source = f"import pytest\nfrom half import half\n\n{before}\n\ndef test_half():\n    assert {test}\n"
    (root / "test_half.py").write_text(source, encoding="utf-8")
    command = [sys.executable, "-m", "tests.mutants.run", "--quick", "--workers", "1", "--root", str(root)]
    done = subprocess.run(
        [*command, "--tables", str(folder / "tables"), *options], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert sorted(path.name for path in root.iterdir()) == ["half.py", "test_half.py"]
    assert (root / "half.py").read_text(encoding="utf-8").endswith("return x / 2\n")
    return [str(done.returncode), *done.stdout.splitlines(), *done.stderr.splitlines()]


def test_mutants_that_tests_notice_end_well_and_one_that_they_do_not_notice_is_named(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    status, *lines = _run(tmp_path / "one", _WRONG)
    assert status == "0", lines
    assert "1 of 1 mutants noticed" in lines[-1]
    status, *lines = _run(tmp_path / "two", _EQUAL, _WRONG)
    assert status == "1", lines
    assert any(line.startswith("SURVIVED") and "half is half" in line for line in lines)
    assert any(line.startswith("red") and "half is a third" in line and "test_half" in line for line in lines)


def test_a_mutant_that_no_longer_applies_is_an_error_that_names_it_and_nothing_runs(tmp_path: Path) -> None:
    status, *lines = _run(tmp_path, _WRONG, _STALE)
    assert status == "2"
    assert lines == [
        "Mutant 'half is a quarter': Expected its old text once in half.py, found it 0 times. Adapt it to the code."
    ]


def test_a_mutant_that_names_a_parameter_of_a_test_is_an_error_because_nothing_says_whether_there_is_one(
    tmp_path: Path,
) -> None:
    status, *lines = _run(tmp_path, {**_WRONG, "named": "test_half[query-2]"})
    assert status == "2"
    assert lines == [
        "Mutant 'half is a third': Expected test_half.py::test_half[query-2] to exist, found none. Name the test that must "
        "fail, without parameters."
    ]


def test_a_mutant_that_is_no_program_is_not_taken_for_one_that_was_noticed(tmp_path: Path) -> None:
    status, *lines = _run(tmp_path, _MISTYPED)
    assert status == "1"
    assert any(line.startswith("mistyped (NameError)") for line in lines)


def test_a_mutant_whose_tests_are_not_collected_is_not_taken_for_one_that_was_noticed(tmp_path: Path) -> None:
    status, *lines = _run(tmp_path, _NO_MODULE)
    assert status == "1"
    assert any(line.startswith("not collected (AssertionError)") for line in lines)
    assert lines[-1].startswith("0 of 1 mutants noticed")


def test_a_mutant_whose_tests_are_not_set_up_is_not_taken_for_one_that_was_noticed(tmp_path: Path) -> None:
    status, *lines = _run(tmp_path, _WRONG, before="@pytest.fixture(autouse=True)\ndef four():\n    assert half(4) == 2")
    assert status == "1"
    assert any(line.startswith("not set up (AssertionError)") for line in lines)
    assert lines[-1].startswith("0 of 1 mutants noticed")


def test_a_mutant_whose_tests_are_skipped_without_a_patch_is_an_error(tmp_path: Path) -> None:
    other = "def test_other():\n    pass\n\n@pytest.mark.skip"
    status, *lines = _run(tmp_path, _WRONG, before=other)
    assert status == "1"
    assert lines[-1].startswith("Expected the tests to pass without a patch, got: ")


def test_right_after_all_tests_there_is_no_control_and_a_mutant_whose_tests_are_skipped_survives(tmp_path: Path) -> None:
    other = "def test_other():\n    pass\n\n@pytest.mark.skip"
    status, *lines = _run(tmp_path, _WRONG, before=other, options=("--after-tests",))
    assert status == "1"
    assert not any("without a patch" in line for line in lines)
    assert lines[-1].startswith("0 of 1 mutants noticed")


def test_tests_that_fail_without_a_patch_notice_nothing(tmp_path: Path) -> None:
    status, *lines = _run(tmp_path, _WRONG, test="half(4) == 3")
    assert status == "1"
    assert lines[-1] == "Expected the tests to pass without a patch, got: red test_half.py::test_half. Mend that first."


def test_a_share_of_the_mutants_is_drawn_by_the_seed_that_is_printed(tmp_path: Path) -> None:
    status, *lines = _run(tmp_path, _WRONG, {**_WRONG, "name": "again"}, options=("--share", "0.5", "--seed", "7"))
    assert status == "0", lines
    assert lines[0] == "==> 1 of 2 mutants, drawn with --share 0.5 --seed 7"
