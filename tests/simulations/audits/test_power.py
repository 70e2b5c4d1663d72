"""How often an audit is wrong: many audits of correct runs and of runs with a planted bug; minutes, hence soak tests."""

from __future__ import annotations

import pytest

from tests.planted_bugs import BUGS, SILOS, AuditedRuns, Plant, noised

CORRECT, BROKEN = 100, 20
WEAKER: dict[str, Plant] = {"four fifths of the noise": noised(lambda rows, stddev: (rows, 0.8 * stddev))}


@pytest.fixture(scope="module")
def audited(tmp_path_factory: pytest.TempPathFactory, tiny_bert: str) -> AuditedRuns:
    """Audits a run on 150 users once more, with noise and coins of its own."""
    return AuditedRuns(tmp_path_factory.mktemp("power"), tiny_bert)


@pytest.mark.soak
def test_correct_runs_seldom_fail(audited: AuditedRuns) -> None:
    """Null: a correct run, 100 audits at 5 %: P[Bin(100, .05) > 12] = 0.1 %."""
    failed = [audited(SILOS).results.verdict for _ in range(CORRECT)].count("failed")
    print(f"{failed} of {CORRECT} correct runs failed")
    assert failed <= 12


@pytest.mark.soak
@pytest.mark.parametrize("bug", [*BUGS, *WEAKER])
def test_a_planted_bug_is_found_in_nearly_every_audit_without_knowing_which_it_is(
    bug: str, audited: AuditedRuns, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In at least 19 of 20 audits; a power of .8 would do that one time in fourteen."""
    kind, plant = BUGS[bug][:2] if bug in BUGS else (SILOS, WEAKER[bug])
    plant(monkeypatch)
    found = [audited(kind).results.verdict for _ in range(BROKEN)].count("failed")
    print(f"{bug}: found in {found} of {BROKEN} audits")
    assert found >= BROKEN - 1
