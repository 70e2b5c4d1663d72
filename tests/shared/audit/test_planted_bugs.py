"""The table of bugs: its powers are the shares that simulated readings of a bug fail."""

from __future__ import annotations

import numpy as np
import pytest

from shared.audit.document import CanaryClass, Evidence, Independence, PlantedBug, ReleaseRead, SamplingRead
from shared.audit.judgment import design_of, results_of
from shared.audit.planted_bugs import planted_bugs
from simulations.audits.views import independence
from tests.audits import evidence_about, statement_about

STATEMENT = statement_about()
LEVEL, REPEATED = 1e-3, 100


def _release(*, samples: int = 60, noise: float = 1.0, factor: float = 1.0, error: float = 0.12) -> ReleaseRead:
    kind = CanaryClass(factor=factor, error=error, norm=1.0)
    return ReleaseRead(
        view="sums", purpose="popularity", round_number=0, values=100, noise_stddev=2.0, samples=samples,
        total=samples * noise**2, short=kind, long=kind,
    )  # fmt: skip


def _evidence(*releases: ReleaseRead, products: int = 12) -> Evidence:
    independence = (Independence(view="sums", between="releases of one size", products=products, z=0.0),) if releases else ()
    return Evidence(attacks=(), releases=releases, independence=independence, beside=(), uncharged=())


def _row(evidence: Evidence, bug: str) -> PlantedBug:
    (row,) = [row for row in planted_bugs(evidence, (), level=LEVEL) if row.bug == bug]
    return row


def _failed(evidence: Evidence) -> bool:
    """By the judgment itself; the bug is not told to it. Its level for so many probes is above LEVEL."""
    return any(
        probe.p_value is not None and probe.p_value < LEVEL for probe in results_of(statement_about(), evidence).probes
    )


def test_the_power_against_noise_that_is_too_small_is_the_share_of_simulated_releases_that_fail() -> None:
    """100 releases each: standard errors of at most 5 %."""
    rng = np.random.default_rng(0)
    for bug, ratio in (("half of the noise", 0.5), ("nine tenths of the noise", 0.9)):
        power = _row(_evidence(_release(samples=20)), bug).least
        totals = ratio**2 * rng.chisquare(20, size=REPEATED)
        failed = [_failed(_evidence(_release(samples=20).model_copy(update={"total": float(one)}))) for one in totals]
        assert power == pytest.approx(np.mean(failed), abs=0.15)
    assert _row(_evidence(_release()), "no noise").least == 1.0


def test_the_power_against_a_user_who_counts_more_is_the_share_of_simulated_releases_that_fail() -> None:
    rng = np.random.default_rng(1)
    for bug, factor in (("users counted twice", 2.0), ("a weighted mean, weights up to 1.4", 1.4)):
        power = _row(_evidence(_release(error=0.3)), bug).least
        factors = factor + 0.3 * rng.normal(size=REPEATED)
        failed = [_failed(_evidence(_release(error=0.3, factor=float(one)))) for one in factors]
        # Two classes of canaries read the same here, as if only one of them were.
        assert power == pytest.approx(np.mean(failed), abs=0.15)


def test_the_same_noise_each_time_is_found_or_not_by_the_number_of_readings_alone() -> None:
    rng = np.random.default_rng(2)
    for readings, power in ((10, 0.0), (11, 1.0)):
        noise = rng.normal(size=readings)
        products, z = independence([(noise, noise)])
        assert products == readings
        reused = Independence(view="sums", between="releases of one size", products=products, z=z)
        evidence = _evidence(_release()).model_copy(update={"independence": (reused,)})
        assert _failed(evidence) == bool(power) and _row(evidence, "the same noise each time").least == power


def test_least_and_most_are_over_releases_and_a_bug_that_nothing_was_read_of_has_no_power() -> None:
    row = _row(_evidence(_release(samples=20), _release(samples=500)), "nine tenths of the noise")
    assert row.least is not None and row.most is not None and row.least < 0.1 < 0.5 < row.most
    empty = {row.bug: (row.least, row.most) for row in planted_bugs(_evidence(), (), level=LEVEL)}
    assert set(empty.values()) == {(None, None)} and len(empty) == 9


def test_the_table_of_an_audit_is_at_the_level_of_its_own_probes() -> None:
    sums = (*[-93.0] * 49, -95.0)
    read = SamplingRead(where="clients in rounds", users=943, rate=0.1, steps=1, noise_multiplier=0.0, sums=sums)
    evidence = evidence_about(STATEMENT, sampling=(read,))
    results = results_of(STATEMENT, evidence)
    assert results.planted == planted_bugs(evidence, (design_of(read),), level=results.probe_level)
    power = {row.bug: row.least for row in results.planted}
    assert power["cohorts of a fixed size accounted as independent coins"] == pytest.approx(1.0)
